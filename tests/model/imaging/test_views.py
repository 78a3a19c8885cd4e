"""Views: image and mask stay together, the bytes are what the view really is, the seed decides."""

import itertools
import json
import math

import cv2
import numpy as np
import pytest
import skimage.data
from sklearn.datasets import load_sample_images

from mpc_model.errors import DataError, UserError
from mpc_model.imaging import views
from mpc_model.imaging.codecs import (
    decode_image,
    decode_labels,
    decode_mask,
    encode_jpeg,
    encode_labels,
    encode_mask,
    encode_png,
    jpeg_quality,
)
from mpc_model.imaging.views import VIEW_POLICIES, View, dihedral, render_views

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG"
MAGENTA = (255, 0, 255)  # no photograph below has it
PHOTO = np.ascontiguousarray(load_sample_images().images[0][80:272, 60:316])  # 192 x 256


def painted() -> tuple[np.ndarray, np.ndarray]:
    """A photograph whose forged region, an ellipse off the centre, is magenta."""
    image, mask = PHOTO.copy(), np.zeros(PHOTO.shape[:2], np.uint8)
    cv2.ellipse(mask, (150, 80), (60, 35), 20, 0, 360, 1, -1)
    image[mask == 1] = MAGENTA
    return image, mask


def magenta(image: np.ndarray) -> np.ndarray:
    red, green, blue = image.astype(int).transpose(2, 0, 1)
    return ((red > green + 110) & (blue > green + 110)).astype(np.uint8)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def within(count: int, trials: int, probability: float) -> bool:
    """Whether a count lies within four standard deviations of its expectation."""
    return abs(count - trials * probability) < 4 * math.sqrt(trials * probability * (1 - probability))


@pytest.mark.parametrize("op", [views.scale, views.symmetry, views.elastic, views.grid])
def test_geometry_moves_image_and_mask_together(op):
    image, mask = painted()
    for seed in range(8):
        moved, moved_mask, _ = op(image, mask, np.random.default_rng(seed))
        assert moved.shape[:2] == moved_mask.shape
        assert moved.dtype == moved_mask.dtype == np.uint8
        assert set(np.unique(moved_mask)) == {0, 1}
        band = cv2.dilate(moved_mask, np.ones((3, 3))) != cv2.erode(moved_mask, np.ones((3, 3)))
        assert np.array_equal(magenta(moved)[~band], moved_mask[~band])
        assert overlap(magenta(moved), moved_mask) > 0.95


@pytest.mark.parametrize("op", [views.symmetry, views.elastic, views.grid, views.scale])
def test_geometry_does_move(op):
    image, mask = painted()
    moved, moved_mask, _ = op(image, mask, np.random.default_rng(1))
    assert moved.shape != image.shape or (np.abs(moved.astype(int) - image).mean() > 2 and (moved_mask != mask).any())


def test_scale_shrinks_to_between_a_half_and_one():
    image, mask = painted()
    factors = []
    for seed in range(60):
        smaller, smaller_mask, params = views.scale(image, mask, np.random.default_rng(seed))
        height, width = round(192 * params["factor"]), round(256 * params["factor"])
        assert smaller.shape[:2] == (height, width)
        # The source pixel under each centre, but for centres that fall between two pixels.
        rows = {y: (y + 0.5) * 192 / height for y in range(height) if (2 * y + 1) * 192 % (2 * height)}
        columns = {x: (x + 0.5) * 256 / width for x in range(width) if (2 * x + 1) * 256 % (2 * width)}
        expected = mask[np.ix_([int(y) for y in rows.values()], [int(x) for x in columns.values()])]
        assert np.array_equal(smaller_mask[np.ix_(list(rows), list(columns))], expected)
        factors.append(params["factor"])
    assert 0.5 <= min(factors) < 0.55
    assert 0.95 < max(factors) <= 1.0


@pytest.mark.parametrize("op", [*views.BLURS, views.downscale, views.sharpen])
def test_filters_keep_flat_areas_and_change_details(op):
    flat = np.full((40, 60, 3), (10, 120, 240), np.uint8)
    for seed in range(6):
        assert np.array_equal(op(flat, np.random.default_rng(seed))[0], flat)
    filtered, _ = op(PHOTO, np.random.default_rng(0))
    assert filtered.shape == PHOTO.shape
    detail, former = (np.abs(np.diff(image.astype(int), axis=1)).mean() for image in (filtered, PHOTO))
    assert detail > former if op is views.sharpen else detail < former


