"""Whether the output of a command is finished already, and what makes two runs of a command the same one.

The decision needs the config, the output's record and the manifest of a dataset alone, so that a command whose output
is finished says so without torch, Ray or MLflow; nothing here may import them. `Command.call` asks before it imports
the command. The commands take what tells their outputs apart (`..._identity`) from here, too: there is one rule.
"""

from typing import Any, cast

from mpc_model.imaging.codecs import IMAGE_SUFFIXES
from pipelines.artifacts import search_table
from pipelines.artifacts.evaluation import EvaluationOfSets
from pipelines.artifacts.model_directory import is_model_directory, model_digest
from pipelines.artifacts.record import Record, finished
from pipelines.config import renamed
from pipelines.config.model_registry import EvaluateConfig
from pipelines.config.root import Config, PredictConfig
from pipelines.config.training import WORKER_KEYS
from pipelines.dataset import listing_file
from pipelines.dataset.manifest import Manifest
from pipelines.inference import evaluation_table
from pipelines.runtime import canonical, console, layout, selection, storage, uris
from pipelines.runtime.stamp import Stamp

_NO_STAMP = Stamp(0, 0)

NOT_IDENTITY = {
    "dataset",
    "workers",
    "cpus_per_worker",
    "gpus_per_worker",
    "accelerator",
    "loader_threads",
    "checkpoint_every",
    "max_failures",
    "compile",
    "cuda_graph",
    "pictures_every",
    *WORKER_KEYS,
}
"""Keys of `train` that may differ between a run and its continuation: they do not change what is learnt."""
LOCATIONS = {"adapt": {"start", "target"}}
"""Keys of a stage's section that are locations, besides those that all have: their digests count."""
_OF_HEAD = ("classes", "class_names", "head_settings")
"""Keys of `model` that are of the head, which stage 1 does not have."""
_THRESHOLD = 0.5
"""`ModelSpec.threshold` of a model in training; the class itself would import torch."""


def training_identity(config: Config, verb: str, manifest: Manifest) -> dict[str, Any]:
    """What tells one run of a training stage from another."""
    settings, model = getattr(config, verb), config.model
    identity = {
        "seed": config.seed,
        "dataset": manifest.fingerprint,
        "model": model.identity(_OF_HEAD if verb == "pretrain" else [])
        | {"head": None if verb == "pretrain" else model.head, "threshold": _THRESHOLD},
        "train": config.train.identity(NOT_IDENTITY),
        verb: settings.identity({"output", "encoder", "cache"} | LOCATIONS.get(verb, set()))
        | {"cached": bool(getattr(settings, "cache", None))},
    }
    if verb == "adapt":
        identity |= _inputs(config)
    if verb == "finetune" and config.finetune.start != "scratch":
        identity["encoder"] = model_digest(str(config.finetune.encoder))
    return renamed.as_stored(identity)


def start_of(config: Config, verb: str) -> str | None:
    """The model directory that a stage of training starts from; None where it needs none."""
    if verb == "adapt":
        return str(config.adapt.start)
    return str(config.finetune.encoder) if verb == "finetune" and config.finetune.start != "scratch" else None


def evaluation_identity(config: Config, manifest: Manifest) -> dict[str, Any]:
    """What tells one evaluation from another."""
    return _evaluation_of(config, manifest.fingerprint)


def _evaluation_of(config: Config, dataset: Any) -> dict[str, Any]:
    settings = config.evaluate
    return {
        "model": model_digest(str(settings.model)),
        "dataset": dataset,
        "split": settings.split,
        "robustness": sorted(settings.robustness),
        **_precision(settings.precision),
        **({"volumes": settings.volumes, "spacing": settings.spacing} if settings.volumes else {}),
        **_threshold(settings),
    }


def _threshold(settings: EvaluateConfig) -> dict[str, Any]:
    """How the threshold is chosen, where it is."""
    if settings.threshold == "keep":
        return {}
    at_most = [settings.threshold_false_alarms] if settings.threshold == "false_alarms" else []
    return {"threshold": [settings.threshold, *at_most]}


