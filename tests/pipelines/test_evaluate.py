"""A model on a split: the metrics of the protocol, and datasets that cannot be read."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from support import tiny

from mpc_model.errors import DataError, UserError
from mpc_model.evaluation.metrics import Scores, image_score, pixel_scores
from mpc_model.imaging import codecs
from mpc_model.localizer import Localizer
from pipelines import reuse
from pipelines.artifacts import record, untrained
from pipelines.build import build
from pipelines.commands import COMMANDS
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader
from pipelines.evaluate import _metrics, _result, _Run, _score_all, evaluate, summary_line
from pipelines.inference.scorer import METHODS, ScoredImage


def test_the_figures_are_those_of_the_protocol(trained: Config) -> None:
    found = evaluate(trained)
    dataset = str(trained.build.output)
    reader = ShardReader(dataset, Manifest.read(dataset), "test")
    model = Localizer.load(Path(str(trained.finetune.output), "model"))
    f1, whole = [], []
    for group in range(len(reader.sizes)):
        for row in reader.read(group):
            if row["kind"] == "authentic":
                continue
            view = row["views"][0]
            mask = codecs.decode_mask(view["mask"], "row")
            f1.append(pixel_scores(model.predict([codecs.decode_image(view["image"], "row")])[0], mask).f1)
            whole.append(2 * mask.mean() / (1 + mask.mean()))  # precision = share, recall = 1
    assert found["model"]["f1"] == pytest.approx(np.mean(f1), abs=1e-6)
    assert found["everything_forged"]["f1"] == pytest.approx(np.mean(whole))
    assert found["model"]["forged_images"] == len(f1)
    assert 0 <= found["untrained"]["f1"] <= 1
    listed = json.loads(Path(str(trained.evaluate.output), "images.json").read_text())
    assert len(listed) == Manifest.read(dataset).splits["test"].samples
    sheet = codecs.decode_image(Path(found["pictures"][0]).read_bytes(), "sheet")
    assert sheet.std() > 20


def test_a_damaged_shard_is_named_and_not_a_traceback(trained: Config, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    shutil.copytree(str(trained.build.output), dataset)
    shard = next((dataset / "shards").glob("test-*.parquet"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-8] + bytes(8))
    update = trained.evaluate.model_copy(update={"dataset": str(dataset), "output": str(tmp_path / "out")})
    with pytest.raises(DataError, match=rf"shard {shard.stem} of {dataset} is damaged.*the same `mpc build` again"):
        evaluate(trained.model_copy(update={"evaluate": update}))
    shard.write_bytes(whole[:-100])
    lacking = rf"{dataset} lacks files or parts of them: shards/{shard.name} .*bytes instead of {len(whole)}\); run the"
    with pytest.raises(DataError, match=lacking):
        evaluate(trained.model_copy(update={"evaluate": update}))


def test_the_untrained_network_is_scored_once(
    trained: Config, registered: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The results of the second evaluation are those of the first, to the last bit."""
    spec = Localizer.load(str(trained.evaluate.model)).spec
    fingerprint = Manifest.read(str(trained.build.output)).fingerprint
    origin = untrained.made_from(spec, trained.seed, fingerprint, "test", "fp32")
    file = Path(untrained.location(trained.workspace, origin))
    before = file.stat().st_mtime_ns
    again = recipe.revised(trained, f"evaluate.output={tmp_path}")
    capsys.readouterr()
    evaluate(again)
    assert "the scores of the untrained network are those of an earlier evaluation" in capsys.readouterr().err
    assert file.stat().st_mtime_ns == before
    for name in ("metrics.json", "images.json"):
        assert (tmp_path / name).read_bytes() == Path(str(trained.evaluate.output), name).read_bytes()


def test_an_evaluation_in_bf16_says_what_that_changes(
    trained: Config, registered: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exact = record.read(str(trained.evaluate.output))
    assert (exact.results["precision"], exact.results["against_fp32"]) == ("fp32", None)
    assert "precision" not in exact.identity  # as in evaluations of earlier versions
    changes = [
        f"evaluate.output={tmp_path}",
        "evaluate.precision=bf16",
        "evaluate.robustness=[]",
        f"workspace={tmp_path}",
    ]
    found = evaluate(recipe.revised(trained, *changes))
    compared = found["against_fp32"]
    assert found["precision"] == "bf16"
    assert compared is not None
    groups = len(ShardReader(str(trained.build.output), Manifest.read(str(trained.build.output)), "test").sizes)
    assert compared["images"] == groups == 3  # of each one
    assert 0 < compared["mean_difference"] < compared["largest_difference"] < 0.3
    assert compared["f1"] is not None
    assert compared["f1_fp32"] is not None
    largest = f"a probability differs by {compared['largest_difference']:.2g} at most"
    assert f"bf16 against fp32 on 3 images: {largest}" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"precision differs"):
        evaluate(recipe.revised(trained, *(change for change in changes if "precision" not in change)))


def scored(kind: str, f1: float, forged: float, called: float, pixels: int = 100) -> ScoredImage:
    scores = Scores(f1, f1 / 2, 0.0, 0.0, forged, called, pixels)
    return ScoredImage(kind, f"a/{kind}", kind, 0, 0, 0.75, dict.fromkeys(METHODS, scores), {"jpeg70": scores})


