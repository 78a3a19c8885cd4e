"""`mpc predict`: an image, or a folder or prefix of them, to probability maps and a table of scores.

<output>/maps/<path of the image>.png    8-bit grey, 255 = certainly forged, the size of the image
<output>/overlays/<path>.jpg             the map in colours over the image, for people (predict.overlays)
<output>/scores.parquet, scores.csv      one row an image: sizes, score, forged fraction, or the error
<output>/rows/                           the rows while they are made: the same command goes on from them
"""

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.exceptions import MlflowException

from mpc_model.errors import DataError, UserError
from mpc_model.imaging.codecs import IMAGE_SUFFIXES
from pipelines import reuse
from pipelines.artifacts import record
from pipelines.artifacts.model_directory import load_model, model_digest, require_head
from pipelines.config.root import Config, PredictConfig
from pipelines.runtime import console, storage, tracking_uri, uris
from pipelines.runtime.stamp import Stamp
from pipelines.tracking import client

if TYPE_CHECKING:
    import pyarrow as pa

    from mpc_model.localizer import Localizer


_BLOCK, _GPU_BLOCK = 64, 512
"""Images of one task of Ray Data, without and with GPUs: its rows come back when all of them are mapped, and the stages
of a worker run empty at its end."""


class UnreadableImagesError(DataError):
    """Some images could not be read; all others are mapped. Another try maps those that can be read by then."""

    exit_code = 1


def predict(config: Config) -> dict[str, Any]:
    """Map the image at `predict.input`, or every image below it, and return counts and the location of the table.

    Images that have their map, of this model and these settings, are not mapped again. Raises UserError when there are
    no images or no such model. Images that cannot be read get a row with an error and no map; once all others are
    done, UnreadableImagesError names the first of them, or DataError where none could be read.
    """
    settings = config.predict
    if settings.input is None:
        raise UserError("predict.input is not set; name a folder or prefix of images: predict.input=folder")
    source, output = settings.input, str(settings.output)
    files, passed_over = reuse.images(source)
    if not files:
        why = f"; {passed_over}" if passed_over else ""
        raise UserError(f"no images ({', '.join(IMAGE_SUFFIXES)}) in {source}{why}")
    if f"{output}/".startswith(f"{source}/"):
        raise UserError(f"predict.output {output} is inside predict.input: its maps would be images of the next run")
    request = reuse.prediction_request(files, settings)
    with model_folder(str(settings.model), config) as folder:
        digest = model_digest(folder, str(settings.model))
        identity = reuse.prediction_identity(digest, source)
        finished = record.finished(output, "predict", lambda: identity)
        if finished and reuse.is_prediction_done(finished, request):  # before torch and Ray are imported
            reuse.say_reused("predict", "maps", output)
            return finished.results
        model = load_model(folder, name=str(settings.model))
    require_head(model, str(settings.model))
    claimed = record.claim(output, "predict", identity, config.dump())
    if passed_over:
        console.say(f"predict: {passed_over}")
    rows = _map_all(model, digest, files, settings)
    del files
    failed = rows.filter(rows["error"].is_valid())
    _write(rows, output)
    claimed.finish(
        images=len(rows),
        failed=len(failed),
        seen=request,
        scores=uris.join(output, "scores.csv"),
        precision=settings.precision,
    )
    console.say(f"predict: {len(rows) - len(failed)} maps in {uris.join(output, 'maps')}, scores in scores.csv")
    if noted := len(rows) - rows["note"].null_count:
        console.say(f"predict: of {noted} files with several pictures the first one was mapped (`note` in scores.csv)")
    if len(failed):
        kind = DataError if len(failed) == len(rows) else UnreadableImagesError
        raise kind(
            f"{len(failed)} of {len(rows)} images could not be read (see `error` in {output}/scores.csv);"
            f" the first: {failed['error'][0].as_py()}"
        )
    return claimed.results


def _write(rows: "pa.Table", output: str) -> None:
    """Write the table as CSV and as Parquet. Some thousand rows at a time are objects: a million need gigabytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = rows.drop_columns(["key"])
    whole = {"height": "Int64", "width": "Int64"}  # None where there is no map
    in_pandas = pa.Schema.from_pandas(table.slice(0, 0).to_pandas().astype(whole), preserve_index=False)
    text = io.StringIO()
    for number, batch in enumerate(table.to_batches(4096)):
        batch.to_pandas(integer_object_nulls=True).astype(whole).to_csv(text, index=False, header=number == 0)
    storage.write_bytes(uris.join(output, "scores.csv"), text.getvalue().encode())
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(in_pandas.metadata), sink)
    storage.write_bytes(uris.join(output, "scores.parquet"), bytes(sink.getvalue()))


@contextmanager
def model_folder(model: str, config: Config) -> Iterator[str]:
    """The model directory at a location, or a copy of that of a registered model (models:/name@alias,
    models:/name/version), which is deleted when the block ends."""
    if not model.startswith("models:/"):
        yield model
        return
    if database := tracking_uri.absent_database(str(config.tracking.uri)):
        raise UserError(f"no model {model}: there is no MLflow database at {database}; run `mpc register` first")
    client.client(config)  # raises where the store does not answer
    with tempfile.TemporaryDirectory() as folder:
        try:
            with client.fluent(config):
                local = mlflow.artifacts.download_artifacts(artifact_uri=model, dst_path=folder)
        except MlflowException as error:
            reason = " ".join(str(error).split())
            shown = uris.without_secrets(f"no model {model} in {config.tracking.uri}: {reason}; run `mpc register`")
            raise UserError(shown) from None
        yield str(Path(local) / "artifacts" / "model")


def _map_all(model: "Localizer", digest: str, files: dict[str, Stamp], settings: PredictConfig) -> "pa.Table":
    """The row (row_store.SCHEMA) of every image, sorted by location: those that are stored, and those made now."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipelines.inference import row_store

    output = str(settings.output)
    is_folded = storage.exists(uris.join(output, record.RECORD.upper()))  # its name is in lower case
    wanted = row_store.wanted(digest, files, settings, is_folded)
    stored = row_store.stored(wanted, output, settings.overlays)
    if len(stored):
        console.say(f"predict: {len(stored)} of {len(wanted)} images have their maps already")
    missing = wanted.filter(pc.invert(pc.is_in(wanted["key"], stored["key"].combine_chunks())))
    made = _map_missing(model, missing, len(stored), settings) if len(missing) else []
    rows = pa.concat_tables([stored, *made]).sort_by("image")
    row_store.replace(output, rows)
    return rows


def _map_missing(model: "Localizer", missing: "pa.Table", done: int, settings: PredictConfig) -> list["pa.Table"]:
    """The rows of the images that are missing, made by a pool of workers that each hold the model."""
    from pipelines.inference import mapper
    from pipelines.runtime import cluster

    cluster.connect()
    import ray

    pool, cores = cluster.model_pool(len(missing))
    block = _GPU_BLOCK if pool.get("num_gpus") else _BLOCK
    blocks = [missing.slice(start, block) for start in range(0, len(missing), block)]
    mapped = ray.data.from_arrow(blocks).map_batches(
        mapper.Mapper,
        fn_constructor_args=(ray.put(model), settings, cores),
        batch_size=None,  # a whole block
        batch_format="pandas",
        **pool,
    )
    progress = console.Progress("predict", done + len(missing), "images", done=done)
    made = []
    for batch in mapped.iter_batches(batch_format="pyarrow"):
        rows, failure = mapper.returned(batch)
        made.append(rows)
        progress.advance(len(rows))
        if failure:
            raise failure
    return made