def set_config(config: Config, name: str) -> Config:
    """The config of the evaluation of one of `evaluate.sets`."""
    settings = config.evaluate
    output, one = str(settings.output), settings.sets[name]
    dataset = one.dataset or uris.join(output, "datasets", name)
    update = {"dataset": dataset, "split": one.split, "output": uris.join(output, "sets", name), "sets": {}}
    return config.model_copy(update={"evaluate": settings.model_copy(update=update)})


def sets_identity(config: Config) -> dict[str, Any]:
    """What tells one evaluation of several sets from another. Sources need not be built yet."""
    identities = {}
    for name, asked in config.evaluate.sets.items():
        one = set_config(config, name)
        dataset = asked.source.identity() if asked.source else Manifest.read(str(asked.dataset)).fingerprint
        identities[name] = _evaluation_of(one, dataset)
    return {"model": model_digest(str(config.evaluate.model)), "sets": identities}


def prediction_identity(digest: str, source: str) -> dict[str, Any]:
    """What tells the output of one model and input from another; `digest` is the model's."""
    return {"model": digest, "input": source}


def prediction_request(files: dict[str, Stamp], settings: PredictConfig, *version: object) -> str:
    """A digest of the images, with their stamps, of what is made of each, and of the names of a registered version,
    which its table holds."""
    others = settings.overlays, settings.tile, *_precision(settings.precision).values(), *version
    return canonical.digest_of_many(((name, files[name]) for name in sorted(files)), *others)


def _precision(precision: str) -> dict[str, str]:
    """The precision where it is not the default: outputs from before there was a choice stay what they are."""
    return {} if precision == "fp32" else {"precision": precision}


def images(source: str) -> selection.Selection:
    """The image at a location, those that a listing there names, or all images below it."""
    if storage.exists(source):
        if listing_file.is_listing(source):
            return _listed(source)
        return selection.Selection({source: storage.stamp(source)}, "")
    return selection.select(source, IMAGE_SUFFIXES)


def _listed(listing: str) -> selection.Selection:
    """The images that a listing names, sorted."""
    named = list(listing_file.locations(listing))
    files = {location: _local_stamp(location) for location in sorted(set(named))}
    repeated = len(named) - len(files)
    return selection.Selection(files, f"{repeated} rows of {listing} name an image once more" if repeated else "")


def _local_stamp(location: str) -> Stamp:
    """The stamp of a file; none of one that is not there. Objects in a store are not asked for theirs: a request for
    each would take hours."""
    return storage.stamp(location) if not uris.is_remote(location) and storage.exists(location) else _NO_STAMP


def search_identity(config: Config) -> dict[str, Any]:
    """What tells one search from another."""
    dataset: Any = (
        config.build.identity({"output"})
        if any(key.startswith("build.") for key in config.tune.space)
        else Manifest.read(str(config.train.dataset)).fingerprint
    )
    identity = {
        "seed": config.seed,
        "dataset": dataset,
        "model": config.model.identity(),
        "train": config.train.identity(NOT_IDENTITY),
        "pretrain": config.pretrain.identity({"output"}),
        "finetune": config.finetune.identity({"output", "encoder"}),
        **_stage_2_alone(config),
        **_adaptation(config),
        "tune": config.tune.model_dump(mode="json", include={"space", "stages", "algorithm", "grace", "reduction"})
        | config.tune.model_dump(mode="json", include={"scheduler", "searcher"}, exclude_none=True),
    }
    return renamed.as_stored(identity)


def _stage_2_alone(config: Config) -> dict[str, Any]:
    """What a search of stage 2 alone begins with."""
    if config.tune.stages != "finetune" or config.finetune.start == "scratch":
        return {}
    return {"encoder": model_digest(str(config.finetune.encoder))}


def _adaptation(config: Config) -> dict[str, Any]:
    """What a search of adaptations has besides; a search of the stages before has nothing of it."""
    if config.tune.stages != "adapt":
        return {}
    return {"adapt": config.adapt.identity({"output"} | LOCATIONS["adapt"]), **_inputs(config)}


def _inputs(config: Config) -> dict[str, Any]:
    """What an adaptation begins with, and what it adapts to."""
    return {
        "start": model_digest(str(config.adapt.start)),
        "target": Manifest.read(str(config.adapt.target)).fingerprint,
    }


