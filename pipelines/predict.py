"""`mpc predict`: an image, a folder or prefix of them, or a listing, to probability maps and a table of scores.

<output>/maps/<path of the image>.png    8-bit grey, 255 = certainly forged, the size of the image; of several
                                         classes the number of each pixel's class
<output>/overlays/<path>.jpg             the map in colours over the image, for people (predict.overlays)
<output>/index.html                      a page of all images, to look through
<output>/scores.parquet, scores.csv      one row an image: sizes, score, forged fraction (or the share of each
                                         class), the model and its thresholds, or the error
<output>/rows/                           the rows while they are made: the same command goes on from them
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpc_model.errors import DataError, UserError
from mpc_model.imaging.codecs import IMAGE_SUFFIXES
from pipelines import reuse
from pipelines.artifacts import record
from pipelines.artifacts.model_directory import load_model, model_digest, require_head
from pipelines.artifacts.results import UsedModel
from pipelines.config.base import registered_parts
from pipelines.config.root import Config, PredictConfig
from pipelines.runtime import console, lease, storage, telemetry, tracking_uri, uris
from pipelines.runtime.selection import Selection
from pipelines.runtime.stamp import Stamp

if TYPE_CHECKING:
    import pyarrow as pa

    from mpc_model.localizer import Localizer
    from pipelines.inference import mapper, score_table
    from pipelines.pages import predictions


_BLOCK, _GPU_BLOCK = 64, 512
"""Images of one task of Ray Data, without and with GPUs, at most: its rows come back when all of them are mapped, and
the stages of a worker run empty at its end."""
_TASKS = 2048
"""Tasks, at most, whatever their size: Ray Data keeps some 60 kB of this process for each until the end."""
_LEAST_BLOCK, _LEAST_GPU_BLOCK = 4, 64
"""Images of a task, at least, where they are few for the workers that there are: a GPU takes up to 64 at once."""
INDEX = "index.html"
FEW_IMAGES, FEW_PIXELS = 16, 2**26
"""Images, and pixels of all of them, that are mapped in this process, at most: to start Ray takes ten seconds of a
processor. One image alone is always mapped here."""


class UnreadableImagesError(DataError):
    """Some images could not be read; all others are mapped. Another try maps those that can be read by then."""

    exit_code = 1


def predict(config: Config) -> dict[str, Any]:
    """Map the image at `predict.input`, or every image below it, and return counts and the location of the table.

    Images that have their map, of this model and these settings, are not mapped again. Raises UserError when there are
    no images, no such model, or where another command is writing to the output. Images that cannot be read get a row
    with an error and no map; once all others are done, UnreadableImagesError names the first of them, or DataError
    where none could be read.
    """
    settings = config.predict
    files, passed_over = _images(settings)
    source, output = str(settings.input), str(settings.output)
    with model_folder(str(settings.model), config) as given:
        digest = model_digest(given.folder, given.name)
        request = reuse.prediction_request(files, settings, *([given.version, given.alias] if given.version else []))
        identity = reuse.prediction_identity(digest, source)
        finished = record.finished(output, "predict", lambda: identity)
        if finished and reuse.is_prediction_done(finished, request):  # before torch and Ray are imported
            reuse.say_reused("predict", "maps", output)
            return finished.results
        model = load_model(given.folder, name=given.name)
    require_head(model, str(settings.model))
    model.check_tile(settings.tile or 0)
    used = _used(model, given, digest)
    with lease.held(output, "predict") as held:
        claimed = record.claim(output, "predict", identity, config.dump())
        if passed_over:
            console.say(f"predict: {passed_over}")
        claimed.reopen()
        mapped = _map_all(model, used, files, settings, claimed.resumed, held)
        claimed.finish(
            images=mapped.images,
            failed=mapped.failed,
            seen=request,
            scores=uris.join(output, "scores.csv"),
            precision=settings.precision,
            model=used,
        )
    _report(mapped, used, output, forgery=model.spec.classes == 1)
    if mapped.failed:
        kind = DataError if mapped.failed == mapped.images else UnreadableImagesError
        raise kind(
            f"{mapped.failed} of {mapped.images} images could not be read (see `error` in {output}/scores.csv);"
            f" the first: {mapped.first_error}"
        )
    return claimed.results


def _images(settings: PredictConfig) -> Selection:
    """The images to map. UserError where there are none, or where the maps would be among them."""
    source, output = settings.input, str(settings.output)
    if source is None:
        raise UserError("predict.input is not set; name a folder or prefix of images: predict.input=folder")
    selected = reuse.images(source)
    if not selected.files:
        why = f"; {selected.passed_over}" if selected.passed_over else ""
        raise UserError(f"no images ({', '.join(IMAGE_SUFFIXES)}) in {source}{why}")
    if f"{output}/".startswith(f"{source}/"):
        raise UserError(f"predict.output {output} is inside predict.input: its maps would be images of the next run")
    return selected


def _report(mapped: "score_table.Summary", used: UsedModel, output: str, forgery: bool) -> None:
    """Say what there is."""
    console.say(
        f"predict: {mapped.images - mapped.failed} maps in {uris.join(output, 'maps')}, scores in scores.csv; look at"
        f" {uris.join(output, INDEX)}"
    )
    if mapped.forged is not None:
        limit = used["image_threshold"]
        console.say(
            f"predict: {mapped.forged} of {mapped.images} images are called forged: their score is above {limit}"
        )
    elif forgery:
        console.say("predict: this model's card advises no threshold of image scores, so column `forged` is empty")
    if mapped.noted:
        words = "files with several pictures the first one was mapped (`note` in scores.csv)"
        console.say(f"predict: of {mapped.noted} {words}")


def _used(model: "Localizer", given: "GivenModel", digest: str) -> UsedModel:
    """What is written down of the model."""
    return UsedModel(
        name=given.name,
        version=given.version,
        alias=given.alias,
        digest=digest,
        threshold=float(model.spec.threshold),
        image_threshold=model.card.get("image_threshold"),
    )


@dataclass(frozen=True)
class GivenModel:
    """The model directory `folder` that `predict.model` stands for. `name` is its location or registered name; a
    registered one has a `version`, and the `alias` that it was named by."""

    folder: str
    name: str
    version: str | None = None
    alias: str | None = None


@contextmanager
def model_folder(model: str, config: Config) -> Iterator[GivenModel]:
    """The model directory at a location, or a copy of that of a registered model (models:/name@alias,
    models:/name/version), which is deleted when the block ends."""
    if not model.startswith("models:/"):
        yield GivenModel(model, model)
        return
    if database := tracking_uri.absent_database(str(config.tracking.uri)):
        raise UserError(f"no model {model}: there is no MLflow database at {database}; run `mpc register` first")
    import mlflow  # here, since a model directory needs neither
    from mlflow.exceptions import MlflowException

    from pipelines.tracking import client

    name, alias, version = registered_parts(model)
    with tempfile.TemporaryDirectory() as folder:
        try:
            if alias:  # now: it may move while the files are copied
                version = str(client.client(config).get_model_version_by_alias(name, alias).version)
            with client.fluent(config):
                wanted = f"models:/{name}/{version}" if version else model
                local = mlflow.artifacts.download_artifacts(artifact_uri=wanted, dst_path=folder)
        except MlflowException as error:
            reason = " ".join(str(error).split())
            shown = uris.without_secrets(
                f"no model {model} in {config.tracking.uri}: {reason}; {_remedy(alias, config)}"
            )
            raise UserError(shown) from None
        yield GivenModel(str(Path(local) / "artifacts" / "model"), name, version or None, alias or None)


def _remedy(alias: str, config: Config) -> str:
    """What to do where there is no such model."""
    register = config.register_
    if alias != config.promote.target:
        return "run `mpc register`"
    return (
        f"run `mpc promote`, which gives a version the alias {alias}, or name one:"
        f" predict.model=models:/{register.name}@{register.alias}"
    )


def _map_all(
    model: "Localizer",
    used: UsedModel,
    files: dict[str, Stamp],
    settings: PredictConfig,
    resumed: bool,
    held: lease.Lease,
) -> "score_table.Summary":
    """Map the images that have no map yet, and write the table of all, sorted by location."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipelines.inference import mapper, row_store, score_table

    output = str(settings.output)
    is_folded = storage.exists(uris.join(output, record.RECORD.upper()))  # its name is in lower case
    wanted = row_store.wanted(used["digest"], files, settings, is_folded)
    files.clear()  # of a million images, gigabytes less
    mapping = mapper.MapJob(model, settings)
    stored = row_store.stored(wanted, output, settings.overlays, mapping.schema)
    if len(stored):
        console.say(f"predict: {len(stored)} of {len(wanted)} images have their maps already")
    missing = wanted.filter(pc.invert(pc.is_in(wanted["key"], stored["key"].combine_chunks())))
    rows = pa.concat_tables([stored, *_map_missing(mapping, missing, len(stored), resumed)])
    table = score_table.Table(rows, pc.index_in(wanted["key"], rows["key"].combine_chunks()), used)
    held.check()
    row_store.replace(output, table.slices())
    summary = score_table.write(output, table)
    storage.write_bytes(uris.join(output, INDEX), _page(table, summary, settings).encode())
    return summary


