"""Forged samples: what each kind promises about image and mask, and that the same seed gives the same sample."""

import json

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_sample_images

from mpc_model.errors import DataError, UserError
from mpc_model.imaging.codecs import decode_image, encode_jpeg
from mpc_model.imaging.forging import FORGERIES, ForgeSettings, Misfit, copy_move, forge, random_outline, remove, splice

PHOTOS = [skimage.data.astronaut(), *load_sample_images().images]
KINDS = ["splice", "copy_move", "copy_move_outline", "remove"]
PLAIN = {  # nothing but the displacement
    "scale": (1.0, 1.0),
    "rotation": (0.0, 0.0),
    "shear": (0.0, 0.0),
    "flip": 0.0,
    "gain": (1.0, 1.0),
    "offset": (0.0, 0.0),
    "noise_sigma": (0.0, 0.0),
    "feather": (0, 0),
}


def crop(photo: int, side: int, seed: int) -> np.ndarray:
    image = PHOTOS[photo]
    rng = np.random.default_rng(seed)
    top, left = rng.integers(image.shape[0] - side), rng.integers(image.shape[1] - side)
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def disc(height: int, width: int, x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return ((columns - x) ** 2 + (rows - y) ** 2 <= radius**2).astype(np.uint8)


def grown(mask: np.ndarray, by: int) -> np.ndarray:
    """The mask dilated by a square neighbourhood, shift by shift."""
    padded = np.pad(mask, by)
    height, width = mask.shape
    shifts = [padded[y : y + height, x : x + width] for y in range(2 * by + 1) for x in range(2 * by + 1)]
    return np.max(shifts, axis=0)


def test_the_registry_holds_the_four_kinds():
    assert list(FORGERIES) == sorted(KINDS)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.sampled_from(KINDS), st.integers(96, 160), st.integers(0, 10**6), st.integers(0, 2), st.integers(0, 2))
def test_the_mask_is_what_changed_up_to_the_blending(kind, side, seed, of, donor_of):
    target, donor = crop(of, side, seed), crop(donor_of, side + 20, seed + 1)
    before = target.copy()
    forged = forge(kind, target, donor, np.random.default_rng(seed), ForgeSettings())
    changed = (forged.image != target).any(axis=2)
    assert np.array_equal(target, before)
    assert forged.kind == kind
    assert forged.image.shape == target.shape
    assert forged.image.dtype == forged.mask.dtype == np.uint8
    assert set(np.unique(forged.mask)) == {0, 1}
    assert 0.05 <= forged.mask.mean() <= 0.35
    assert changed[forged.mask == 1].mean() >= 0.5
    assert not changed[grown(forged.mask, forged.recipe["feather"]) == 0].any()
    assert json.loads(json.dumps(forged.recipe)) == forged.recipe


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_whatever_the_number_of_threads(kind):
    target, donor = crop(1, 160, 0), crop(0, 160, 1)
    threads = cv2.getNumThreads()
    try:
        results = []
        for count, seed in ((1, 5), (4, 5), (1, 6)):
            cv2.setNumThreads(count)
            results.append(forge(kind, target, donor, np.random.default_rng(seed), ForgeSettings()))
    finally:
        cv2.setNumThreads(threads)
    first, again, other = results
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.mask, again.mask)
    assert first.recipe == again.recipe
    assert not np.array_equal(first.mask, other.mask)


@pytest.mark.parametrize("kind", KINDS)
def test_the_area_range_of_the_settings_is_kept(kind):
    narrow = ForgeSettings(area=(0.1, 0.12))
    for seed in range(5):
        forged = forge(kind, crop(1, 128, seed), crop(0, 128, seed), np.random.default_rng(seed), narrow)
        assert 0.1 <= forged.mask.mean() <= 0.12


