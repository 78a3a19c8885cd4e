"""`mpc compare A B`: two models on the same images, by how much one is better, where, and what chance explains.

A and B are folders that `mpc evaluate` wrote, of one set or of several, or registered versions (models:/name@alias,
models:/name/3), which carry the scores of the images that they were evaluated on. Sets are matched by fingerprint and
split, images by id (mpc_model/evaluation/comparison.py).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from mpc_model.errors import UserError
from mpc_model.evaluation.bootstrap import FEW_IMAGES
from mpc_model.evaluation.comparison import Compared, Comparison, Pair
from mpc_model.evaluation.slices import Described, slices_of
from pipelines import reuse
from pipelines.artifacts import comparison, evaluation, record, scored_sets
from pipelines.artifacts.comparison import ComparedMetric, ComparedSet, ComparisonResult
from pipelines.artifacts.scored_sets import Key, ScoredSet
from pipelines.config.base import absolute, registered_parts
from pipelines.config.root import Config
from pipelines.dataset import html
from pipelines.pages import comparison as page
from pipelines.runtime import canonical, console, storage, tracking_uri, uris

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from pipelines.model_registry.version_metrics import AnyMetrics

_METRICS = tuple(name for name in (*evaluation.SCORES, "average_precision") if name != "best_threshold")
"""Columns whose means over the forged images are compared."""
FALSE_ALARMS = "false_alarm_rate"
_DESCRIBED = ("source", "height", "width", "quality", "forged_fraction", "centre_x", "centre_y")
"""Columns by which images are divided, besides `kind`."""
_BATCH = 1024


@dataclass(frozen=True)
class _Model:
    """A or B: what it is called, and the sets that it was evaluated on."""

    name: str
    sets: dict[Key, ScoredSet]


def compare(config: Config, a: str, b: str) -> ComparisonResult:
    """Compare two models, print the result, and write it as comparison.json and comparison.html below `compare.output`.

    Raises UserError where the two have no set in common, or where one of them is no evaluation that can be compared.
    """
    models = [_model(config, one) for one in (a, b)]
    shared = [key for key in models[0].sets if key in models[1].sets]
    if not shared:
        raise UserError(_nothing_shared(*models))
    identity = _identity(config, models)
    output = str(config.compare.output or uris.join(config.workspace, "compare", canonical.digest(identity)[:12]))
    claimed = record.claim(output, "compare", identity, config.dump())
    if claimed.finished:
        reuse.say_reused("compare", "comparison", output)
        result = cast(ComparisonResult, claimed.results)
    else:
        result = _compared(models, shared, config.compare.min_images)
        made = page.page(result, [_pictures(models, key, one) for key, one in zip(shared, result["sets"], strict=True)])
        storage.write_bytes(uris.join(output, page.REPORT), made.encode())
        storage.write_bytes(uris.join(output, comparison.FILE_NAME), json.dumps(result, indent=1).encode())
        claimed.finish(**result)
    print("\n".join(lines(result)), flush=True)
    console.say(f"compare: look at {uris.join(output, page.REPORT)}")
    return result


def _identity(config: Config, models: Sequence[_Model]) -> dict[str, Any]:
    """What tells one comparison from another."""
    first, second = ({"name": one.name, "sets": sorted(each.digest for each in one.sets.values())} for one in models)
    return {"first": first, "second": second, "min_images": config.compare.min_images}


def _model(config: Config, given: str) -> _Model:
    """What A or B names."""
    if given.startswith("models:/"):
        name, sets = _version(config, given)
    else:
        try:
            name = absolute(given)
        except ValueError as error:
            raise UserError(str(error)) from None
        sets = scored_sets.of_evaluation(name)
    return _Model(uris.without_secrets(name), {one.key: one for one in sets})


def _version(config: Config, model: str) -> tuple[str, list[ScoredSet]]:
    """Name and sets of a registered version."""
    from pipelines.model_registry import version_metrics  # here, since folders need nothing of the registry

    found = _found_version(config, model)
    sets = [_carried(config, model, found, one) for one in version_metrics.from_tags(found.tags).values()]
    if not sets:
        raise UserError(f"{model} carries no metrics; run `mpc evaluate`, and `mpc register` again")
    return f"{found.name}, version {found.version}", sets


def _found_version(config: Config, model: str) -> "ModelVersion":
    """The version that models:/... names. UserError where there is none."""
    from mlflow.exceptions import MlflowException

    from pipelines.tracking import client

    name, alias, number = _parts(model)
    if database := tracking_uri.absent_database(str(config.tracking.uri)):
        raise UserError(f"no model {model}: there is no MLflow database at {database}; run `mpc register` first")
    store = client.client(config)
    with client.translate_errors(config):
        try:
            return store.get_model_version_by_alias(name, alias) if alias else store.get_model_version(name, number)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise UserError(f"there is no {model} in {uris.without_secrets(str(config.tracking.uri))}") from None


def _carried(config: Config, model: str, version: "ModelVersion", metrics: "AnyMetrics") -> ScoredSet:
    """A set whose scores a version carries."""
    from pipelines.model_registry.version_metrics import ClassVersionMetrics
    from pipelines.tracking import runs

    if isinstance(metrics, ClassVersionMetrics):
        raise UserError(f"{model} is of several classes; only models of one class are compared by image")
    file = f"evaluations/{metrics.file_name}.parquet"

    def read() -> pa.Table:
        data = runs.entry_file(config, version.name, str(version.version), file)
        if data is None:
            raise UserError(f"{model} has no {file}: an earlier version registered it; run `mpc register` again")
        return scored_sets.table(data, f"{file} of {model}")

    digest = canonical.digest([version.name, str(version.version), version.tags[metrics.tag]])
    return ScoredSet(metrics.short_name, (metrics.fingerprint, metrics.split, metrics.precision), digest, read)


def _parts(model: str) -> tuple[str, str, str]:
    """Name, alias and version of a registered version; one of the last two is empty."""
    name, alias, version = registered_parts(model)
    if not name or bool(alias) == bool(version):
        raise UserError(
            f"{model!r} names no registered version; give models:/<name>@<alias> or models:/<name>/<version>"
        )
    return name, alias, version


def _nothing_shared(first: _Model, second: _Model) -> str:
    """Why two models cannot be compared, with a remedy."""
    for fingerprint, split, precision in first.sets:
        others = [key for key in second.sets if key[:2] == (fingerprint, split)]
        if others:
            name = first.sets[fingerprint, split, precision].name
            return (
                f"{name} was scored in {precision} by A and in {others[0][2]} by B; evaluate both in one precision"
                " (evaluate.precision)"
            )
    of_a, of_b = (
        ", ".join(f"{one.name} ({one.key[0][:12]}, {one.key[1]})" for one in model.sets.values())
        for model in (first, second)
    )
    return f"A and B were evaluated on different sets, A on {of_a}, B on {of_b}; evaluate both on one dataset and split"


def _compared(models: Sequence[_Model], shared: Sequence[Key], min_images: int) -> ComparisonResult:
    first, second = models
    return {
        "first": first.name,
        "second": second.name,
        "sets": [_compared_set(first.sets[key], second.sets[key], min_images) for key in shared],
        "only_first": [one.name for key, one in first.sets.items() if key not in second.sets],
        "only_second": [one.name for key, one in second.sets.items() if key not in first.sets],
    }


def _compared_set(first: ScoredSet, second: ScoredSet, min_images: int) -> ComparedSet:
    of_first, of_second = first.read(), second.read()
    ours, theirs = _matched(of_first, of_second)
    if not len(ours):
        raise UserError(f"{first.name}: A and B have no image in common; evaluate both again")
    names = [name for name in _METRICS if name in ours.schema.names and name in theirs.schema.names]
    counted = Comparison([*names, FALSE_ALARMS])
    for start in range(0, len(ours), _BATCH):
        parts = [rows.slice(start, _BATCH) for rows in (ours, theirs)]
        described = next((part for part in parts if set(_DESCRIBED) <= set(part.schema.names)), parts[0])
        counted.add(parts[0]["id"].to_pylist(), _slices(described), *(_values(part, names) for part in parts))
    found = counted.result(min_images)
    fingerprint, split, precision = first.key
    return {
        "name": first.name,
        "split": split,
        "fingerprint": fingerprint,
        "precision": precision,
        "images": len(ours),
        "unmatched": len(of_first) + len(of_second) - 2 * len(ours),
        "verdict": verdict(found),
        "metrics": {name: _metric(pair) for name, pair in found.metrics.items()},
        "slices": [{"by": one.by, "value": one.value, **_metric(one.f1)} for one in found.slices],
        "most_apart": _named(found, ours),
    }


def _matched(first: pa.Table, second: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows of the images that both have, in the order of the first."""
    places = pc.index_in(first["id"].combine_chunks(), value_set=second["id"].combine_chunks())
    return first.filter(places.is_valid()), second.take(places.drop_null())


