"""The page of predictions whose output has no `index.html`: that of an earlier version, from its table."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mpc_model.errors import UserError
from pipelines.pages import predictions
from pipelines.pages.predictions import Prediction
from pipelines.runtime import storage, uris

TABLE = "scores.parquet"
_MAP, _OVERLAY = ".png", ".jpg"


def made(output: str) -> str:
    """The page of the predictions at `output`. UserError where their table is damaged."""
    location = uris.join(output, TABLE)
    try:
        table = pq.read_table(storage.in_arrow(storage.read_bytes(location)))
        rows = table.select([name for name in _COLUMNS if name in table.column_names])
        failed = len(rows) - rows["error"].null_count
        if "score" in rows.column_names:
            rows = rows.take(pc.sort_indices(rows["score"], sort_keys=[("", "descending")]))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(f"{location} is damaged ({error}); delete {output} and predict again") from None
    overlays = {file[len(uris.join(output, "overlays")) + 1 :] for file in _overlays(output)}
    shown = [
        _prediction(row, uris.join(output, "maps"), overlays) for row in rows.slice(0, predictions.SHOWN).to_pylist()
    ]
    facts = [(f"{len(rows):,}", "images"), (f"{failed:,}", "without a map")]
    return predictions.page(facts, ["Made by an earlier version of mpc: nothing says by which model."], shown)


_COLUMNS = ("image", "map", "score", "forged_fraction", "error")


def _overlays(output: str) -> list[str]:
    folder = uris.join(output, "overlays")
    return storage.list_files(folder) if storage.folder_exists(folder) else []


def _prediction(row: dict[str, str | float | None], maps: str, overlays: set[str]) -> Prediction:
    """A row of the table. The map of an image lies at the path of the image below `maps`, its overlay below overlays/.
    Maps whose output was moved since are known by the folder's name."""
    image, file = str(row["image"]), str(row.get("map") or "")
    name = file.removeprefix(f"{maps}/") if file.startswith(f"{maps}/") else file.partition("/maps/")[2]
    picture = f"{name.removesuffix(_MAP)}{_OVERLAY}"
    score, share, error = (row.get(key) for key in ("score", "forged_fraction", "error"))
    return {
        "name": name.removesuffix(_MAP) or image.rpartition("/")[2],
        "picture": f"overlays/{picture}" if picture in overlays else None,
        "map": f"maps/{name}" if name else None,
        "score": score if isinstance(score, float) else None,
        "share": share if isinstance(share, float) else None,
        "forged": None,
        "error": str(error) if error else None,
    }
