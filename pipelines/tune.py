"""`mpc tune`: a search over config values; every trial is a training of its own, on Ray Train where it has workers.

    <tune.output>/trials/0007/            a trial: trial.json, and the output of each stage
    <tune.output>/datasets/<digest>/      datasets of `build` keys in the space
    <tune.output>/trials.csv, best.yaml   the table, and the config of the best trial
    <tune.output>/*.png                   what pipelines/search/report.py draws
    <tune.output>/ray/                    Ray Tune's experiment, for ExperimentAnalysis and TensorBoard

`tuner(config)` is the same search as a `ray.tune.Tuner`, whose `fit()` returns a `ResultGrid`.

It may be killed at any moment: the same command goes on with it (pipelines/search/ledger.py).
"""

import itertools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ray.tune import ResultGrid, Tuner

from mpc_model.errors import DataError, InfrastructureError, UserError
from mpc_model.imaging.views import VIEW_POLICIES
from mpc_model.nn.heads import HEADS
from pipelines import adapt, build, finetune, pretrain, reuse
from pipelines.artifacts import record as records
from pipelines.artifacts.model_directory import model_digest
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.config.search import Range, TuneConfig
from pipelines.dataset import integrity
from pipelines.dataset.manifest import Manifest
from pipelines.ingest import listing
from pipelines.runtime import cluster, console, lease, signals, storage, uris
from pipelines.runtime.canonical import digest
from pipelines.search import algorithms, ray_backend, report, space
from pipelines.search.driver import Search
from pipelines.search.trial import StageFunction, config_of, whole_epochs
from pipelines.tracking import client, runs
from pipelines.training.launch import check, check_head

_OF_CONTRAST = (
    *("embedding", "similarity", "prototypes", "prototype_decay", "temperature", "crop_candidates"),
    *("contrast_weight", "divergence_weight", "contrast_from", "ramp"),
)
_UNUSED: Sequence[tuple[Sequence[str], str, Sequence[str]]] = (
    (("finetune.pclmix",), "finetune.supervision", ("mask", "partial")),
    (("finetune.loss", "finetune.alpha", "finetune.gamma"), "finetune.supervision", ("partial", "pclmix")),
    (("finetune.alpha", "finetune.gamma"), "finetune.loss", ("cross_entropy",)),
    ([f"adapt.{name}" for name in _OF_CONTRAST], "adapt.method", ("none", "self_training")),
    (("adapt.teacher_decay", "adapt.confidence", "adapt.mix"), "adapt.method", ("none",)),
)
"""Keys, the key that chooses by name what may use them, and the names that do not."""


def stage_functions(config: Config) -> Mapping[str, StageFunction]:
    """How a trial of this config trains its stages."""
    return {
        "pretrain": StageFunction(pretrain.pretrain, pretrain.Pretraining.monitor),
        "finetune": StageFunction(finetune.finetune, finetune.stage_of(config).monitor),
        "adapt": StageFunction(adapt.adapt, adapt.stage_of(config).monitor),
    }


def tune(config: Config) -> dict[str, Any]:
    """Search `tune.space` and return the best trial's number, parameters and metric, and where the table is.

    Finished trials are never repeated, unfinished ones go on from their checkpoints; with a larger budget a finished
    search goes on, too. Raises UserError where the space and the config do not go together.
    """
    return _search(tuner(config)).results


def tuner(config: Config) -> "SearchTuner":
    """A search as a `ray.tune.Tuner`. UserError where the space and the config do not go together.

    The config is the whole of it: trainable, search space, TuneConfig and RunConfig follow from it.
    """
    _check(config)
    return SearchTuner(config)


class SearchTuner(Tuner):
    """A `ray.tune.Tuner` that does what `mpc tune` does. Nothing is written before `fit`."""

    def __init__(self, config: Config, functions: Mapping[str, StageFunction] | None = None) -> None:
        """`functions` train the stages of a trial, by their names."""
        self.config, self.functions = config, functions or stage_functions(config)
        self._grid: ResultGrid | None = None

    def fit(self) -> ResultGrid:
        """Search, or go on with a search that was begun; all trials of the search, those of earlier calls included.

        Raises what `mpc tune` would end with, KeyboardInterrupt where it was interrupted.
        """
        _search(self)
        return self.get_results()

    def get_results(self) -> ResultGrid:
        """The trials of `fit`; before it, those that Ray Tune has stored in the output, by an earlier call.

        What is stored holds pickles: do not read the output of a search that others may write to.
        """
        return self._grid or ray_backend.stored_results(str(self.config.tune.output))