def search_budget(config: Config) -> dict[str, Any]:
    """How far a search goes; a finished one goes on where it is larger."""
    return config.tune.model_dump(mode="json", include={"trials", "epochs", "hours", "keep"})


def say_reused(verb: str, what: str, output: str) -> None:
    """The one line about an output that is used again."""
    console.say(f"{verb}: reusing the finished {what} at {output}")


def finished_pretrain(config: Config) -> dict[str, Any] | None:
    """The results of a finished stage 1; None where there is something to do."""
    return _finished_training(config, "pretrain")


def finished_finetune(config: Config) -> dict[str, Any] | None:
    """The results of a finished stage 2; None where there is something to do."""
    return _finished_training(config, "finetune")


def finished_adapt(config: Config) -> dict[str, Any] | None:
    """The results of a finished adaptation; None where there is something to do."""
    return None if config.adapt.target is None else _finished_training(config, "adapt")


def _finished_training(config: Config, verb: str) -> dict[str, Any] | None:
    output = str(getattr(config, verb).output)
    dataset = str(config.train.dataset)
    record = finished(output, verb, lambda: training_identity(config, verb, Manifest.read(dataset)))
    if record is None or storage.exists(uris.join(output, "tracking", "unsent.json")):
        return None
    if not is_model_directory(layout.model_of(output)):
        return None
    say_reused(verb, "run", output)
    return record.results


def finished_evaluate(config: Config) -> dict[str, Any] | None:
    """The results of a finished evaluation; None where there is something to do. Its warnings are said again."""
    if config.evaluate.sets:
        return _finished_sets(config)
    output = str(config.evaluate.output)
    dataset = str(config.evaluate.dataset)
    record = finished(output, "evaluate", lambda: evaluation_identity(config, Manifest.read(dataset)))
    if record is None or not _has_page(output):
        return None
    say_evaluation(record.results, output)
    return record.results


def _finished_sets(config: Config) -> dict[str, Any] | None:
    """The results of a finished evaluation of datasets. Whether the files of a source are the same, a build finds
    out."""
    output, sets = str(config.evaluate.output), config.evaluate.sets
    if any(one.source for one in sets.values()):
        return None
    record = finished(output, "evaluate", lambda: sets_identity(config))
    if record is None or not all(map(_has_page, [output, *(uris.join(output, "sets", name) for name in sets)])):
        return None
    for name, metrics in record.results["sets"].items():
        say_evaluation(metrics, uris.join(output, "sets", name))
    evaluation_table.say_sets(cast(EvaluationOfSets, record.results), output)
    return record.results


def _has_page(output: str) -> bool:
    """Whether an evaluation has its page. One of an earlier version gets it now."""
    return storage.exists(uris.join(output, "report.html"))


def say_evaluation(results: Any, output: str) -> None:
    """The line about an evaluation that is used again, and its table; what speaks against it is said again."""
    say_reused("evaluate", "evaluation", output)
    evaluation_table.say(results, output)


def finished_predict(config: Config) -> dict[str, Any] | None:
    """The results of finished maps; None where there is something to do, or where the registry must be asked."""
    settings, output = config.predict, str(config.predict.output)
    model, source = str(settings.model), settings.input
    if source is None or model.startswith("models:/"):
        return None
    record = finished(output, "predict", lambda: prediction_identity(model_digest(model), source))
    if record is None or not is_prediction_done(record, prediction_request(images(source).files, settings)):
        return None
    say_reused("predict", "maps", output)
    return record.results


def is_prediction_done(record: Record, request: str) -> bool:
    """Whether a record is of all the images of a request, and all of them could be read."""
    return record.finished and record.results["seen"] == request and not record.results["failed"]


def finished_tune(config: Config) -> dict[str, Any] | None:
    """The results of a finished search with this budget; None where there is something to do."""
    output = str(config.tune.output)
    record = finished(output, "tune", lambda: search_identity(config))
    if record is None or record.results.get("budget") != search_budget(config):
        return None
    say_finished_search(output)
    return record.results


def say_finished_search(output: str) -> None:
    """The line about a search that is used again, and its trials, the best first."""
    say_reused("tune", "search", output)
    for line in search_table.lines(search_table.read(output)):
        console.say(f"tune: {line}")