def test_a_plain_copy_is_the_same_pixels_elsewhere():
    target = crop(0, 128, 3)
    for seed in range(5):
        forged = forge("copy_move", target, target, np.random.default_rng(seed), ForgeSettings(**PLAIN))
        dx, dy = np.subtract(forged.recipe["put_at"], forged.recipe["taken_from"])
        rows, columns = np.nonzero(forged.mask)
        assert np.array_equal(forged.image[rows, columns], target[rows - dy, columns - dx])
        original = np.zeros_like(forged.mask)
        original[rows - dy, columns - dx] = 1
        assert (original & forged.mask).sum() <= 0.5 * forged.mask.sum()


def test_a_range_from_zero_to_minus_zero_holds_zero():
    target = crop(0, 96, 0)
    both = [
        forge("copy_move", target, target, np.random.default_rng(0), ForgeSettings(**PLAIN | {"rotation": (0.0, end)}))
        for end in (0.0, -0.0)
    ]
    np.testing.assert_array_equal(both[0].image, both[1].image)


def test_a_copied_object_may_be_flipped():
    target = crop(0, 128, 3)
    wedge = np.tril(np.ones((40, 30), np.uint8))
    mask = np.zeros((128, 128), np.uint8)
    mask[20:60, 30:60] = wedge
    forged = copy_move(
        target, np.random.default_rng(1), ForgeSettings(**PLAIN | {"flip": 1.0, "area": (0.01, 0.5)}), mask
    )
    assert forged.recipe["flip"] is True
    x, y = forged.recipe["put_at"]
    assert np.array_equal(forged.mask[y : y + 40, x : x + 30], wedge[:, ::-1])
    expected = target[20:60, 30:60][:, ::-1][wedge[:, ::-1] == 1]
    assert np.array_equal(forged.image[forged.mask == 1], expected)


def test_a_sheared_object_slants_and_keeps_its_area():
    target, bar = crop(0, 128, 3), np.zeros((128, 128), np.uint8)
    bar[30:71, 50:60] = 1
    slant = ForgeSettings(**PLAIN | {"shear": (0.5, 0.5), "area": (0.01, 0.5)})
    forged = copy_move(target, np.random.default_rng(0), slant, bar)
    rows = np.flatnonzero(forged.mask.any(axis=1))
    assert forged.mask.sum() == pytest.approx(bar.sum(), rel=0.05)
    first, last = (np.flatnonzero(forged.mask[row]).mean() for row in (rows[0], rows[-1]))
    assert last - first == pytest.approx(0.5 * 40, abs=1)


@pytest.mark.parametrize("kind", ["splice", "copy_move"])
def test_half_of_the_objects_are_flipped_by_default(kind):
    target, donor, settings = crop(1, 96, 0), crop(2, 96, 0), ForgeSettings()
    flips = [forge(kind, target, donor, np.random.default_rng(seed), settings).recipe["flip"] for seed in range(60)]
    assert 15 < sum(flips) < 45


def test_the_outline_kind_takes_no_notice_of_an_object():
    target, mask = crop(0, 128, 3), disc(128, 128, 60, 60, 25)
    with_object, without = (
        forge("copy_move_outline", target, target, np.random.default_rng(3), ForgeSettings(), given)
        for given in (mask, None)
    )
    assert np.array_equal(with_object.image, without.image)
    assert with_object.kind == "copy_move_outline"
    taken = forge("copy_move", target, target, np.random.default_rng(3), ForgeSettings(), mask).recipe["taken_from"]
    assert taken == [35, 35]


def test_a_copy_that_cannot_leave_its_original_is_refused():
    target = crop(0, 96, 0)
    nearly_all = np.zeros((96, 96), np.uint8)
    nearly_all[16:-16, 16:-16] = 1
    with pytest.raises(Misfit, match="original"):
        copy_move(target, np.random.default_rng(0), ForgeSettings(**PLAIN | {"area": (0.05, 0.5)}), nearly_all)