def _values(rows: pa.Table, names: Sequence[str]) -> Mapping[str, list[float | None]]:
    """The metrics of each image; the share of pixels called forged counts as false alarms on authentic images alone."""
    kinds, called = rows["kind"].to_pylist(), rows["called_fraction"].to_pylist()
    alarms = [share if kind == "authentic" else None for kind, share in zip(kinds, called, strict=True)]
    return {**{name: rows[name].to_pylist() for name in names}, FALSE_ALARMS: alarms}


def _slices(rows: pa.Table) -> list[Mapping[str, str]]:
    """The slices that each image is in; of a version's table only its kind is known."""
    if not set(_DESCRIBED) <= set(rows.schema.names):
        return [{"kind": kind} for kind in rows["kind"].to_pylist()]
    columns = rows.select(["kind", *_DESCRIBED]).to_pylist()
    return [
        slices_of(
            Described(
                row["kind"],
                row["source"],
                row["height"],
                row["width"],
                row["quality"],
                row["forged_fraction"],
                None if row["centre_x"] is None else (row["centre_x"], row["centre_y"]),
            )
        )
        for row in columns
    ]


def _metric(pair: Pair) -> ComparedMetric:
    return {
        "first": pair.first.value,
        "second": pair.second.value,
        "difference": pair.difference.value,
        "low": pair.difference.low,
        "high": pair.difference.high,
        "images": pair.difference.images,
        "shown": pair.is_shown,
    }