def _page(table: "score_table.Table", summary: "score_table.Summary", settings: PredictConfig) -> str:
    """The page of all images, or of those with the highest scores where they are very many."""
    from pipelines.pages import predictions

    rows = table.highest(predictions.SHOWN).to_pylist()
    used = table.model
    name = " ".join(filter(None, (used["name"], used["version"] and f"version {used['version']}", used["alias"])))
    lines = [f"Images of {settings.input}, mapped by {name}."]
    if summary.forged is not None:
        lines.append(f"An image is called forged where its score is above {used['image_threshold']:.4g}.")
    if len(rows) < summary.images:
        lines.append(f"Here are the {len(rows):,} with the highest scores; all are in scores.csv and scores.parquet.")
    facts = [(f"{summary.images:,}", "images"), (f"{summary.failed:,}", "without a map")]
    if summary.forged is not None:
        facts.insert(1, (f"{summary.forged:,}", "called forged"))
    return predictions.page(facts, lines, [_prediction(row, settings) for row in rows])


def _prediction(row: dict[str, Any], settings: PredictConfig) -> "predictions.Prediction":
    """A row of the table as the page has it."""
    from pipelines.inference.map_names import MAP_SUFFIX, OVERLAY_SUFFIX

    file = row["map"] and row["map"][len(uris.join(str(settings.output), "maps")) + 1 :]
    name = file.removesuffix(MAP_SUFFIX) if file else row["image"].removeprefix(f"{settings.input}/")
    return {
        "name": name,
        "picture": f"overlays/{name}{OVERLAY_SUFFIX}" if file and settings.overlays else None,
        "map": file and f"maps/{file}",
        "score": row.get("score"),
        "share": row.get("forged_fraction"),
        "forged": row.get("forged"),
        "error": row["error"],
    }


