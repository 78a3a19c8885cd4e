"""Statistics: the counts of the rows, which merge in any order."""

import json

import numpy as np
import pytest
from dataset_rows import PICTURE, PNG, SIDE, row, stored

from mpc_model.classes import IGNORED
from mpc_model.imaging import codecs
from pipelines.dataset.counts import KEYS, Statistics, of_rows


def test_merging_in_any_order_gives_the_same_bytes() -> None:
    rows = [row(n, n % 3 > 0, jpeg_quality=70 + n % 5, source="ab"[n % 2]) for n in range(60)]
    whole = json.dumps(of_rows(rows).to_json())
    parts = [of_rows(rows[start::4]) for start in (2, 0, 3, 1)]
    merged = Statistics()
    for part in parts:
        merged.merge(Statistics.from_json(json.loads(json.dumps(part.to_json()))))
    assert json.dumps(merged.to_json()) == whole
    assert json.dumps(of_rows(rows[:-1]).to_json()) != whole


def test_counts_are_those_of_the_rows() -> None:
    quarter = np.zeros((40, 60), np.uint8)
    quarter[:20, :30] = 1
    rows = [
        row(0, False),
        row(
            1,
            True,
            height=40,
            width=60,
            forged_pixels=600,
            kind="remove",
            views=stored(PNG, codecs.encode_mask(quarter)),
        ),
        row(2, True, forged_pixels=SIDE * SIDE, views=stored(codecs.encode_jpeg(PICTURE, 71)) * 3, split="test"),
    ]
    found = of_rows(rows)
    assert found.count_by("samples", "split", "source", "kind") == {
        ("train", "set", "authentic"): 1,
        ("train", "set", "remove"): 1,
        ("test", "set", "splice"): 1,
    }
    assert found.counts["views",] == 5
    assert found.counts["bytes",] == sum(len(v["image"]) + len(v["mask"]) for r in rows for v in r["views"])
    assert found.count_by("area", "kind", "bin") == {
        ("remove", "5"): 1,
        ("splice", "19"): 1,
    }  # 25%, 100%
    assert found.count_by("encoding", "class", "value") == {
        ("authentic", "png"): 1,
        ("forged", "png"): 1,
        ("forged", "jpeg 71"): 1,
    }
    assert found.count_by("size", "value") == {("64x64",): 2, ("40x60",): 1}
    everywhere, corner = np.full((32, 32), 255), np.zeros((32, 32), int)
    corner[:16, :16] = 255
    np.testing.assert_array_equal(found.mask_sums.sum(axis=0), everywhere + corner)


def test_ignored_pixels_are_of_neither_class_and_are_counted() -> None:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:16], mask[16:32] = 1, IGNORED
    views = stored(PNG, codecs.encode_mask(mask))
    with_border, without = row(0, True, views=views, forged_pixels=16 * SIDE), row(0, True, forged_pixels=16 * SIDE)
    without["views"] = stored(PNG, codecs.encode_mask((mask == 1).astype(np.uint8)))
    found, plain = of_rows([with_border]), of_rows([without])
    assert found.count_by("ignored", "split", "source") == {("train", "set"): 16 * SIDE}
    assert not plain.count_by("ignored", "split", "source")
    assert np.array_equal(found.mask_sums, plain.mask_sums)
    assert found.images_by("class") == {("forged",): 1}


def test_classes_scribbles_and_images_without_labels_are_counted() -> None:
    labels, scribble = np.full((SIDE, SIDE), IGNORED, np.uint8), np.full((SIDE, SIDE), IGNORED, np.uint8)
    labels[:10], labels[10:11], scribble[0, :7] = 0, 2, 2
    views = [{**stored(PNG, codecs.encode_labels(labels))[0], "scribble": codecs.encode_labels(scribble)}]
    one = row(0, False, kind="labelled", class_pixels=[10 * SIDE, 0, SIDE], views=views)
    nothing = codecs.encode_labels(np.full((SIDE, SIDE), IGNORED, np.uint8))
    other = row(1, False, kind="unlabelled", class_pixels=[0, 0, 0], views=stored(PNG, nothing))
    found = of_rows([one, one, other])
    assert found.count_by("classes", "label") == {("0",): 20 * SIDE, ("2",): 2 * SIDE}
    assert found.count_by("holding", "label") == {("0",): 2, ("2",): 2}
    assert found.count_by("scribbled", "split", "label") == {("train", "2"): 14}
    assert found.count_by("ignored", "split") == {("train",): 2 * (SIDE - 11) * SIDE + SIDE * SIDE}
    assert found.images_by("class") == {("labelled",): 2, ("unlabelled",): 1}
    assert found.counts["bytes",] == sum(
        len(v["image"]) + len(v["mask"]) for v in [*views * 2, *other["views"]]
    ) + 2 * len(views[0]["scribble"])
    assert Statistics.from_json(found.to_json()).counts == found.counts


def test_the_mask_that_is_passed_is_counted_and_no_view_is_decoded() -> None:
    forged = row(7, True)
    mask = codecs.decode_mask(forged["views"][0]["mask"], "mask")
    passed = Statistics()
    passed.add(forged | {"views": [forged["views"][0] | {"mask": b"x" * len(forged["views"][0]["mask"])}]}, mask)
    assert passed.to_json() == of_rows([forged]).to_json()
    cells = mask.reshape(32, SIDE // 32, 32, SIDE // 32).astype(float).mean(axis=(1, 3))  # the mean of each cell
    np.testing.assert_allclose(passed.mask_sums.sum(axis=0), 255 * cells, atol=0.5)


@pytest.mark.parametrize(("side", "kept"), [(127, 127), (384, 384), (481, 480), (640, 640), (1023, 1016), (4033, 4032)])
def test_sizes_keep_seven_bits(side: int, kept: int) -> None:
    (size,) = of_rows([row(0, False, height=side, width=side)]).count_by("size", "value")
    assert size == (f"{kept}x{kept}",)


def test_columns_are_named_and_an_unknown_one_is_an_error() -> None:
    statistics = of_rows([row(0, False), row(1, True), row(2, True, source="other", split="test")])
    assert statistics.count_by("samples", "kind", "split") == {
        ("authentic", "train"): 1,
        ("splice", "train"): 1,
        ("splice", "test"): 1,
    }
    assert statistics.count_by("samples") == {(): 3}
    assert statistics.images_by("class", "source") == {
        ("authentic", "set"): 1,
        ("forged", "set"): 1,
        ("forged", "other"): 1,
    }
    with pytest.raises(ValueError, match="not in tuple"):
        statistics.count_by("samples", "half")


def test_every_key_has_the_columns_that_are_declared() -> None:
    partly_ignored = codecs.encode_mask(np.full((SIDE, SIDE), IGNORED, np.uint8))
    labels = np.full((SIDE, SIDE), 2, np.uint8)
    views = [{**stored(PNG, codecs.encode_labels(labels))[0], "scribble": codecs.encode_labels(labels)}]
    indexed = row(3, False, kind="labelled", class_pixels=[0, 0, SIDE * SIDE], views=views)
    statistics = of_rows([row(0, False), row(1, True), row(2, False, views=stored(PNG, partly_ignored)), indexed])
    assert {key[0] for key in statistics.counts} == set(KEYS)
    assert all(len(key) == 1 + len(KEYS[key[0]]) for key in statistics.counts)