def test_a_plain_splice_of_an_object_is_the_donor_after_its_own_jpeg():
    target, donor = crop(1, 128, 0), crop(2, 140, 1)
    mask = disc(140, 140, 60, 70, 30)
    plain = ForgeSettings(**PLAIN, donor_quality=(80, 80))
    forged = splice(target, donor, np.random.default_rng(2), plain, mask)
    past = decode_image(encode_jpeg(donor, 80), "donor")
    x, y = forged.recipe["put_at"]
    box = np.s_[y : y + 61, x : x + 61]
    assert np.array_equal(forged.mask[box], mask[40:101, 30:91])
    assert forged.mask.sum() == mask.sum()
    inside = mask[40:101, 30:91] == 1
    assert np.array_equal(forged.image[box][inside], past[40:101, 30:91][inside])


def test_gain_and_offset_act_on_the_pasted_object():
    target, donor = crop(1, 128, 0), crop(2, 128, 1)
    mask = disc(128, 128, 60, 60, 30)
    mismatch = ForgeSettings(**PLAIN | {"gain": (1.1, 1.1), "offset": (5.0, 5.0)}, donor_quality=(90, 90))
    forged = splice(target, donor, np.random.default_rng(2), mismatch, mask)
    past = decode_image(encode_jpeg(donor, 90), "donor").astype(float)
    expected = np.clip(1.1 * past[mask == 1] + 5, 0, 255)
    assert np.abs(forged.image[forged.mask == 1] - expected).max() <= 0.51


def test_noise_of_the_asked_deviation_lies_on_the_pasted_object():
    target, donor = crop(1, 128, 0), np.full((128, 128, 3), 120, np.uint8)
    noisy = ForgeSettings(**PLAIN | {"noise_sigma": (4.0, 4.0)})
    forged = splice(target, donor, np.random.default_rng(0), noisy, disc(128, 128, 60, 60, 40))
    pasted = forged.image[forged.mask == 1].astype(float)
    assert abs(pasted.mean() - 120) < 0.2
    assert abs(pasted.std() - 4) < 0.2


def test_scale_and_rotation_change_the_pasted_object():
    target, donor = crop(1, 160, 0), crop(2, 128, 1)
    bar = np.zeros((128, 128), np.uint8)
    bar[60:80, 30:90] = 1
    plain = PLAIN | {"area": (0.01, 0.35)}
    turned = splice(target, donor, np.random.default_rng(0), ForgeSettings(**plain | {"rotation": (90.0, 90.0)}), bar)
    assert np.ptp(np.nonzero(turned.mask)[0]) + 1 == 60
    assert np.ptp(np.nonzero(turned.mask)[1]) + 1 == 20
    larger = splice(target, donor, np.random.default_rng(0), ForgeSettings(**plain | {"scale": (1.4, 1.4)}), bar)
    assert larger.mask.sum() == pytest.approx(1.4**2 * bar.sum(), rel=0.05)