def test_box_and_median_blur_follow_their_definitions():
    for op, statistic in ((views.box_blur, np.mean), (views.median_blur, np.median)):
        blurred, params = op(PHOTO, np.random.default_rng(2))
        reach = params["kernel"] // 2
        for y, x in ((20, 30), (100, 50), (150, 200)):
            patch = PHOTO[y - reach : y + reach + 1, x - reach : x + reach + 1].astype(float)
            assert np.abs(blurred[y, x] - statistic(patch, axis=(0, 1))).max() <= 0.51


def test_motion_blur_spreads_a_point_along_a_line_through_it():
    point = np.zeros((21, 21, 3), np.uint8)
    point[10, 10] = 210
    for seed in range(10):
        streak, params = views.motion_blur(point, np.random.default_rng(seed))
        rows, columns = np.nonzero(streak[..., 0])
        assert rows.mean() == columns.mean() == 10
        along = (columns - 10) * math.cos(params["radians"]) + (rows - 10) * math.sin(params["radians"])
        across = (rows - 10) * math.cos(params["radians"]) - (columns - 10) * math.sin(params["radians"])
        assert np.abs(across).max() < 1
        assert np.ptp(along) > params["kernel"] - 2


def tone(name: str, level: float, params: dict) -> float:
    """The tone operations written out for one level between 0 and 1."""
    if name == "gamma":
        return math.pow(level, params["power"])
    if name == "brightness_contrast":
        return level * params["contrast"] + params["shift"]
    # The Bezier curve, by repeated halving between its four control points (de Casteljau) at parameter = level.
    points = [0.0, 1 / 3 + params["low"], 2 / 3 + params["high"], 1.0]
    while len(points) > 1:
        points = [a + level * (b - a) for a, b in itertools.pairwise(points)]
    return points[0]


