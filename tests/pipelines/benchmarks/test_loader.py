"""The loaders that are compared give the same batches."""

from pathlib import Path

import pytest

from pipelines.benchmarks import loader
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest


def test_loaders_do_the_same_work(built: Config, tmp_path: Path) -> None:
    results = loader.measure_loaders(built, tmp_path, rounds=1)  # raises where a batch differs
    uri = str(built.build.output)
    manifest = Manifest.read(uri)
    assert results["samples"] == manifest.splits["train"].samples
    assert len(list(tmp_path.iterdir())) == 2 * manifest.views * results["samples"]
    assert results["ratio_to_best_dataloader"] == pytest.approx(
        results["pixel_loader_samples_per_second"]
        / max(results["dataloader_files_samples_per_second"], results["dataloader_shards_samples_per_second"])
    )
