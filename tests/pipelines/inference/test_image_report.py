"""Stored scores of a split become images.parquet and metrics, in a memory that does not grow with the images."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mpc_model.evaluation.metrics import Scores
from mpc_model.imaging import codecs
from pipelines.artifacts.evaluation import IMAGES, IMAGES_SCHEMA, PICTURES
from pipelines.inference import gallery, image_report, score_store
from pipelines.inference.image_report import Request, caption_of
from pipelines.inference.scorer import METHODS, ScoredImage, as_rows

FILES = gallery.encoded(gallery.small(np.zeros((8, 8, 3), np.uint8), np.eye(8, dtype=np.uint8), np.eye(8, dtype="f4")))


def image(group: int, row: int, f1: float, forged: bool = True) -> ScoredImage:
    scores = Scores(f1, f1 / 2, f1, f1, 0.25 if forged else 0.0, 0.5, 64)
    kind, centre = ("splice", (0.25, 0.75)) if forged else ("authentic", None)
    return ScoredImage(
        *(f"{group}-{row}", f"a/{group}-{row}", kind, "a", group, row, 8, 8, 90, centre, 0.5),
        dict.fromkeys(METHODS, scores),
        {"jpeg70": scores} if forged else {},
        files=FILES if row < 4 else None,
    )


def request(output: Path, groups: int, of_group: pa.Table) -> Request:
    """A request for as many row groups, all with the rows of one, 64 in a file."""
    files = {}
    for start in range(0, groups, 64):
        numbers = range(start, min(start + 64, groups))
        rows = [of_group.set_column(0, "group", pa.array([n] * len(of_group), pa.int32())) for n in numbers]
        done = score_store.add(str(output), "k", numbers, pa.concat_tables(rows))
        files |= dict.fromkeys(numbers, done["location"][0].as_py())
    return Request(files, str(output), 0.5, 0.5, ["jpeg70"], gallery=20, pictures=3, seed=0)


def test_the_table_has_a_row_an_image_in_the_order_of_the_split(tmp_path: Path) -> None:
    rows = as_rows([image(0, row, row / 8, forged=row != 5) for row in range(8)])
    report = image_report.made(request(tmp_path, 70, rows))
    table = pq.read_table(tmp_path / IMAGES)
    assert table.schema.equals(IMAGES_SCHEMA)
    assert table["id"].to_pylist() == [f"0-{row}" for row in range(8)] * 70
    assert table["f1"][:8].to_pylist() == [0.0, 0.125, 0.25, 0.375, 0.5, None, 0.75, 0.875]
    first, authentic = table.slice(1, 1).to_pylist()[0], table.slice(5, 1).to_pylist()[0]
    assert (first["centre_x"], first["centre_y"], first["quality"]) == (0.25, 0.75, 90)
    assert first["degraded"] == [("jpeg70", 0.125)]
    assert (authentic["centre_x"], authentic["degraded"], authentic["called_fraction"]) == (None, [], 0.5)
    assert sum(file is not None for file in table[PICTURES[0]].to_pylist()) == 20
    assert report.measured["model"]["f1"] == pytest.approx(np.mean([0, 1, 2, 3, 4, 6, 7]) / 8)
    assert (report.measured["model"]["forged_images"], report.measured["model"]["authentic_images"]) == (490, 70)
    assert codecs.decode_image(report.sheet, "sheet").shape[0] > 3 * gallery.SIDE


def test_a_crop_that_leaves_nothing_forged_has_no_f1() -> None:
    whole = image(0, 0, 0.5)
    nothing = Scores(0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 16)
    scores = whole.scores | {"constant_map": whole.scores["model"]}
    cropped = replace(whole, scores=scores, degraded={**whole.degraded, "crop0.5": nothing})
    (row,) = image_report.rows([cropped], [False]).to_pylist()
    assert row["degraded"] == [("jpeg70", 0.5)]


def test_scores_of_the_untrained_network_that_were_remembered_are_put_in_their_places(tmp_path: Path) -> None:
    rows = as_rows([image(0, row, 0.5) for row in range(4)])
    asked = request(tmp_path, 2, rows)
    remembered = [Scores(n / 8, n / 16, 0.0, 0.0, 0.25, 0.5, 64) for n in range(8)]
    image_report.made(Request(**{**vars(asked), "untrained": remembered}))
    assert pq.read_table(tmp_path / IMAGES)["untrained_f1"].to_pylist() == [n / 8 for n in range(8)]


@pytest.mark.parametrize("counts", [(1000, 3000), pytest.param((2000, 20000), marks=pytest.mark.slow)])
def test_many_times_the_images_take_no_more_memory(counts: tuple[int, int], tmp_path: Path) -> None:
    rows = as_rows([image(0, row, row / 16) for row in range(16)])
    peaks = []
    for images in counts:
        asked = request(tmp_path / f"{images}", images // 16, rows)
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        image_report.made(asked)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert pa.total_allocated_bytes() - before < 2**20
    assert (
        peaks[1] - peaks[0] < (counts[1] - counts[0]) * 200
    )  # bytes: a few numbers an image; its row and pictures take thousands


def test_a_caption_says_what_is_not_defined() -> None:
    ignored = Scores(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0)
    images = [image(0, 0, 0.5), image(0, 0, 0.0, forged=False), image(0, 0, 0.0)]
    images[2].scores["model"] = ignored
    assert [caption_of(one) for one in images] == ["F1 0.50", "false alarms 0.5000", "every pixel ignored"]