def _map_missing(mapping: "mapper.MapJob", missing: "pa.Table", done: int, resumed: bool) -> Iterator["pa.Table"]:
    """The rows of the images that are missing: of a few made in this process, else by a pool of workers."""
    from pipelines.inference import job

    if not len(missing):
        return
    settings = mapping.settings
    progress = console.Progress("predict", done + len(missing), "images", done=done)
    if _is_for_this_process(missing, settings, resumed):
        made = job.in_process(mapping, [missing], settings)
    else:
        from pipelines.inference import pool

        shape = pool.worker_shape(settings, mapping.verb)
        least, most = (_LEAST_GPU_BLOCK, _GPU_BLOCK) if shape.gpus else (_LEAST_BLOCK, _BLOCK)
        block = min(max(len(missing) // (2 * max(1, shape.fitting)), least), most)  # two for each worker there is
        block = max(block, -(-len(missing) // _TASKS))
        blocks = [missing.slice(start, block) for start in range(0, len(missing), block)]
        made = pool.on_cluster(mapping, blocks, settings, shape)
    for rows in made:
        progress.advance(len(rows))
        if len(rows):  # a failure may end a task before its first image
            telemetry.count("mpc_predict_images_total", len(rows), output=str(settings.output))
        yield rows


def _is_for_this_process(missing: "pa.Table", settings: PredictConfig, resumed: bool) -> bool:
    """Whether the images are mapped without Ray: where the config says so, and where they are few.

    Not where an earlier try did not come to its end: an image that ends this process would end it again; it ends a
    worker of Ray's, and has its row then.
    """
    from pipelines.inference import mapper
    from pipelines.runtime import device

    if settings.workers != "auto":
        return settings.workers == 0
    if resumed or len(missing) > FEW_IMAGES or (settings.accelerator == "gpu" and not device.is_gpu_here()):
        return False
    return len(missing) == 1 or mapper.pixels(missing["image"].to_pylist(), FEW_PIXELS) <= FEW_PIXELS
