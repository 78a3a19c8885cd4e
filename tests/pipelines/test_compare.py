"""`mpc compare`: evaluations of the same images, what is said of them, and what cannot be compared."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from mpc_model.errors import UserError
from pipelines.artifacts import evaluation
from pipelines.artifacts.scored_sets import NEEDED
from pipelines.compare import compare
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.model_registry import version_metrics
from pipelines.model_registry.version_metrics import VersionMetrics
from pipelines.tracking import client

COUNT = 90
FINGERPRINT = "ab" * 32


def written(folder: Path, f1: np.ndarray, ids: list[str] | None = None, **changed: Any) -> str:
    """An evaluation of images of which every third is authentic, with these F1 of the forged ones."""
    folder.mkdir(parents=True)
    document = {"dataset": "/data/photos", "split": "test", "fingerprint": FINGERPRINT, "precision": "fp32"} | changed
    (folder / evaluation.FILE_NAME).write_text(json.dumps(document))
    is_forged = [number % 3 > 0 for number in range(len(f1))]
    rows = []
    for number, value in enumerate(f1.tolist()):
        row = dict.fromkeys(evaluation.IMAGES_SCHEMA.names)
        row |= {"id": f"image-{number}" if ids is None else ids[number], "key": f"photos/{number}.jpg", "source": "s"}
        row |= {"kind": ("splice", "removal")[number % 2] if is_forged[number] else "authentic"}
        row |= {"height": 100, "width": 100 * (1 + number), "forged_fraction": 0.1 * is_forged[number], "pixels": 9}
        row |= {
            "called_fraction": value / 2,
            **dict.fromkeys(evaluation.PICTURES, b"a picture"),
            "degraded": [("jpeg70", 0.5)],
        }
        if is_forged[number]:
            row |= {"f1": value, "iou": value / 2, "auc": 0.5, "centre_x": 0.5, "centre_y": 0.1}
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows, evaluation.IMAGES_SCHEMA), folder / evaluation.IMAGES)
    return str(folder)


def config(tmp_path: Path, *overrides: str) -> Config:
    return recipe.load(None, [f"workspace={tmp_path}/work", "compare.min_images=10", *overrides])


def f1(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).beta(0.6, 0.6, COUNT)


def better(first: np.ndarray) -> np.ndarray:
    """A little better on removals, alike on average on splices."""
    kinds = np.arange(COUNT) % 2
    return np.clip(first + 0.1 * kinds + np.where(np.arange(COUNT) % 4 < 2, 0.001, -0.001), 0, 1)


def test_the_better_model_is_named_with_an_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = written(tmp_path / "a", f1()), written(tmp_path / "b", better(f1()))
    result = compare(config(tmp_path), a, b)
    (one,) = result["sets"]
    is_forged = np.arange(COUNT) % 3 > 0
    expected = (better(f1()) - f1())[is_forged].mean()
    assert one["metrics"]["f1"]["difference"] == pytest.approx(expected)
    lead = rf"B is better by {expected:.3f} \[0\.0\d\d, 0\.0\d\d\] in F1, but calls more .* forged, by 0\.0\d\d"
    assert re.fullmatch(lead, one["verdict"])
    assert (one["images"], one["unmatched"], one["metrics"]["f1"]["images"]) == (COUNT, 0, 60)
    assert one["metrics"]["false_alarm_rate"]["images"] == 30
    assert one["metrics"]["auc"]["shown"] is False
    kinds = {part["value"]: part["shown"] for part in one["slices"] if part["by"] == "kind"}
    assert kinds == {"removal": True, "splice": False}
    assert {part["by"] for part in one["slices"]} == {"kind", "image size"}  # the other properties divide nothing
    out = capsys.readouterr().out
    assert f"photos/test ({FINGERPRINT[:12]}, 90 images): {one['verdict']}" in out
    assert one["most_apart"][0]["key"] in out
    folder = next((tmp_path / "work" / "compare").iterdir())
    stored = json.loads((folder / "comparison.json").read_text())
    assert stored == json.loads(json.dumps(result))
    page = (folder / "comparison.html").read_text()
    assert one["verdict"] in page
    assert page.count("<figure>") == 4 * len(one["most_apart"])


def test_a_lead_that_costs_no_false_alarms_says_nothing_of_them(tmp_path: Path) -> None:
    alike_on_authentic = np.where(np.arange(COUNT) % 3 > 0, better(f1()), f1())
    a, b = written(tmp_path / "a", f1()), written(tmp_path / "b", alike_on_authentic)
    (one,) = compare(config(tmp_path), a, b)["sets"]
    assert re.fullmatch(r"B is better by 0\.0\d\d \[0\.0\d\d, 0\.0\d\d\]", one["verdict"])


def test_the_order_of_the_two_turns_the_verdict_round(tmp_path: Path) -> None:
    a, b = written(tmp_path / "a", f1()), written(tmp_path / "b", better(f1()))
    forth, back = (compare(config(tmp_path), *pair)["sets"][0] for pair in ((a, b), (b, a)))
    assert back["verdict"] == forth["verdict"].replace("B", "A")
    assert len(list((tmp_path / "work" / "compare").iterdir())) == 2


def test_a_model_and_itself_do_not_differ(tmp_path: Path) -> None:
    (one,) = compare(config(tmp_path), written(tmp_path / "a", f1()), str(tmp_path / "a"))["sets"]
    assert one["verdict"] == "no difference shown: B - A is 0.000 [0.000, 0.000]"
    assert not any(metric["shown"] for metric in [*one["metrics"].values(), *one["slices"]])
    assert one["most_apart"] == []


def test_a_finished_comparison_is_reused_and_printed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = written(tmp_path / "a", f1()), written(tmp_path / "b", better(f1()))
    first = compare(config(tmp_path), a, b)
    printed = capsys.readouterr().out
    (tmp_path / "a" / evaluation.IMAGES).write_bytes(b"not read again")
    assert compare(config(tmp_path), a, b) == first
    again = capsys.readouterr()
    assert again.out == printed
    assert "finished" in again.err


def test_images_are_matched_by_id_and_others_are_left_out(tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(COUNT)
    a = written(tmp_path / "a", f1())
    renamed = [f"image-{number}" if number < 80 else f"other-{number}" for number in range(COUNT)]
    b = tmp_path / "b"
    written(b, f1(), renamed)
    pq.write_table(pq.read_table(b / evaluation.IMAGES).take(order), b / evaluation.IMAGES)
    (one,) = compare(config(tmp_path), a, str(b))["sets"]
    assert (one["images"], one["unmatched"]) == (80, 20)
    assert one["metrics"]["f1"]["difference"] == 0


def test_few_images_show_nothing(tmp_path: Path) -> None:
    a, b = written(tmp_path / "a", np.zeros(9)), written(tmp_path / "b", np.ones(9))
    (one,) = compare(config(tmp_path), a, b)["sets"]
    assert one["verdict"].startswith("too few images to tell: 6 forged ones, 10 at least")
    assert not one["metrics"]["f1"]["shown"]


def test_sets_are_matched_by_fingerprint_and_the_others_named(tmp_path: Path) -> None:
    for which, fingerprints in (("a", "01"), ("b", "12")):
        names = {f"set {digit}": digit * 64 for digit in fingerprints}
        for name, fingerprint in names.items():
            written(tmp_path / which / "sets" / name, f1(), fingerprint=fingerprint)
        metrics = {n: json.loads((tmp_path / which / "sets" / n / evaluation.FILE_NAME).read_text()) for n in names}
        (tmp_path / which / evaluation.FILE_NAME).write_text(json.dumps({"sets": metrics}))
    result = compare(config(tmp_path), str(tmp_path / "a"), str(tmp_path / "b"))
    assert [one["name"] for one in result["sets"]] == ["set 1"]
    assert (result["only_first"], result["only_second"]) == (["set 0"], ["set 2"])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"fingerprint": "cd" * 32}, r"different sets, A on photos/test \(abababababab, test\), B on .*\(cdcdcdcdcdcd"),
        ({"split": "validation"}, "different sets"),
        ({"precision": "bf16"}, r"scored in fp32 by A and in bf16 by B; .*evaluate\.precision"),
        ({"classes": ["a", "b", "c"]}, "several classes"),
        ({"fingerprint": "short"}, "is damaged .fingerprint"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(changed: dict, words: str, tmp_path: Path) -> None:
    a, b = written(tmp_path / "a", f1()), written(tmp_path / "b", f1(), **changed)
    with pytest.raises(UserError, match=words) as refused:
        compare(config(tmp_path), a, b)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "work").exists()


def registered(store: MlflowClient, folder: Path, values: np.ndarray, alias: str) -> None:
    """A version that carries the scores of its images, as `mpc register` leaves it."""
    metrics = VersionMetrics("1" * 64, FINGERPRINT, "test", "/data", 0.5, 0.25, 0.1, 60, 30, 0.2, 0.5, {}, [])
    images = pq.read_table(Path(written(folder / "evaluation", values)) / evaluation.IMAGES, columns=list(NEEDED))
    (folder / "entry" / "evaluations").mkdir(parents=True)
    pq.write_table(images, folder / "entry" / "evaluations" / f"{metrics.file_name}.parquet")
    version = store.create_model_version("mine", str(folder / "entry")).version
    for key, value in version_metrics.to_tag(metrics).items():
        store.set_model_version_tag("mine", version, key, value)
    store.set_registered_model_alias("mine", alias, version)


def test_registered_versions_are_compared_by_the_images_that_they_carry(tmp_path: Path) -> None:
    settings = config(tmp_path, f"tracking.uri=sqlite:///{tmp_path}/mlflow.db")
    store = client.client(settings)
    store.create_registered_model("mine")
    registered(store, tmp_path / "1", f1(), "champion")
    registered(store, tmp_path / "2", better(f1()), "candidate")
    result = compare(settings, "models:/mine@champion", "models:/mine/2")
    assert (result["first"], result["second"]) == ("mine, version 1", "mine, version 2")
    (one,) = result["sets"]
    assert one["verdict"].startswith("B is better by 0.0")
    assert {part["by"] for part in one["slices"]} == {"kind"}
    with_folder = compare(settings, "models:/mine@champion", str(tmp_path / "2" / "evaluation"))
    assert with_folder["sets"][0]["metrics"]["f1"] == one["metrics"]["f1"]
    for absent in ("models:/mine/7", "models:/mine@nobody", "models:/other/1"):
        with pytest.raises(UserError, match=f"there is no {absent} in sqlite"):
            compare(settings, "models:/mine/1", absent)
    (tmp_path / "2" / "entry" / "evaluations").rename(tmp_path / "gone")
    with pytest.raises(UserError, match="an earlier version registered it"):
        compare(recipe.revised(settings, "compare.min_images=11"), "models:/mine/1", "models:/mine/2")


def test_what_is_no_evaluation_is_refused(tmp_path: Path) -> None:
    a = written(tmp_path / "a", f1())
    with pytest.raises(UserError, match="no finished evaluation"):
        compare(config(tmp_path), a, str(tmp_path))
    (tmp_path / "a" / evaluation.IMAGES).unlink()
    with pytest.raises(UserError, match=r"has no images.parquet: an earlier version made it"):
        compare(config(tmp_path), a, a)
    (tmp_path / "a" / evaluation.IMAGES).write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"images\.parquet is damaged"):
        compare(config(tmp_path), a, a)
    for name in ("models:/mine@champion", "models:/mine/3"):
        with pytest.raises(UserError, match="there is no MLflow database"):
            compare(config(tmp_path), a, name)
    for name in ("models:/", "models:/mine", "models:/mine/3@champion"):
        with pytest.raises(UserError, match="names no registered version"):
            compare(config(tmp_path), a, name)