def test_the_rim_is_a_gaussian_mix_as_wide_as_asked():
    target, donor = np.full((96, 96, 3), 40, np.uint8), np.full((96, 96, 3), 200, np.uint8)
    wide = ForgeSettings(**PLAIN | {"feather": (3, 3)})
    forged = splice(target, donor, np.random.default_rng(0), wide, disc(96, 96, 48, 48, 20))
    weight, total = np.zeros((96, 96)), 0.0
    padded = np.pad(forged.mask, 3).astype(float)
    for dy in range(7):
        for dx in range(7):
            share = np.exp(-((dy - 3) ** 2 + (dx - 3) ** 2) / (2 * 1.5**2))
            weight += share * padded[dy : dy + 96, dx : dx + 96]
            total += share
    expected = 40 + 160 * weight / total
    assert np.abs(forged.image - expected[..., None]).max() < 0.6
    assert ((forged.image > 40) & (forged.image < 200)).any()


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(6))
def test_a_splice_is_its_recipe_done_on_whole_images(scale, seed):
    """Only windows of the two images are worked on: nothing of that may show, neither in the object nor in its rim."""
    target, donor = crop(1, 240, seed), crop(2, 300, seed + 1)
    mask = disc(300, 300, 150, 145, 30)
    mask[100:115, 120:220] = 1
    settings = ForgeSettings(
        area=(0.001, 0.5), scale=(scale, scale), rotation=(-180.0, 180.0), shear=(-0.5, 0.5), feather=(12, 12),
        gain=(1.0, 1.0), offset=(0.0, 0.0), noise_sigma=(0.0, 0.0), donor_quality=(20, 60),
    )  # fmt: skip
    forged = splice(target, donor, np.random.default_rng(seed), settings, mask)
    recipe = forged.recipe
    turn, mirror = np.deg2rad(recipe["rotation"]), -1 if recipe["flip"] else 1
    linear = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) * recipe["scale"]
    linear = linear @ np.array([[1, recipe["shear"]], [0, 1]]) @ np.diag([mirror, 1])
    points = np.argwhere(mask)[:, ::-1] @ linear.T
    affine = np.column_stack([linear, recipe["put_at"] - points.min(axis=0)])
    past = decode_image(encode_jpeg(donor, recipe["donor_quality"]), "donor")
    moved = cv2.warpAffine(past, affine, (240, 240), flags=cv2.INTER_CUBIC).astype(float)
    outline = cv2.warpAffine(mask, affine, (240, 240), flags=cv2.INTER_NEAREST)
    weight = cv2.GaussianBlur(outline.astype(float), (25, 25), 6)[..., None]
    difference = np.abs(forged.image - (target + weight * (moved - target)))
    assert (forged.mask != outline).sum() < 0.02 * outline.sum()
    assert difference[outline == 1].mean() < 1
    assert np.percentile(difference[weight[..., 0] > 0], 99.9) < 12  # coordinates are rounded to 1/32 pixel


@pytest.mark.parametrize("scale", [0.7, 1.0, 1.4])
def test_the_outline_is_sized_so_that_the_pasted_area_is_the_drawn_one(scale):
    fixed = ForgeSettings(area=(0.1, 0.1), scale=(scale, scale))
    forged = splice(crop(1, 160, 0), crop(0, 200, 0), np.random.default_rng(0), fixed)
    assert forged.mask.mean() == pytest.approx(0.1, rel=0.08)


@pytest.mark.parametrize("seed", range(4))
def test_a_removed_object_is_gone_with_its_rim_and_nothing_else_changed(seed):
    target = crop(1, 128, 3)
    target[disc(128, 128, 64, 64, 20) == 1] = (255, 0, 255)
    forged = remove(target, np.random.default_rng(seed), ForgeSettings(), disc(128, 128, 64, 64, 20))
    red, green, blue = forged.image.astype(int).transpose(2, 0, 1)
    assert not ((red > green + 60) & (blue > green + 60)).any()
    margin = forged.recipe["margin"]
    assert 2 <= margin <= 6
    assert np.abs(forged.mask.astype(int) - disc(128, 128, 64, 64, 20 + margin)).mean() < 0.005
    assert np.array_equal(forged.image[forged.mask == 0], target[forged.mask == 0])


def test_the_margin_is_the_distance_to_the_object():
    mask = np.zeros((64, 96), np.uint8)
    mask[10:20, 8:30] = mask[40:44, 60:90] = 1  # in two parts
    fixed = ForgeSettings(area=(0.01, 0.5), remove_margin=(5, 5))
    forged = remove(crop(1, 96, 0)[:64], np.random.default_rng(0), fixed, mask)
    ys, xs = np.nonzero(mask)
    rows, columns = np.mgrid[:64, :96]
    squared = ((rows[..., None] - ys) ** 2 + (columns[..., None] - xs) ** 2).min(axis=2)
    assert np.array_equal(forged.mask, squared <= 25)


def test_only_margins_that_fit_the_area_are_drawn():
    target, mask = crop(1, 128, 3), disc(128, 128, 64, 64, 20)
    least = disc(128, 128, 64, 64, 23).mean() / 2 + disc(128, 128, 64, 64, 24).mean() / 2
    fits = ForgeSettings(area=(least, 0.5), remove_margin=(0, 8))
    margins = {remove(target, np.random.default_rng(seed), fits, mask).recipe["margin"] for seed in range(40)}
    assert margins == {4, 5, 6, 7, 8}


