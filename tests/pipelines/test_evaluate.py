"""A model on a split: the metrics of the protocol, and datasets that cannot be read."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mpc_model.errors import DataError
from mpc_model.evaluation.metrics import pixel_scores
from mpc_model.imaging import codecs
from mpc_model.localizer import Localizer
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader
from pipelines.evaluate import evaluate


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
