"""What `build` and `evaluate` made, as an MLflow run that is written when it is there: a failed one leaves none."""

from collections.abc import Callable
from typing import Any

from mpc_model.errors import InfrastructureError, UserError
from pipelines.config.root import Config
from pipelines.dataset import manifest
from pipelines.runtime import console, signals
from pipelines.tracking import runs


def run(config: Config, stage: Callable[[Config], Any]) -> Any:
    """Run a verb's function and record what it returns, unless this result was recorded before.

    The result is there, so an MLflow that is away, or no MLflow, is said and nothing more.
    """
    result = stage(config)
    verb = stage.__name__
    if verb in _TOLD:
        try:
            _record(config, verb, result)
        except (InfrastructureError, UserError) as error:
            console.say(f"{verb}: {error}; the result is not in MLflow")
    return result


def _record(config: Config, verb: str, result: dict[str, Any]) -> None:
    output = str(getattr(config, verb).output)
    dataset, metrics = _TOLD[verb](config, result)
    described = manifest.read(dataset)
    if runs.find(config, verb, output, dataset=described["fingerprint"]):
        return
    with signals.defer_interrupts():
        tags = {"mpc.output": output, "mpc.dataset": described["fingerprint"]}
        run_id = runs.start_run(config, verb, None, (dataset, described), tags=tags)
        runs.log(config, run_id, {f"{verb}/{key}": value for key, value in metrics.items()}, 0)
        runs.finish(config, run_id)


def _built(config: Config, result: dict[str, Any]) -> tuple[str, dict[str, float]]:
    splits = result["splits"].items()
    counts = {f"{name}_{key}": split[key] for name, split in splits for key in ("samples", "forged")}
    return str(config.build.output), counts


def _evaluated(config: Config, result: dict[str, Any]) -> tuple[str, dict[str, float]]:
    figures = {key: value for key, value in result["model"].items() if value is not None}
    return str(config.evaluate.dataset), figures


_TOLD = {"build": _built, "evaluate": _evaluated}
