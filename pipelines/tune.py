"""`mpc tune`: a search over config values; every trial is a training of its own, on Ray Train where it has workers.

    <tune.output>/trials/0007/            a trial: trial.json, and the output of each stage
    <tune.output>/datasets/<digest>/      datasets of `build` keys in the space
    <tune.output>/trials.csv, best.yaml   the table, and the config of the best trial
    <tune.output>/*.png                   what pipelines/search/report.py draws

It may be killed at any moment: the same command goes on with it (pipelines/search/space.py).
"""

import itertools
from contextlib import suppress
from typing import Any

from mpc_model.errors import DataError, InfrastructureError, UserError
from mpc_model.imaging.views import VIEW_POLICIES
from mpc_model.nn.heads import HEADS
from pipelines import build, finetune, pretrain, reuse
from pipelines.artifacts import record as outputs
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.config.search import Range, TuneConfig
from pipelines.dataset.manifest import Manifest
from pipelines.ingest import listing
from pipelines.runtime import cluster, console, lease, signals, storage, uris
from pipelines.runtime.canonical import digest
from pipelines.search import ray_backend, report, space
from pipelines.search import trial as trials
from pipelines.tracking import client, runs
from pipelines.training.launch import check

STAGE_FUNCTIONS = {
    "pretrain": trials.StageFunction(pretrain.pretrain, pretrain.Pretraining.monitor),
    "finetune": trials.StageFunction(finetune.finetune, finetune.Finetuning.monitor),
}


def tune(config: Config) -> dict[str, Any]:
    """Search `tune.space` and return the best trial's number, parameters and figure, and where the table is.

    Finished trials are never repeated, unfinished ones go on from their checkpoints; with a larger budget a finished
    search goes on, too. Raises UserError where the space and the config do not go together.
    """
    output = str(config.tune.output)
    _check(config)
    with lease.held(output, "tune") as held:
        if not storage.exists(uris.join(output, outputs.RECORD)):  # what a new search needs, before it is one
            outputs.check_free(output, "tune")
            client.client(config)
            ray_backend.room_for(config)
        record = outputs.claim(output, "tune", reuse.search_identity(config), config.dump())
        budget = reuse.search_budget(config)
        if record.finished and record.results.get("budget") == budget:
            reuse.say_reused("tune", "search", output)
            return record.results
        if record.resumed or record.finished:
            console.say(f"tune: a search is at {output} already; going on with it")
        cluster.connect()
        with signals.defer_interrupts():
            run_id = runs.start_run(config, "tune", record.results.get("run_id"))
            record.results["run_id"], record.finished = run_id, False
            record.save()
        try:
            with runs.below(run_id):
                datasets = _datasets(config)
            state = ray_backend.Search(config, run_id, datasets, STAGE_FUNCTIONS, record, held)
            state.run()
            results = report.write(config, state.trials, lambda trial: trials.config_of(config, trial, datasets))
        except BaseException as error:
            with suppress(InfrastructureError):  # the failure itself is what has to be told
                runs.finish(config, run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        try:
            for name in results["pictures"]:
                runs.log_picture(config, run_id, name, storage.read_bytes(uris.join(output, name)))
            count = len(state.trials)
            if runs.last_steps(config, run_id).get("best_figure", -1) < count:  # a larger budget adds a point
                runs.log(config, run_id, {"best_figure": results["best"]["figure"], "trials": count}, count)
            runs.finish(config, run_id)
        except InfrastructureError as error:
            console.warn(f"tune: {error}; all is done, but its run there is not ended")
        record.finish(**results, budget=budget)
    return record.results


def _check(config: Config) -> None:
    """Refuse what every trial, or some, would fail of."""
    settings = config.tune
    if not settings.space:
        raise UserError(
            "tune.space is empty; name what to search, for example {pretrain.temperature: {least: 0.03, most: 0.5}}"
        )
    for key, values in settings.space.items():
        _check_key(settings, key, values)
    builds = any(key.startswith("build.") for key in settings.space)
    manifest = None if builds else Manifest.read(str(config.train.dataset))
    tried = set[str]()
    _try(config, manifest, tried)
    for override in space.corners(settings):
        try:
            _try(recipe.revised(config, override), manifest, tried)
        except (UserError, DataError) as error:
            raise UserError(f"tune.space: {error}") from None
    if config.finetune.start != "encoder":
        raise UserError(
            f"finetune.start is {config.finetune.start}, but a trial starts from its own stage 1; use encoder"
        )
    if config.train.async_validation:
        raise UserError("train.async_validation tells an epoch's figure an epoch late; turn it off for a search")


def _check_key(settings: TuneConfig, key: str, values: Range | list[Any]) -> None:
    """Refuse what cannot be searched, whatever the values."""
    section, _, name = key.partition(".")
    if section not in ("build", "model", "train", "pretrain", "finetune"):
        raise UserError(
            f"tune.space: {key} is nothing a trial trains with; search model, train, pretrain, finetune, build"
        )
    if not name:
        raise UserError(f"tune.space: {key} is a whole section; name its keys, such as {key}.<key>")
    if isinstance(values, list) and any(isinstance(value, dict) for value in values):
        raise UserError(f"tune.space: {key} is given mappings; name the keys below it, each with its values")
    if section == "build" and not isinstance(values, list):
        raise UserError(f"tune.space: {key} makes a dataset for every value; give a list of values")
    if section == "finetune" and settings.stages == "pretrain":
        raise UserError(f"tune.space: {key} plays no part with tune.stages=pretrain; use both")
    if name == "epochs" and settings.algorithm != "random":
        raise UserError(f"tune.space: {key} cannot be searched with early stopping; use tune.algorithm=random")
    if name in ("output", "encoder", "dataset"):
        raise UserError(f"tune.space: {key} is set by the search itself")
    if section == "train" and name in reuse.NOT_IDENTITY:
        raise UserError(f"tune.space: {key} changes nothing that is learnt; set it once, for all trials")


def _try(config: Config, manifest: Manifest | None, tried: set[str]) -> None:
    """What every trial does before it trains; `manifest` is that of its dataset, None where it is not built yet.

    Networks are made, and sources listed, once each: `tried` holds those that were.
    """
    HEADS.require(config.model.head)
    if manifest:
        check(config, manifest)
    else:
        VIEW_POLICIES.require(config.build.views.policy)
        sources = digest([one.model_dump(mode="json") for one in config.build.sources])
        if sources not in tried:
            listing.list_all(config.build, config.seed)
            tried.add(sources)
    pretrain.Pretraining.check(config, manifest)
    start = f"{config.model.backbone} {config.model.input_size} {config.pretrain.initial}"
    if start not in tried:
        pretrain.Pretraining(config)
        tried.add(start)


def _datasets(config: Config) -> dict[str, str]:
    """Build a dataset for every combination of `build` keys; locations by their overrides."""
    keys = [key for key in config.tune.space if key.startswith("build.")]
    if not keys:
        return {}
    found = {}
    for values in itertools.product(*(config.tune.space[key] for key in keys)):  # _check refuses ranges
        said = space.overrides(dict(zip(keys, values, strict=True)))
        place = uris.join(str(config.tune.output), "datasets", digest(said)[:12])
        console.say(f"tune: the dataset with {', '.join(said)}")
        build.build(recipe.revised(config, *said, *space.overrides({"build.output": place})))
        found[" ".join(said)] = place
    return found