@pytest.mark.parametrize(("method", "telea"), [("telea", 1.0), ("navier-stokes", 0.0)])
@pytest.mark.parametrize("radius", [1, 5, 16])
def test_removal_is_the_inpainting_of_the_whole_image(method, telea, radius):
    flag = {"telea": cv2.INPAINT_TELEA, "navier-stokes": cv2.INPAINT_NS}[method]
    fixed = ForgeSettings(area=(0.001, 0.5), telea=telea, inpaint_radius=(radius, radius), remove_margin=(0, 3))
    for at in ((120, 90), (3, 80)):  # inside, and cut by the border
        target = PHOTOS[1][:200, :240]
        forged = remove(target, np.random.default_rng(0), fixed, disc(200, 240, *at, 18))
        assert forged.recipe["method"] == method
        assert np.array_equal(forged.image, cv2.inpaint(target, forged.mask, radius, flag))


@pytest.mark.parametrize("kind", ["splice", "copy_move", "remove"])
@pytest.mark.parametrize("radius", [2, 60])
def test_an_object_of_hopeless_size_is_refused_at_once(kind, radius):
    photo, mask = crop(0, 128, 0), disc(128, 128, 64, 64, radius)
    limits = ForgeSettings(area=(0.1, 0.3), attempts=1000)
    with pytest.raises(DataError, match=r"^an object that .* does not fit area, 0\.1 to 0\.3; widen area") as failure:
        forge(kind, photo, photo, np.random.default_rng(0), limits, mask)  # or it would say: no splice in 1000 attempts
    assert failure.value.reason == "not_forged"


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(96, 200), st.integers(96, 200), st.floats(0.05, 0.5))
def test_an_outline_is_one_piece_of_about_the_asked_area(seed, height, width, fraction):
    mask = random_outline(np.random.default_rng(seed), height, width, fraction)
    assert mask.shape == (height, width)
    assert mask.mean() == pytest.approx(fraction, rel=0.12)
    pieces, _ = cv2.connectedComponents(mask)
    framed = np.pad(mask, 1)
    outsides, _ = cv2.connectedComponents(1 - framed, connectivity=4)
    assert (pieces, outsides) == (2, 2)  # background + one region; the region + one background: no holes


def test_outlines_differ_and_are_curved():
    masks = [random_outline(np.random.default_rng(seed), 128, 128, 0.2) for seed in range(10)]
    assert len({mask.tobytes() for mask in masks}) == 10
    for mask in masks:
        box = cv2.boundingRect(mask)
        assert mask.sum() < 0.9 * box[2] * box[3]  # no rectangle


def test_an_outline_larger_than_half_the_frame_is_refused():
    with pytest.raises(DataError, match=r"0\.600"):
        random_outline(np.random.default_rng(0), 100, 100, 0.6)


def test_a_flat_photograph_cannot_be_copy_moved():
    flat = np.full((100, 100, 3), 7, np.uint8)
    with pytest.raises(DataError, match=r"no copy_move in 20 attempts.*another photograph"):
        forge("copy_move", flat, flat, np.random.default_rng(0), ForgeSettings())


def test_a_donor_too_small_for_the_area_is_refused():
    with pytest.raises(DataError, match="no splice"):
        forge("splice", crop(0, 160, 0), crop(1, 16, 0), np.random.default_rng(0), ForgeSettings())


def test_an_object_mask_of_another_size_is_refused():
    with pytest.raises(DataError, match="another size"):
        forge(
            "splice",
            crop(0, 100, 0),
            crop(1, 100, 0),
            np.random.default_rng(0),
            ForgeSettings(),
            np.ones((9, 9), np.uint8),
        )


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'splice'"):
        forge("splise", crop(0, 96, 0), crop(1, 96, 0), np.random.default_rng(0), ForgeSettings())
