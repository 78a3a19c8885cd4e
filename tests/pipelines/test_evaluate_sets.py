"""Several test sets at once: datasets and sources, averages, and the published table beside them."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support import tiny

from mpc_model.errors import MPCError, UserError
from mpc_model.evaluation.metrics import average_over_sets
from pipelines import reuse
from pipelines.artifacts import record
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.evaluate import evaluate
from pipelines.evaluate_sets import published_rows
from pipelines.model_registry import version_metrics
from pipelines.model_registry.audit_trail import Refused
from pipelines.promote import promote
from pipelines.register import register
from pipelines.tracking import client


@pytest.fixture(scope="module")
def sets(built: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """An untrained model on a split of a dataset, on a source of forged pairs, and on one of authentic images alone."""
    folder = tmp_path_factory.mktemp("sets")
    tiny().save(folder / "model")
    rng = np.random.default_rng(0)
    for kind in ("pairs/images", "pairs/masks", "clean/authentic"):
        (folder / kind).mkdir(parents=True)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    for number in range(4):
        image = cv2.resize(rng.integers(0, 255, (8, 8, 3), np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "pairs" / "images" / f"{number}.png"), image)
        cv2.imwrite(str(folder / "pairs" / "masks" / f"{number}.png"), mask)
        cv2.imwrite(str(folder / "clean" / "authentic" / f"{number}.png"), image[::-1])
    chosen = {
        "casia1": {"dataset": str(built.build.output)},
        "pairs": {"source": {"layout": "pairs", "location": f"{folder}/pairs"}},
        "clean": {"source": {"layout": "pairs", "location": f"{folder}/clean"}},
    }
    return recipe.revised(
        built,
        f"evaluate.model={folder}/model",
        f"evaluate.output={folder}/out",
        f"evaluate.sets={json.dumps(chosen)}",
        "evaluate.robustness=[]",
        "evaluate.workers=0",
        f"workspace={folder}",
    )


@pytest.fixture(scope="module")
def found(sets: Config) -> Any:
    return evaluate(sets)


def test_each_set_is_an_evaluation_of_its_own(sets: Config, found: Any) -> None:
    output = Path(str(sets.evaluate.output))
    document = json.loads((output / "metrics.json").read_text())
    assert list(document["sets"]) == ["casia1", "pairs", "clean"]
    for name, metrics in document["sets"].items():
        assert json.loads((output / "sets" / name / "metrics.json").read_text()) == metrics
        assert (output / "sets" / name / "images.parquet").exists()
        assert record.read(str(output / "sets" / name)).finished
    assert [one["name"] for one in document["sets"].values()] == ["photos/test", "pairs/test", "clean/test"]
    pairs, clean = document["sets"]["pairs"]["model"], document["sets"]["clean"]["model"]
    assert (pairs["forged_images"], pairs["false_alarm_rate"]) == (4, None)
    assert (clean["f1"], clean["authentic_images"]) == (None, 4)
    with_f1 = {name: one["model"] for name, one in document["sets"].items() if one["model"]["f1"] is not None}
    assert document["averages"] == pytest.approx(average_over_sets(with_f1))
    assert (output / "report.html").exists()
    assert record.read(str(output)).results["averages"] == document["averages"]


def test_the_published_table_is_shown_for_public_sets_alone(sets: Config, found: Any) -> None:
    rows = found["published"]
    assert {row["set"] for row in rows} == {"casia1"}
    assert (rows[0]["method"], rows[0]["note"]) == ("this model", "not trained on the same data")
    assert rows[0]["f1"] == found["sets"]["casia1"]["model"]["f1"]
    by_method = {(row["method"], row["protocol"]): row["f1"] for row in rows}
    assert by_method["TruFor", "large"] == 0.696
    assert by_method["MPC", "small"] == 0.448
    assert published_rows(found["sets"], {"trained_on": []})[0]["note"] == "not trained on the same data"
    other = {"casia1": {**found["sets"]["casia1"], "threshold": 0.45}}
    note = "not trained on the same data; at threshold 0.45, not 0.5"
    assert published_rows(other, {"trained_on": []})[0]["note"] == note


def test_sets_that_are_finished_are_not_scored_again(
    sets: Config, found: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reuse.finished_evaluate(sets) is None  # a build finds out whether the files of a source changed
    again = evaluate(sets)
    assert again["averages"] == found["averages"]  # type: ignore[typeddict-item]
    said = capsys.readouterr().err
    assert said.count("reusing the finished evaluation") == 3
    assert said.count("reusing the finished dataset") == 2
    assert "average, weighted" in said
    assert "CASIA v1: TruFor" in said


def test_datasets_alone_are_reused_without_the_command(sets: Config, tmp_path: Path, found: Any) -> None:
    done = {name: {"dataset": found["sets"][name]["dataset"]} for name in ("pairs", "clean")}
    again = recipe.load(
        None,
        [
            f"workspace={tmp_path}/ws",
            f"evaluate.model={sets.evaluate.model}",
            f"evaluate.output={tmp_path}/out",
            f"evaluate.sets={json.dumps(done)}",
            "evaluate.robustness=[]",
            "evaluate.workers=0",
        ],
    )
    first = evaluate(again)
    assert reuse.finished_evaluate(again) is not None
    assert first["sets"]["pairs"]["model"] == found["sets"]["pairs"]["model"]  # type: ignore[typeddict-item]


def test_each_set_is_registered_by_itself_also_where_two_are_called_the_same(
    sets: Config, found: Any, tmp_path: Path
) -> None:
    """Two datasets whose only source is called `pairs`: MLflow's pages compare metrics by their names."""
    other = tmp_path / "pairs"
    shutil.copytree(str(sets.evaluate.sets["pairs"].source.location), other)  # type: ignore[union-attr]
    shutil.copyfile(other / "images" / "0.png", other / "images" / "4.png")
    shutil.copyfile(other / "masks" / "0.png", other / "masks" / "4.png")
    one = {"other": {"source": {"name": "pairs", "layout": "pairs", "location": str(other)}}}
    more = recipe.revised(sets, f"evaluate.sets={json.dumps(one)}", f"evaluate.output={tmp_path}/more")
    evaluate(more)
    config = recipe.revised(
        more,
        f"tracking.uri=sqlite:///{tmp_path}/mlflow.db",
        f"workspace={tmp_path}",
        f"register.model={sets.evaluate.model}",
        f"register.evaluation=[{sets.evaluate.output}, {tmp_path}/more]",
    )
    made = register(config)
    store = client.client(config)
    version = store.get_model_version(made["name"], made["version"])
    of_sets = {metrics.fingerprint: metrics for metrics in version_metrics.from_tags(version.tags).values()}
    measured = [*found["sets"].values(), json.loads((tmp_path / "more" / "metrics.json").read_text())["sets"]["other"]]
    assert len(of_sets) == len(measured) == 4
    logged = store.get_run(version.run_id).data.metrics
    for metrics in measured:
        of_set = of_sets[metrics["fingerprint"]]
        assert (of_set.f1, of_set.false_alarm_rate) == (metrics["model"]["f1"], metrics["model"]["false_alarm_rate"])
        name = f"pairs/test _{metrics['fingerprint'][:12]}_" if metrics["name"] == "pairs/test" else metrics["name"]
        assert logged.get(f"{name}/f1") == metrics["model"]["f1"]
        assert name.replace(" _", " (").replace("_", ")") in str(version.description)
    assert "pairs/test/f1" not in logged
    with pytest.raises(Refused, match=r"baselines: on pairs/test \(.*images: on pairs/test"):
        promote(config)


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ("{a: {}}", "give either dataset or source"),
        ("{a/b: {dataset: d}}", "a/b"),
        ("{a: {dataset: d, source: {layout: pairs, location: l}}}", "give either dataset or source"),
        ("{a: {source: {layout: pairs, location: l}, split: train}}", "leave split out"),
        ("{a: {source: {layout: pairs, location: l, splitt: test}}}", "splitt"),
        ("{a: {dataset: d}, a: {dataset: e}}", "a"),
    ],
)
def test_sets_that_cannot_be_are_refused_in_one_line(sets: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        recipe.load(None, [f"evaluate.sets={sets}"])
    assert "\n" not in str(error.value)


def test_a_split_beside_sets_is_refused() -> None:
    with pytest.raises(UserError, match="each of the sets has a split of its own"):
        recipe.load(None, ["evaluate.sets={a: {dataset: d}}", "evaluate.split=validation"])


def test_a_set_that_cannot_be_evaluated_claims_no_output(built: Config, tmp_path: Path) -> None:
    tiny().save(tmp_path / "model")
    keys = [f"workspace={tmp_path}/ws", f"evaluate.model={tmp_path}/model", f"evaluate.output={tmp_path}/out"]
    first = f"a: {{dataset: {built.build.output}}}"
    for second, words in (
        (f"b: {{source: {{layout: pairs, location: {tmp_path}/missing}}}}", "nothing found at"),
        (f"b: {{source: {{layout: pears, location: {tmp_path}}}}}", "pears"),
    ):
        with pytest.raises(MPCError, match=words):
            evaluate(recipe.load(None, [*keys, f"evaluate.sets={{{first}, {second}}}"]))
    with pytest.raises(UserError, match="unknown degradation"):
        evaluate(recipe.load(None, [*keys, f"evaluate.sets={{{first}}}", "evaluate.robustness=[jpg70]"]))
    assert not (tmp_path / "out").exists()
