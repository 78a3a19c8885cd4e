"""What every forged sample promises, over random photographs, objects and settings.

Whatever is drawn, `forge` gives a sample that keeps the promises, or a DataError; nothing else. The changed pixels are
counted here anew, from image and target alone.
"""

import dataclasses
import json

import cv2
import hypothesis
import numpy as np
import pytest
import skimage.data
from hypothesis import strategies as st

from mpc_model.errors import DataError
from mpc_model.imaging.forging import FORGERIES, Forged, ForgeSettings, forge

PHOTOS = [skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee(), skimage.data.rocket()]
KINDS = list(FORGERIES)
FIELDS = {entry.name: entry for entry in dataclasses.fields(ForgeSettings)}
COUNTS = {"feather", "donor_quality", "remove_margin", "inpaint_radius"}
CHANCES = {"flip", "telea"}
seeds = st.integers(0, 2**32 - 1)


@st.composite
def photographs(draw):
    """A part of a real photograph, resized; at times with its contrast or colour gone, or flat."""
    rng = np.random.default_rng(draw(seeds))
    photo = PHOTOS[draw(st.integers(0, len(PHOTOS) - 1))]
    height, width = draw(st.integers(32, 200)), draw(st.integers(32, 200))
    rows, columns = (int(rng.integers(32, extent + 1)) for extent in photo.shape[:2])
    top, left = int(rng.integers(photo.shape[0] - rows + 1)), int(rng.integers(photo.shape[1] - columns + 1))
    image = cv2.resize(photo[top : top + rows, left : left + columns], (width, height), interpolation=cv2.INTER_AREA)
    look = draw(st.sampled_from(["as it is", "as it is", "as it is", "grey", "dull", "flat"]))
    if look == "grey":
        image = np.repeat(image[..., 1:2], 3, axis=2)
    if look == "dull":
        image = (image // 16 + 120).astype(np.uint8)
    if look == "flat":
        image = np.full_like(image, image[0, 0])
    return np.ascontiguousarray(image)


def objects(height: int, width: int, shape: str, rng: np.random.Generator) -> np.ndarray:
    """An object mask such as data sets hold: compact, concave, in parts, thin, cut by the border, or of few pixels."""
    mask = np.zeros((height, width), np.uint8)
    x, y = int(rng.integers(width)), int(rng.integers(height))
    size = int(rng.integers(4, max(5, min(height, width) // 2)))
    if shape == "ellipse":  # often cut by the border
        cv2.ellipse(mask, (x, y), (size, max(1, size // 2)), float(rng.uniform(0, 180)), 0, 360, 1, -1)
    elif shape == "ring":
        cv2.circle(mask, (width // 2, height // 2), size, 1, max(1, size // 4))
    elif shape == "parts":
        for _ in range(4):
            cv2.circle(mask, (int(rng.integers(width)), int(rng.integers(height))), max(1, size // 3), 1, -1)
    elif shape == "line":
        cv2.line(mask, (x, 0), (width - 1 - x, height - 1), 1)
    elif shape == "corner":
        mask[: height // 3, : width // 2] = 1
        mask[height // 6 : height // 3, width // 4 : width // 2] = 0
    elif shape == "dot":
        mask[y, x] = 1
    else:
        mask[:] = 1
    return mask


SHAPES = ["ellipse", "ring", "parts", "line", "corner", "dot", "everything"]


@st.composite
def wide_settings(draw):
    """Settings anywhere inside their bounds, but for the number of attempts."""
    chosen: dict[str, object] = {"attempts": 5}
    for name in draw(st.sets(st.sampled_from(sorted(set(FIELDS) - {"attempts"})), max_size=6)):
        minimum, maximum = FIELDS[name].metadata["minimum"], FIELDS[name].metadata["maximum"]
        value = st.integers(minimum, maximum) if name in COUNTS else st.floats(minimum, maximum)
        chosen[name] = draw(value) if name in CHANCES else tuple(sorted((draw(value), draw(value))))
    return ForgeSettings(**chosen)


@st.composite
def jobs(draw, settings=None, shapes=(None, None, *SHAPES)):
    """The arguments of `forge` but for the generator."""
    kind, target, donor = draw(st.sampled_from(KINDS)), draw(photographs()), draw(photographs())
    source, shape = donor if kind == "splice" else target, draw(st.sampled_from(shapes))
    mask = None if shape is None else objects(*source.shape[:2], shape, np.random.default_rng(draw(seeds)))
    return kind, target, donor, settings or draw(wide_settings()), mask


def forged(job, seed: int) -> Forged | str:
    kind, target, donor, settings, mask = job
    try:
        return forge(kind, target, donor, np.random.default_rng(seed), settings, mask)
    except DataError as error:
        return str(error)


def nearby(mask: np.ndarray, reach: int) -> np.ndarray:
    """Pixels with a masked one in the square of `reach` pixels around them, by sums over a summed-area table."""
    padded = np.pad(mask.astype(np.int64), reach)
    table = np.pad(padded.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    side = 2 * reach + 1
    return table[side:, side:] - table[:-side, side:] - table[side:, :-side] + table[:-side, :-side] > 0


def changes(target: np.ndarray, image: np.ndarray) -> np.ndarray:
    return np.abs(image.astype(int) - target.astype(int)).sum(axis=2) > 0


@hypothesis.settings(max_examples=400, deadline=None, derandomize=True, database=None)
@hypothesis.given(jobs(), seeds)
def test_a_sample_keeps_its_promises_or_is_a_data_error(job, seed):
    kind, target, donor, settings, mask = job
    before = [array.copy() for array in (target, donor, target[:1] if mask is None else mask)]
    result = forged(job, seed)
    after = [target, donor, target[:1] if mask is None else mask]
    assert all(np.array_equal(old, new) for old, new in zip(before, after, strict=True))
    hypothesis.event(f"{kind}: {'refused' if isinstance(result, str) else 'forged'}")
    if isinstance(result, str):
        assert result
        return
    assert result.kind == kind
    assert result.image.shape == target.shape
    assert result.mask.shape == target.shape[:2]
    assert result.image.dtype == result.mask.dtype == np.uint8
    assert set(np.unique(result.mask)) <= {0, 1}
    share = result.mask.sum() / result.mask.size
    assert settings.area[0] <= share <= settings.area[1]
    changed = changes(target, result.image)
    assert changed[result.mask == 1].mean() >= 0.5
    assert not changed[~nearby(result.mask, result.recipe["feather"])].any()
    assert json.loads(json.dumps(result.recipe)) == result.recipe


@hypothesis.settings(max_examples=100, deadline=None, derandomize=True, database=None)
@hypothesis.given(jobs(), seeds)
def test_what_the_recipe_says_was_drawn_lies_in_the_settings(job, seed):
    result = forged(job, seed)
    hypothesis.assume(not isinstance(result, str))
    settings, recipe = job[3], result.recipe
    names = {"radius": "inpaint_radius", "margin": "remove_margin"} | {name: name for name in FIELDS}
    for drawn, value in recipe.items():
        limits = getattr(settings, names.get(drawn, ""), None)
        if isinstance(limits, tuple) and not (result.kind == "remove" and drawn == "feather"):
            for one in value if isinstance(value, list) else [value]:
                assert limits[0] <= one <= limits[1], drawn


@hypothesis.settings(max_examples=100, deadline=None, derandomize=True, database=None)
@hypothesis.given(jobs(), seeds)
def test_the_seed_decides_everything(job, seed):
    first, again = forged(job, seed), forged(job, seed)
    if isinstance(first, str):
        assert first == again
        return
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.mask, again.mask)
    assert first.recipe == again.recipe


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
@hypothesis.given(jobs(settings=ForgeSettings(), shapes=(None,)), seeds)
def test_another_seed_forges_otherwise(job, seed):
    results = [forged(job, seed), forged(job, seed + 1)]
    hypothesis.assume(not any(isinstance(result, str) for result in results))
    assert not np.array_equal(results[0].image, results[1].image)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [None, "ellipse", "ring", "parts", "corner"])
def test_ordinary_photographs_and_objects_are_forged_not_refused(kind, shape):
    """The promises above could be kept by refusing everything: with the defaults, fitting objects must succeed."""
    rng, done, tried = np.random.default_rng(0), 0, 0
    while tried < 20:
        target, donor = (PHOTOS[i][40:240, 60:300] for i in rng.permutation(len(PHOTOS))[:2])
        mask = None if shape is None else objects(200, 240, shape, rng)
        if mask is not None and not 0.06 <= mask.mean() <= 0.2:
            continue
        tried += 1
        done += isinstance(forged((kind, target, donor, ForgeSettings(), mask), tried), Forged)
    assert done >= 18


@pytest.mark.parametrize("kind", ["splice", "copy_move", "remove"])
def test_an_object_of_a_few_pixels_is_forged_where_the_area_allows(kind):
    mask = np.zeros((150, 150), np.uint8)
    mask[0:3, 70:74] = 1  # at the border
    tiny = ForgeSettings(area=(1e-4, 0.05), feather=(0, 0), scale=(1.0, 2.0))
    for seed in range(10):
        photo = PHOTOS[1][50:200, 100:250]
        result = forge(kind, photo, PHOTOS[0][:150, 150:300], np.random.default_rng(seed), tiny, mask)
        assert 3 <= result.mask.sum() <= 0.05 * result.mask.size
