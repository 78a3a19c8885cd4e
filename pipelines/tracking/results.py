"""What `build` and `evaluate` made, as an MLflow run that is written when it is there: a failed one leaves none."""

from contextlib import suppress
from typing import Any

from mpc_model.errors import InfrastructureError, UserError
from pipelines.commands import Command
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.runtime import console, signals, uris
from pipelines.tracking import runs


def record(config: Config, command: Command, result: Any) -> None:
    """Record the result of a command that has `metrics` as a run, unless this result was recorded before.

    The result itself is safe: where MLflow does not answer, this says so and returns.
    """
    sets = result.get("sets") if command.name == "evaluate" else None
    try:
        for name, of_set in sets.items() if sets else ():
            _record(_of_set(config, name, of_set), command, of_set)
        if not sets:
            _record(config, command, result)
    except (InfrastructureError, UserError) as error:
        console.warn(f"{command.name}: {error}; the result is not in MLflow")


def _record(config: Config, command: Command, result: Any) -> None:
    assert command.metrics
    verb, output = command.name, str(getattr(config, command.name).output)
    section, _, key = command.dataset.partition(".")
    dataset = str(getattr(getattr(config, section), key))
    manifest = Manifest.read(dataset)
    known = runs.find(config, verb, output, dataset=manifest.fingerprint)
    if known and runs.is_finished(config, known):
        return
    with signals.defer_interrupts():
        tags = {"mpc.output": output, "mpc.dataset": manifest.fingerprint}
        run_id = runs.start_run(config, verb, known, (dataset, manifest), name=_name(config, verb, result), tags=tags)
        try:
            runs.log_files(config, run_id, output, command.files)
            if not runs.last_steps(config, run_id):
                metrics = {f"{verb}/{name}": value for name, value in command.metrics(result).items()}
                runs.log(config, run_id, metrics, 0)
        except BaseException:
            with suppress(InfrastructureError):  # the failure itself must be said
                runs.finish(config, run_id, "FAILED")
            raise
        runs.finish(config, run_id)


def _of_set(config: Config, name: str, result: Any) -> Config:
    """The config of an evaluation of one of several sets."""
    output = uris.join(str(config.evaluate.output), "sets", name)
    update = {"dataset": result["dataset"], "split": result["split"], "output": output, "sets": {}}
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update=update)})


def _name(config: Config, verb: str, result: Any) -> str | None:
    """`evaluate coverage/test`, where the result says what its set is called."""
    return f"{verb} {result['name']}" if verb == "evaluate" and result.get("name") else None