@pytest.mark.parametrize("op", [views.gamma, views.brightness_contrast, views.tone_curve])
def test_tone_operations_follow_their_curves(op):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    for seed in range(5):
        mapped, params = op(ramp, np.random.default_rng(seed))
        for value in range(256):
            expected = min(max(255 * tone(op.__name__, value / 255, params), 0), 255)
            assert abs(int(mapped[value // 16, value % 16, 1]) - expected) <= 0.501


def test_noise_has_the_deviation_it_states():
    grey = np.full((200, 200, 3), 128, np.uint8)
    noisy, params = views.noise(grey, np.random.default_rng(0))
    assert noisy.std() == pytest.approx(params["sigma"], rel=0.02)
    assert 3 <= params["sigma"] <= 7


def test_iso_noise_grows_with_the_square_root_of_the_level_and_is_mostly_common_to_the_channels():
    deviations = []
    for level in (36, 144):
        noisy, params = views.iso_noise(np.full((200, 200, 3), level, np.uint8), np.random.default_rng(0))
        deviations.append(noisy.std())
        assert deviations[-1] == pytest.approx(params["strength"] * math.sqrt(level), rel=0.15)
        assert np.corrcoef(noisy.reshape(-1, 3).T)[0, 1] > 0.6
    assert deviations[1] / deviations[0] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("policy", ["light", "release"])
def test_a_view_holds_bytes_of_what_it_is(policy):
    image, mask = painted()
    kinds = set()
    for seed in range(40):
        view = VIEW_POLICIES[policy](image, mask, np.random.default_rng(seed))
        last = view.ops[-1] if view.ops else {"op": "nothing"}
        kinds.add(last["op"] == "jpeg")
        assert json.loads(json.dumps(view.ops)) == view.ops
        if last["op"] == "jpeg":
            assert view.image_bytes.startswith(JPEG)
            assert jpeg_quality(view.image_bytes) == last["quality"]
        else:
            assert view.image_bytes.startswith(PNG)
        assert view.mask_bytes[24] == 1  # bit depth
        assert decode_image(view.image_bytes, "view").shape[:2] == decode_mask(view.mask_bytes, "view").shape
    assert kinds == {True, False}


@pytest.mark.parametrize("policy", ["light", "release"])
def test_the_mask_of_a_view_covers_what_was_forged(policy):
    image, mask = painted()
    for seed in range(40):
        view = VIEW_POLICIES[policy](image, mask, np.random.default_rng(seed))
        assert overlap(magenta(decode_image(view.image_bytes, "view")), decode_mask(view.mask_bytes, "view")) > 0.88, (
            view.ops
        )


@pytest.mark.parametrize("policy", ["light", "release"])
def test_the_seed_decides_a_view_whatever_the_number_of_threads(policy):
    image, mask = painted()
    threads = cv2.getNumThreads()
    results = []
    try:
        for count in (1, 4):
            cv2.setNumThreads(count)
            results.append([VIEW_POLICIES[policy](image, mask, np.random.default_rng(seed)) for seed in range(30)])
    finally:
        cv2.setNumThreads(threads)
    assert results[0] == results[1]
    assert len({view.image_bytes for view in results[0]}) > 15


def test_a_light_view_is_a_flip_or_turn_of_the_sample_then_jpeg_half_of_the_time():
    image, mask = painted()
    compressed, seen = 0, set()
    for seed in range(100):
        view = VIEW_POLICIES["light"](image, mask, np.random.default_rng(seed))
        expected, expected_mask = dihedral(image, mask, view.ops[0]["k"])
        seen.add(view.ops[0]["k"])
        assert np.array_equal(decode_mask(view.mask_bytes, "view"), expected_mask)
        if len(view.ops) == 2:
            compressed += 1
            assert 70 <= view.ops[1]["quality"] <= 95
            assert view.image_bytes == encode_jpeg(expected, view.ops[1]["quality"])
        else:
            assert np.array_equal(decode_image(view.image_bytes, "view"), expected)
    assert within(compressed, 100, 0.5)
    assert seen == set(range(1, 8))


def test_release_views_occur_as_often_as_published():
    image, mask = (np.ascontiguousarray(a[40:88, 100:148]) for a in painted())
    order = ["scale", "symmetry", "jpeg", "blur", "tone", "warp"]
    group = {op.__name__: "blur" for op in views.BLURS} | {op.__name__: "tone" for op in views.TONES}
    group |= {op.__name__: "warp" for op in views.WARPS} | {name: name for name in order[:3]}
    counts, qualities, names, trials = dict.fromkeys(order, 0), [], set(), 1200
    untouched = 0
    for seed in range(trials):
        view = VIEW_POLICIES["release"](image, mask, np.random.default_rng(seed))
        groups = [group[str(op["op"])] for op in view.ops]
        assert groups == sorted(set(groups), key=order.index)
        names |= {op["op"] for op in view.ops}
        qualities += [op["quality"] for op in view.ops if op["op"] == "jpeg"]
        for name in groups:
            counts[name] += 1
        if not view.ops:
            untouched += 1
            assert np.array_equal(decode_image(view.image_bytes, "view"), image)
    applied = {name: 0.75 * probability for name, probability in zip(order, [0.75] * 3 + [0.25] * 3, strict=True)}
    assert within(untouched, trials, 0.25 + 0.75 * 0.25**3 * 0.75**3)
    for name in order:
        assert within(counts[name], trials, applied[name]), name
    assert (min(qualities), max(qualities)) == (50, 95)
    assert names == set(group)


def test_what_follows_a_compression_works_on_the_compressed_pixels():
    image, mask = (np.ascontiguousarray(a[40:88, 100:148]) for a in painted())
    found = 0
    for seed in range(400):
        view = VIEW_POLICIES["release"](image, mask, np.random.default_rng(seed))
        names = [op["op"] for op in view.ops]
        if names[-2:] == ["jpeg", "gamma"] and "scale" not in names:
            turned, _ = dihedral(image, mask, view.ops[0].get("k", 0))
            pixels = decode_image(encode_jpeg(turned, view.ops[-2]["quality"]), "compressed")
            expected = 255 * (pixels / 255) ** view.ops[-1]["power"]
            assert np.abs(decode_image(view.image_bytes, "view") - expected).max() <= 0.501
            found += 1
    assert found


@pytest.mark.parametrize("original", [encode_jpeg(painted()[0], 83), encode_png(painted()[0])], ids=["jpeg", "png"])
def test_untouched_views_keep_the_original_file(original):
    mask = painted()[1]
    rendered = render_views(original, decode_image(original, "photo"), mask, "release", 12, np.random.default_rng(0))
    assert len(rendered) == 12
    assert rendered[0].ops == []
    assert np.array_equal(decode_mask(rendered[0].mask_bytes, "mask"), mask)
    assert 1 < sum(not view.ops for view in rendered) < 12
    for view in rendered:
        assert (view.image_bytes == original) == (not view.ops)


def test_the_first_views_do_not_depend_on_how_many_are_made():
    image, mask = painted()
    three = render_views(encode_png(image), image, mask, "light", 3, np.random.default_rng(4))
    five = render_views(encode_png(image), image, mask, "light", 5, np.random.default_rng(4))
    assert five[:3] == three


def test_a_jpeg_view_is_decoded_only_where_an_operation_follows(monkeypatch):
    image, mask = painted()
    decodings = []
    imdecode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *args: decodings.append(args) or imdecode(*args))
    followed = 0
    for seed in range(40):
        view = VIEW_POLICIES["release"](image, mask, np.random.default_rng(seed))
        followed += "jpeg" in [op["op"] for op in view.ops[:-1]]
    assert 0 < followed == len(decodings)


def test_render_views_refuses_an_unknown_policy_and_a_mask_of_another_size():
    image, mask = painted()
    with pytest.raises(UserError, match="did you mean 'release'"):
        render_views(encode_png(image), image, mask, "relase", 2, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"192, 256.*192, 255"):
        render_views(encode_png(image), image, mask[:, 1:], "light", 2, np.random.default_rng(0))


def test_an_astronaut_without_forgery_keeps_an_empty_mask():
    image = skimage.data.astronaut()[:128, :128]
    mask = np.zeros((128, 128), np.uint8)
    for seed in range(10):
        view = VIEW_POLICIES["release"](image, mask, np.random.default_rng(seed))
        assert not decode_mask(view.mask_bytes, "view").any()
        assert encode_mask(decode_mask(view.mask_bytes, "view")) == view.mask_bytes


@pytest.mark.parametrize("policy", sorted(VIEW_POLICIES))
def test_ignored_pixels_stay_ignored_in_every_view(policy):
    """A border of ignored pixels moves with the image: no view invents values or loses a class."""
    image, mask = painted()
    core = cv2.erode(mask, np.ones((9, 9), np.uint8))
    mask[(mask == 1) & (core == 0)] = 255
    for view in render_views(encode_png(image), image, mask, policy, 12, np.random.default_rng(3)):
        shown = decode_mask(view.mask_bytes, "view")
        assert np.unique(shown).tolist() == [0, 1, 255]
        painted_share = float((magenta(decode_image(view.image_bytes, "view")) == 1).mean())
        assert abs(float((shown != 0).mean()) - painted_share) < 0.02


def numbered():
    """The painted image with an index mask of four classes and unlabelled pixels, and a scribble of some of them."""
    image, mask = (np.ascontiguousarray(a[40:104, 100:180]) for a in painted())
    labels = 2 * mask + (np.arange(64)[:, None] > 30).astype(np.uint8)
    labels[:6, :9] = 255
    scribble = np.where(np.random.default_rng(5).random(labels.shape) < 0.1, labels, 255).astype(np.uint8)
    return image, labels, scribble


@pytest.mark.parametrize("policy", ["light", "release"])
def test_a_scribble_goes_through_the_operations_of_its_index_mask_and_changes_none(policy):
    image, labels, scribble = numbered()
    made = {}
    for name, given in (("with", scribble), ("without", None)):
        rng = np.random.default_rng(3)
        made[name] = render_views(encode_png(image), image, labels, policy, 20, rng, indexed=True, scribble=given)
    assert [(v.image_bytes, v.mask_bytes, v.ops) for v in made["with"]] == [
        (v.image_bytes, v.mask_bytes, v.ops) for v in made["without"]
    ]
    assert {view.scribble_bytes for view in made["without"]} == {None}
    for view in made["with"]:
        moved, moved_scribble = decode_labels(view.mask_bytes, "view"), decode_labels(view.scribble_bytes, "view")
        known = moved_scribble != 255
        assert known.any()
        assert np.array_equal(moved[known], moved_scribble[known])
        assert set(np.unique(moved)) <= {0, 1, 2, 3, 255}
    assert np.array_equal(decode_labels(made["with"][0].scribble_bytes, "canonical"), scribble)


def test_a_policy_that_looks_at_the_mask_cannot_take_a_scribble_along(monkeypatch):
    image, labels, scribble = numbered()

    def masked(image, mask, rng):
        return View(encode_png(image * (mask[..., None] < 2)), encode_labels(mask), [{"op": "masked"}])

    monkeypatch.setitem(VIEW_POLICIES._entries, "masked", masked)
    given = encode_png(image), image, labels, "masked", 2, np.random.default_rng(0)
    assert len(render_views(*given, indexed=True)) == 2
    with pytest.raises(DataError, match="view policy masked looks at the mask"):
        render_views(*given, indexed=True, scribble=scribble)


def test_a_mask_of_forged_pixels_has_no_other_values():
    image, labels, _ = numbered()
    with pytest.raises(DataError, match="0, 1 and 255"):
        render_views(encode_png(image), image, labels, "light", 1, np.random.default_rng(0))