def _named(found: Compared, rows: pa.Table) -> list[comparison.ComparedImage]:
    """The images that differ most, with their keys where the table has them."""
    ids = [one.id for one in found.most_apart]
    keys = dict.fromkeys(ids, "")
    if "key" in rows.schema.names:
        chosen = rows.filter(pc.is_in(rows["id"], value_set=pa.array(ids, pa.string())))
        keys |= dict(zip(chosen["id"].to_pylist(), chosen["key"].to_pylist(), strict=True))
    return [{"id": one.id, "key": keys[one.id], "first": one.first, "second": one.second} for one in found.most_apart]


def _pictures(models: Sequence[_Model], key: Key, compared: ComparedSet) -> dict[str, list[bytes]]:
    """Image, mask, and both maps of those of the listed images that both evaluations have pictures of, by id."""
    ids = [one["id"] for one in compared["most_apart"]]
    first, second = (model.sets[key].pictures(ids) if ids else {} for model in models)
    return {
        one: [*(first[one][name] for name in evaluation.PICTURES), second[one][evaluation.PICTURES[-1]]]
        for one in ids
        if one in first and one in second
    }


def verdict(found: Compared) -> str:
    """Which model is better, in plain words: by F1, and whether it pays for that with false alarms; or by false alarms
    where no forged image is scored."""
    pair, what, sign = found.metrics.get("f1"), "is better", 1
    kind = "forged"
    if pair is None:
        pair, what, sign, kind = found.metrics.get(FALSE_ALARMS), "has fewer false alarms", -1, "authentic"
    if pair is None:
        return "nothing to compare: every pixel is ignored"
    apart = pair.difference
    span = f"B - A is {apart.value:.3f} [{apart.low:.3f}, {apart.high:.3f}]"
    if apart.images < FEW_IMAGES:
        return f"too few images to tell: {apart.images} {kind} ones, {FEW_IMAGES} at least ({span})"
    if not pair.is_shown:
        return f"no difference shown: {span}"
    low, high = sorted((abs(apart.low), abs(apart.high)))
    better = "B" if sign * apart.value > 0 else "A"
    words = f"{better} {what} by {abs(apart.value):.3f} [{low:.3f}, {high:.3f}]"
    alarms = found.metrics.get(FALSE_ALARMS)
    if kind == "authentic" or alarms is None or not alarms.is_shown or alarms.difference.value * apart.value < 0:
        return words
    more = abs(alarms.difference.value)
    return f"{words} in F1, but calls more of the pixels of authentic images forged, by {more:.3f}"


def lines(result: ComparisonResult) -> list[str]:
    """The whole result as text for people."""
    found = [f"A  {result['first']}", f"B  {result['second']}"]
    for one in result["sets"]:
        found += ["", f"{one['name']} ({one['fingerprint'][:12]}, {one['images']} images): {one['verdict']}"]
        rows = [_row(name, metric) for name, metric in one["metrics"].items()]
        rows += [_row(f"F1, {part['by']}: {part['value']}", part) for part in one["slices"]]
        found += [f"  {line}" for line in html.columns(("", "A", "B", "B - A", "95% interval", "images", ""), rows)]
        if one["unmatched"]:
            found.append(f"  {one['unmatched']} images of one of the two alone are left out")
        if one["most_apart"]:
            found.append("  images where F1 differs most:")
            images = [
                (image["key"] or image["id"], f"{image['first']:.3f}", f"{image['second']:.3f}")
                for image in one["most_apart"]
            ]
            found += [f"  {line}" for line in html.columns(("", "A", "B"), images)]
    for which, names in (("A", result["only_first"]), ("B", result["only_second"])):
        if names:
            found += ["", f"of {which} alone, not compared: {', '.join(names)}"]
    return found


def _row(name: str, metric: ComparedMetric) -> tuple[str, ...]:
    numbers = (f"{metric[key]:.3f}" for key in ("first", "second", "difference"))
    span = f"[{metric['low']:.3f}, {metric['high']:.3f}]"
    return name, *numbers, span, str(metric["images"]), "*" if metric["shown"] else ""
