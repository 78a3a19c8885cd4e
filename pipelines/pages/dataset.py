"""The page of a pixel dataset, where its own `report.html` is not there."""

from pipelines.dataset import reader, rejects, report
from pipelines.dataset.counts import Statistics
from pipelines.dataset.manifest import Manifest
from pipelines.runtime import storage, uris


def made(uri: str) -> str:
    """The page of a dataset, from its manifest, its rejects and some of its samples. DataError where it is damaged."""
    manifest = Manifest.read(uri)
    statistics = Statistics.from_json(manifest.statistics)
    there = storage.exists(uris.join(uri, rejects.REJECTS))
    left_out = rejects.read(uri, manifest.rejects) if there else []
    samples = reader.sample_rows(uri, manifest)
    return report.dataset_page(manifest, statistics, left_out, samples, manifest.near_duplicates)
