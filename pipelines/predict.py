"""`mpc predict`: an image, or a folder or prefix of them, to probability maps and a table of scores.

<output>/maps/<path of the image>.png    8-bit grey, 255 = certainly forged, the size of the image
<output>/overlays/<path>.jpg             the map in colours over the image, for people (predict.overlays)
<output>/scores.parquet, scores.csv      one row an image: sizes, score, forged fraction, or the error
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException

from mpc_model.errors import DataError, UserError
from mpc_model.imaging.codecs import IMAGE_SUFFIXES
from pipelines import reuse
from pipelines.artifacts import record
from pipelines.artifacts.model_directory import load_model, model_digest, require_head
from pipelines.config.root import Config, PredictConfig
from pipelines.runtime import console, storage, tracking_uri, uris
from pipelines.tracking import client

if TYPE_CHECKING:
    from mpc_model.localizer import Localizer


def predict(config: Config) -> dict[str, Any]:
    """Map the image at `predict.input`, or every image below it, and return counts and the location of the table.

    Raises UserError when there are no images or no such model. Images that cannot be read get a row with an error and
    no map; once all others are done, DataError names the first of them.
    """
    settings = config.predict
    if settings.input is None:
        raise UserError("predict.input is not set; name a folder or prefix of images: predict.input=folder")
    source, output = settings.input, str(settings.output)
    files = reuse.images(source)
    if not files:
        raise UserError(f"no images ({', '.join(IMAGE_SUFFIXES)}) in {source}")
    names = {file: file[len(source) :].lstrip("/") or file.rsplit("/", 1)[-1] for file in files}
    if f"{output}/".startswith(f"{source}/"):
        raise UserError(f"predict.output {output} is inside predict.input: its maps would be images of the next run")
    request = reuse.prediction_request(files, settings)
    with model_folder(str(settings.model), config) as folder:
        identity = reuse.prediction_identity(model_digest(folder, str(settings.model)), source)
        finished = record.finished(output, "predict", lambda: identity)
        if finished and reuse.is_prediction_done(finished, request):  # before torch and Ray are imported
            reuse.say_reused("predict", "maps", output)
            return finished.results
        model = load_model(folder, name=str(settings.model))
    require_head(model, str(settings.model))
    claimed = record.claim(output, "predict", identity, config.dump())
    rows = _map_all(model, names, output, settings)
    failed = [row["error"] for row in rows if pd.notna(row["error"])]
    _write(rows, output)
    claimed.finish(images=len(rows), failed=len(failed), seen=request, scores=uris.join(output, "scores.csv"))
    console.say(f"predict: {len(rows) - len(failed)} maps in {uris.join(output, 'maps')}, scores in scores.csv")
    if failed:
        raise DataError(
            f"{len(failed)} of {len(rows)} images could not be read (see `error` in {output}/scores.csv);"
            f" the first: {failed[0]}"
        )
    return claimed.results


def _write(rows: list[dict[str, Any]], output: str) -> None:
    """Write the table as CSV and as Parquet."""
    from pipelines.inference.mapper import COLUMNS  # imports Ray, which reads its settings first

    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table = table.astype({"height": "Int64", "width": "Int64"})
    storage.write_bytes(uris.join(output, "scores.csv"), table.to_csv(index=False).encode())
    storage.write_bytes(uris.join(output, "scores.parquet"), table.to_parquet(index=False))


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


def _map_all(model: "Localizer", names: dict[str, str], output: str, settings: PredictConfig) -> list[dict[str, Any]]:
    from pipelines.inference import mapper
    from pipelines.runtime import cluster

    cluster.connect()
    import ray

    items = ray.data.from_items([{"image": uri, "name": name} for uri, name in names.items()])
    mapped = items.map_batches(
        mapper.Mapper,
        fn_constructor_args=(ray.put(model), output, settings.overlays, settings.tile),
        batch_size=8,
        batch_format="pandas",
        **cluster.model_pool(len(names)),
    )
    progress = console.Progress("predict", len(names), "images")
    rows: list[dict[str, Any]] = []
    for batch in mapped.iter_batches(batch_format="pandas"):
        rows += batch.to_dict("records")
        progress.advance(len(batch))
    return sorted(rows, key=lambda row: str(row["image"]))