def _search(tuner: SearchTuner) -> records.Record:
    """Run a search to its end, and return its record."""
    config = tuner.config
    output = str(config.tune.output)
    with lease.held(output, "tune") as output_lease:
        if not storage.exists(uris.join(output, records.RECORD)):  # check what a search needs before its record is made
            records.check_free(output, "tune")
            client.client(config)
            ray_backend.trial_capacity(config)
        record = records.claim(output, "tune", reuse.search_identity(config), config.dump())
        budget = reuse.search_budget(config)
        if record.finished and record.results.get("budget") == budget:
            reuse.say_finished_search(output)
            return record
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
            search = Search(config, run_id, datasets, record, output_lease)
            tuner._grid = ray_backend.run(search, datasets, tuner.functions)
            results = report.write(config, search.trials, lambda trial: config_of(config, trial, datasets))
        except BaseException as error:
            with suppress(InfrastructureError):  # the failure itself must reach the user
                runs.finish(config, run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        _report_results(config, run_id, results, len(search.trials))
        record.finish(**results, budget=budget)
    return record


def _report_results(config: Config, run_id: str, results: report.SearchResults, count: int) -> None:
    """Send MLflow the report and the best metric, and end the search's run."""
    output = str(config.tune.output)
    try:
        runs.log_files(config, run_id, output, [*results["pictures"], "trials.csv", "best.yaml", "report.html"])
        name = f"best_{results['best']['metric']}"
        if runs.last_steps(config, run_id).get(name, -1) < count:  # a larger budget adds a point
            best = results["best"]["figure"]
            assert best is not None  # a ranked trial has a metric
            runs.log(config, run_id, {name: best, "trials": count}, count)
        runs.finish(config, run_id)
    except InfrastructureError as error:
        console.warn(f"tune: {error}; all is done, but its run there is not ended")


def _check(config: Config) -> None:
    """Refuse what would fail in every trial, or in some."""
    settings = config.tune
    if not settings.space:
        raise UserError(
            "tune.space is empty; name what to search, for example {pretrain.temperature: {least: 0.03, most: 0.5}}"
        )
    for key, values in settings.space.items():
        _check_key(settings, key, values)
        _check_used(config, key)
    algorithms.make_scheduler(config, whole_epochs(config))
    space.check(settings)
    size = space.grid_size(settings)
    if size and settings.trials and settings.trials < size:
        console.warn(f"tune: the grid has {size} points, and tune.trials is {settings.trials}: the rest is left out")
    builds = any(key.startswith("build.") for key in settings.space)
    manifest = None if builds else Manifest.read(str(config.train.dataset))
    if manifest:
        integrity.check(str(config.train.dataset), manifest, ("train", "validation"))
    checked = set[str]()
    _check_config(config, manifest, checked)
    for override in space.boundary_overrides(settings):
        try:
            _check_config(recipe.revised(config, override), manifest, checked)
        except (UserError, DataError) as error:
            raise UserError(f"tune.space: {error}") from None
    if config.train.async_validation:
        raise UserError("train.async_validation tells an epoch's metric an epoch late; turn it off for a search")


def _check_key(settings: TuneConfig, key: str, values: Range | list[Any]) -> None:
    """Refuse what cannot be searched, whatever the values."""
    section, _, name = key.partition(".")
    if section not in ("build", "model", "train", "pretrain", "finetune", "adapt"):
        raise UserError(
            f"tune.space: {key} is nothing a trial trains with; search model, train, pretrain, finetune, adapt, build"
        )
    if section == "pretrain" and settings.stages == "finetune":
        raise UserError(f"tune.space: {key} is not used with tune.stages=finetune; use both")
    if (settings.stages == "adapt") != (section == "adapt") and section != "train":
        raise UserError(
            f"tune.space: {key} is not used with tune.stages={settings.stages}; a search of adapt goes with"
            " stages=adapt, and with keys of adapt and train alone"
        )
    if not name:
        raise UserError(f"tune.space: {key} is a whole section; name its keys, such as {key}.<key>")
    if isinstance(values, list) and any(isinstance(value, dict) for value in values):
        raise UserError(f"tune.space: {key} is given mappings; name the keys below it, each with its values")
    if section == "build" and not isinstance(values, list):
        raise UserError(f"tune.space: {key} makes a dataset for every value; give a list of values")
    if section == "finetune" and settings.stages == "pretrain":
        raise UserError(f"tune.space: {key} is not used with tune.stages=pretrain; use both")
    if name == "epochs" and not algorithms.is_fifo(settings):
        raise UserError(
            f"tune.space: {key} cannot be searched with early stopping; use tune.algorithm=random, or"
            " tune.scheduler=fifo"
        )
    if name in ("output", "encoder", "dataset") or key in ("adapt.start", "adapt.target"):
        raise UserError(f"tune.space: {key} is set by the search itself")
    if key == "adapt.validate_on":
        raise UserError(f"tune.space: {key} decides what trials are measured on; set it once, for all trials")
    if section == "train" and name in reuse.NOT_IDENTITY:
        raise UserError(f"tune.space: {key} changes nothing that is learnt; set it once, for all trials")


def _check_used(config: Config, key: str) -> None:
    """Refuse a key that no trial would look at: its values would be compared by chance."""
    for unused, chooser, names in _UNUSED:
        section, _, name = chooser.partition(".")
        values = config.tune.space.get(chooser, [getattr(getattr(config, section), name)])
        if not isinstance(values, list) or not all(one in names for one in values):
            continue
        if any(key == one or key.startswith(f"{one}.") for one in unused):
            raise UserError(
                f"tune.space: {key} changes nothing where {chooser} is {' or '.join(values)}; leave it out, or choose"
                f" another {chooser}"
            )


def _check_config(config: Config, manifest: Manifest | None, checked: set[str]) -> None:
    """What every trial checks before it trains. `manifest` is that of its dataset, None where it is yet to be built.

    Networks are made or loaded, and sources listed, once each: `checked` holds those that were.
    """
    HEADS.require(config.model.head)
    if config.tune.stages == "adapt":
        assert manifest  # no key of build is searched with it
        check(config, manifest)
        adapt.Adapting.check(config, manifest)
        if "start" not in checked:  # no key of the space changes it, nor the model
            adapt.Adapting.load_start(config)
            checked.add("start")
        return
    if manifest:
        check(config, manifest)
    else:
        VIEW_POLICIES.require(config.build.views.policy)
        sources = digest([source.model_dump(mode="json") for source in config.build.sources])
        if sources not in checked:
            listing.list_all(config.build, config.seed)
            checked.add(sources)
    if config.tune.stages == "finetune":
        _check_finetune(config, manifest, checked)
        return
    if config.finetune.start != "encoder":
        raise UserError(
            f"finetune.start is {config.finetune.start}, but a trial starts from its own stage 1; use encoder, or"
            " tune.stages=finetune, which searches stage 2 alone"
        )
    pretrain.Pretraining.check(config, manifest)
    if config.tune.stages == "both":
        finetune.Finetuning.check(config, manifest)
        # The encoder to start from is yet to be trained.
        fresh = recipe.revised(config, "finetune.start=scratch", "finetune.unfreeze=all", "finetune.cache=null")
        _check_supervision(fresh, manifest, checked)
    network = f"{config.model.model_dump_json()} {config.pretrain.initial}"
    if network not in checked:
        check_head(config, pretrain.Pretraining(config).localizer)
        checked.add(network)


def _check_finetune(config: Config, manifest: Manifest | None, checked: set[str]) -> None:
    """What a trial of stage 2 alone checks before it trains."""
    settings = config.finetune
    if settings.start != "scratch":
        model_digest(str(settings.encoder))  # raises where there is none
    finetune.stage_of(config).check(config, manifest)
    _check_supervision(config, manifest, checked)


def _check_supervision(config: Config, manifest: Manifest | None, checked: set[str]) -> None:
    """What stage 2 refuses of a network and its settings when it makes them."""
    settings = config.finetune
    made_of = (settings.start, settings.supervision, settings.pclmix.identity(), settings.part_weights.identity())
    network = digest([config.model.model_dump(mode="json"), *made_of])
    if manifest and network not in checked:  # the names of classes are the dataset's
        finetune.stage_of(config)(config)
        checked.add(network)


def _datasets(config: Config) -> dict[str, str]:
    """Build a dataset for every combination of `build` keys; their locations by the overrides that made them."""
    keys = [key for key in config.tune.space if key.startswith("build.")]
    if not keys:
        return {}
    locations = {}
    for values in itertools.product(*(config.tune.space[key] for key in keys)):  # _check refuses ranges
        overrides = space.overrides(dict(zip(keys, values, strict=True)))
        location = uris.join(str(config.tune.output), "datasets", digest(overrides)[:12])
        console.say(f"tune: the dataset with {', '.join(overrides)}")
        build.build(recipe.revised(config, *overrides, *space.overrides({"build.output": location})))
        locations[" ".join(overrides)] = location
    return locations
