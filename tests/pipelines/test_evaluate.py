"""A model on a split: the metrics of the protocol, and datasets that cannot be read."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support import tiny

from mpc_model.errors import DataError, UserError
from mpc_model.evaluation.metrics import image_score, pixel_scores
from mpc_model.imaging import codecs
from mpc_model.localizer import Localizer
from pipelines import reuse
from pipelines.artifacts import record, untrained
from pipelines.artifacts.evaluation import IMAGES, IMAGES_SCHEMA
from pipelines.build import build
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader
from pipelines.evaluate import _Run, _score_all, evaluate
from pipelines.inference import image_report
from pipelines.pages import evaluation as page
from pipelines.runtime import storage


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
    listed = pq.read_table(Path(str(trained.evaluate.output), IMAGES))
    assert listed.schema.equals(IMAGES_SCHEMA)
    assert listed["f1"].drop_null().to_pylist() == pytest.approx(f1, abs=1e-6)
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
    for name in ("metrics.json", IMAGES):
        assert (tmp_path / name).read_bytes() == Path(str(trained.evaluate.output), name).read_bytes()
    report = (tmp_path / "report.html").read_bytes()
    (tmp_path / "report.html").unlink()  # as of an evaluation of an earlier version
    assert reuse.finished_evaluate(again) is None
    evaluate(again)
    assert (tmp_path / "report.html").read_bytes() == report
    assert reuse.finished_evaluate(again) is not None


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


def test_authentic_images_alone_give_false_alarms(
    trained: Config, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "authentic").symlink_to(photos)
    source = {"name": "clean", "layout": "pairs", "location": str(tmp_path / "in"), "split": "test", "limit": 4}
    model = f"evaluate.model={trained.finetune.output}/model"
    overrides = [f"workspace={tmp_path / 'ws'}", f"build.sources=[{json.dumps(source)}]", model, "evaluate.pictures=2"]
    config = recipe.load(None, overrides)
    manifest = build(config)
    assert (manifest.splits["test"].samples, manifest.splits["test"].forged) == (4, 0)
    with monkeypatch.context() as patched:  # an evaluation without its page is not finished
        patched.setattr(page, "write", lambda output: storage.read_bytes(f"{output}/missing"))
        with pytest.raises(UserError, match="missing"):
            evaluate(config)
    assert not record.read(str(config.evaluate.output)).finished
    found = evaluate(config)
    assert Path(str(config.evaluate.output), "report.html").exists()
    summary = found["model"]
    assert (summary["f1"], summary["iou"], summary["precision"], summary["recall"]) == (None, None, None, None)
    assert (summary["forged_images"], summary["authentic_images"]) == (0, 4)
    assert found["everything_forged"]["false_alarm_rate"] == 1
    assert found["f1_by_kind"] == {}
    assert found["robustness"]["jpeg70"]["f1"] is None
    entries = pq.read_table(Path(str(config.evaluate.output), IMAGES)).to_pylist()
    model_of = Localizer.load(Path(str(trained.finetune.output), "model"))
    reader = ShardReader(str(config.build.output), manifest, "test")
    rows = [row for group in range(len(reader.sizes)) for row in reader.read(group)]
    for entry, row in zip(entries, rows, strict=True):
        probability = model_of.predict([codecs.decode_image(row["views"][0]["image"], "row")])[0]
        assert entry["score"] == pytest.approx(image_score(probability), abs=1e-5)
        assert entry["called_fraction"] == pytest.approx((np.rint(probability * 255) > 127).mean(), abs=1e-3)
        assert [name for name in entry if name.endswith(("f1", "iou")) and entry[name] is not None] == []
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
        request = _score_all(_Run(config, identity, tiny(), manifest, reader, [], resumed=True))
        found.append([image for images in image_report.batches(request) for image in images])
    assert [image.id for image in found[0]] == [image.id for image in found[1]]
    assert [image.image_score for image in found[0]] != [image.image_score for image in found[1]]