SPLICE, AUTHENTIC, IGNORED = (
    scored("splice", 0.5, 0.2, 0.3),
    scored("authentic", 0.0, 0.0, 0.125),
    scored("copy_move", 0.0, 0.0, 0.0, pixels=0),
)


@pytest.mark.parametrize(
    ("images", "f1", "false_alarms", "by_kind", "line"),
    [
        ([SPLICE, AUTHENTIC], 0.5, 0.125, {"splice": 0.5}, "F1 0.500, IoU 0.250 (mean over 1 forged images, threshold"),
        ([SPLICE, IGNORED], 0.5, None, {"copy_move": None, "splice": 0.5}, "F1 0.500, IoU 0.250 (mean over 1 forged"),
        (
            [AUTHENTIC],
            None,
            0.125,
            {},
            "no F1, since no forged image is scored; false alarms 0.1250 of the pixels",
        ),
        ([IGNORED], None, None, {"copy_move": None}, "no F1 and no false alarms: every pixel of the split is ignored"),
    ],
)
def test_what_a_split_without_one_class_has_no_metric_of_is_none(
    built: Config,
    images: list[ScoredImage],
    f1: float | None,
    false_alarms: float | None,
    by_kind: dict[str, float | None],
    line: str,
) -> None:
    config = recipe.revised(built, "evaluate.robustness=[jpeg70]")
    metrics = _metrics(images, config, 0.5, "f" * 64, [])
    for method in METHODS:
        assert metrics[method]["f1"] == f1  # type: ignore[literal-required]
        assert metrics[method]["false_alarm_rate"] == false_alarms  # type: ignore[literal-required]
    assert metrics["f1_by_kind"] == by_kind
    assert metrics["robustness"]["jpeg70"]["f1"] == f1
    assert summary_line(metrics["model"], 0.5).startswith(line)
    json.dumps(metrics, allow_nan=False)
    logged = COMMANDS["evaluate"].metrics
    assert logged
    assert all(math.isfinite(value) for value in logged(metrics).values())


def test_a_caption_says_what_is_not_defined() -> None:
    assert [_result(image) for image in (SPLICE, AUTHENTIC, IGNORED)] == [
        "F1 0.50",
        "false alarms 0.1250",
        "every pixel ignored",
    ]


def test_authentic_images_alone_give_false_alarms(trained: Config, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "authentic").symlink_to(photos)
    source = {"name": "clean", "layout": "pairs", "location": str(tmp_path / "in"), "split": "test", "limit": 4}
    model = f"evaluate.model={trained.finetune.output}/model"
    overrides = [f"workspace={tmp_path / 'ws'}", f"build.sources=[{json.dumps(source)}]", model, "evaluate.pictures=2"]
    config = recipe.load(None, overrides)
    manifest = build(config)
    assert (manifest.splits["test"].samples, manifest.splits["test"].forged) == (4, 0)
    found = evaluate(config)
    summary = found["model"]
    assert (summary["f1"], summary["iou"], summary["precision"], summary["recall"]) == (None, None, None, None)
    assert (summary["forged_images"], summary["authentic_images"]) == (0, 4)
    assert found["everything_forged"]["false_alarm_rate"] == 1
    assert found["f1_by_kind"] == {}
    assert found["robustness"]["jpeg70"]["f1"] is None
    entries = json.loads(Path(str(config.evaluate.output), "images.json").read_text())
    model_of = Localizer.load(Path(str(trained.finetune.output), "model"))
    reader = ShardReader(str(config.build.output), manifest, "test")
    rows = [row for group in range(len(reader.sizes)) for row in reader.read(group)]
    for entry, row in zip(entries, rows, strict=True):
        probability = model_of.predict([codecs.decode_image(row["views"][0]["image"], "row")])[0]
        assert entry["score"] == pytest.approx(image_score(probability), abs=1e-5)
        assert entry["called_fraction"] == pytest.approx((np.rint(probability * 255) > 127).mean(), abs=1e-3)
        assert entry["model"] == {"f1": None, "iou": None}
    assert summary["false_alarm_rate"] == pytest.approx(np.mean([entry["called_fraction"] for entry in entries]))
    assert codecs.decode_image(Path(found["pictures"][0]).read_bytes(), "sheet").std() > 20


def test_scores_of_another_model_are_not_taken_up(trained: Config, tmp_path: Path) -> None:
    """Left by a command that was killed, where somebody deleted its record and began with another model."""
    manifest = Manifest.read(str(trained.build.output))
    reader = ShardReader(str(trained.build.output), manifest, "test")
    found = []
    for seed in (0, 1):
        tiny(seed=seed).save(tmp_path / f"{seed}")
        update = {"model": str(tmp_path / f"{seed}"), "output": str(tmp_path / "out"), "workers": 0, "robustness": []}
        settings = trained.evaluate.model_copy(update=update)
        config = trained.model_copy(update={"evaluate": settings, "workspace": str(tmp_path / f"workspace-{seed}")})
        identity = reuse.evaluation_identity(config, manifest)
        found.append(_score_all(_Run(config, identity, tiny(), manifest, reader, [], resumed=True)))
    assert [image.id for image in found[0]] == [image.id for image in found[1]]
    assert [image.image_score for image in found[0]] != [image.image_score for image in found[1]]
