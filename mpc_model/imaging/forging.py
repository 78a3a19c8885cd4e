"""Forged samples out of authentic photographs: splicing, copy-move and removal, deterministic from the generator.

    forged = forge("splice", target, donor, np.random.default_rng(7), ForgeSettings())

Each kind is one function that makes one attempt. It raises Misfit if the parameters that it drew do not fit the image,
any other DataError if no parameters would. `forge` tries again after a Misfit and checks what it promises of a result.
Nothing here compresses the result; that is left to final_quality and to the views.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from mpc_model.errors import DataError
from mpc_model.imaging.codecs import Image, Mask, decode_image, encode_jpeg
from mpc_model.imaging.forge_settings import MAX_OUTLINE as MAX_OUTLINE
from mpc_model.imaging.forge_settings import ForgeSettings as ForgeSettings
from mpc_model.registry import Registry

MIN_CHANGED = 0.5  # fraction of the forged region that must differ from the original: unchanged pixels are not forged
MAX_OVERLAP = 0.5  # fraction of a copy that may cover its own original: with more, hardly anything was moved
JPEG_GRID = 16  # side of a 4:2:0 JPEG coding unit in pixels: a window on this grid is coded like the whole image

Window = tuple[slice, slice]  # rows, columns


class Misfit(DataError):
    """The parameters that an attempt drew do not fit; others may."""


@dataclass(frozen=True)
class Forged:
    """A forged image, uint8 RGB (H, W, 3), its mask, uint8 (H, W) of 0 and 1, its kind, and the parameters (JSON)."""

    image: Image
    mask: Mask
    kind: str
    recipe: dict[str, object]


Forgery = Callable[[Image, Image, np.random.Generator, ForgeSettings, Mask | None], Forged]
FORGERIES: Registry[Forgery] = Registry("forgery kind")


def forge(
    kind: str,
    target: Image,
    donor: Image,
    rng: np.random.Generator,
    settings: ForgeSettings,
    object_mask: Mask | None = None,
) -> Forged:
    """A forgery of `target` of the named kind; only splices use `donor`.

    `object_mask` (0/1, in any number of parts) marks the object to take: in the donor for a splice, in the target
    otherwise. Without it, and for "copy_move_outline" always, a random curved outline is drawn.
    Guaranteed: the mask covers a fraction of the image inside `settings.area`; at least half of the masked pixels
    differ from the target; outside the mask, dilated by a square of recipe["feather"] pixels, nothing differs.
    Raises UserError for an unknown kind; DataError with reason "not_forged" if `settings.attempts` attempts gave no
    such forgery, or at once if none can, for example for an object that is too small or too large.
    """
    attempt = FORGERIES[kind]
    misfit = ""
    for _ in range(settings.attempts):
        try:
            forged = attempt(target, donor, rng, settings, object_mask)
        except Misfit as error:
            misfit = str(error)
            continue
        area = float(forged.mask.mean())
        if not settings.area[0] <= area <= settings.area[1]:
            misfit = f"the region covers {area:.3g} of the image"
        elif _changed(target, forged) < MIN_CHANGED:
            misfit = "the region looks like what it replaces"
        else:
            return forged
    raise DataError(
        f"no {kind} in {settings.attempts} attempts, at last because {misfit}; "
        "widen the settings or use another photograph",
        "not_forged",
    )


@FORGERIES.add("splice")
def splice(
    target: Image, donor: Image, rng: np.random.Generator, settings: ForgeSettings, object_mask: Mask | None = None
) -> Forged:
    """One attempt to paste an object of `donor` into `target`.

    The object first goes through a JPEG compression of its own, on the donor's block grid; it is scaled, sheared,
    rotated and perhaps flipped, its channels get a gain and an offset, noise is added, its rim is blended.
    """
    quality = _whole(rng, settings.donor_quality)
    gain = [_real(rng, settings.gain) for _ in range(3)]
    offset = [_real(rng, settings.offset) for _ in range(3)]
    sigma = _real(rng, settings.noise_sigma)
    move = _move(donor, target, rng, settings, object_mask)
    past = decode_image(encode_jpeg(donor[move.taken], quality), "donor")
    pasted = move.carried(past).astype(np.float32) * np.array(gain, np.float32) + np.array(offset, np.float32)
    pasted += np.float32(sigma) * rng.standard_normal(pasted.shape, np.float32)
    recipe = {"donor_quality": quality, "gain": gain, "offset": offset, "noise_sigma": sigma}
    return Forged(_paste(target, pasted, move), move.mask, "splice", recipe | move.recipe)


def copy_move(
    target: Image, rng: np.random.Generator, settings: ForgeSettings, object_mask: Mask | None = None
) -> Forged:
    """One attempt to copy an object of `target` elsewhere in it: scaled, sheared, rotated, perhaps flipped, blended.

    The mask marks the destination only: the original of the copy is authentic. Raises Misfit if more than half of the
    copy would cover its own original.
    """
    move = _move(target, target, rng, settings, object_mask)
    if np.count_nonzero(move.mask & move.region) > MAX_OVERLAP * np.count_nonzero(move.mask):
        raise Misfit("the copy lies on its original")
    pasted = move.carried(target[move.taken]).astype(np.float32)
    return Forged(_paste(target, pasted, move), move.mask, "copy_move", move.recipe)


def remove(target: Image, rng: np.random.Generator, settings: ForgeSettings, object_mask: Mask | None = None) -> Forged:
    """One attempt to remove an object of `target` by inpainting (Telea's or the Navier-Stokes method, OpenCV's).

    The mask is the inpainted region, a given object with a margin around it; nothing outside it changes.
    """
    radius = _whole(rng, settings.inpaint_radius)
    method = "telea" if rng.random() < settings.telea else "navier-stokes"
    recipe: dict[str, object] = {"method": method, "radius": radius, "feather": 0}
    if object_mask is None:
        region = random_outline(rng, target.shape[0], target.shape[1], rng.uniform(*settings.area))
    else:
        region, recipe["margin"] = _with_margin(_checked(object_mask, target), rng, settings)
    # Inpainting reads pixels up to `radius` away, and its marching front two further: nothing beyond has an effect.
    window = _window(region, radius + 2)
    flag = cv2.INPAINT_TELEA if method == "telea" else cv2.INPAINT_NS
    image = target.copy()
    image[window] = cv2.inpaint(target[window], region[window], radius, flag)
    return Forged(image, region, "remove", recipe)


FORGERIES.add("copy_move")(lambda target, _, rng, settings, mask: copy_move(target, rng, settings, mask))
FORGERIES.add("copy_move_outline")(
    lambda target, _, rng, settings, mask: replace(copy_move(target, rng, settings), kind="copy_move_outline")
)
FORGERIES.add("remove")(lambda target, _, rng, settings, mask: remove(target, rng, settings, mask))


def random_outline(rng: np.random.Generator, height: int, width: int, area_fraction: float) -> Mask:
    """A region with a smooth closed outline, uint8 (height, width) of 0/1, of about `area_fraction` of the frame.

    The outline is a low-order Fourier series of the radius over the angle, stretched to a random box inside the frame.
    Raises Misfit for a fraction above 0.5, which not every such outline can reach.
    """
    if not 0 < area_fraction <= MAX_OUTLINE:
        raise Misfit(f"an outline of {area_fraction:.3f} of the frame was asked, it can have up to {MAX_OUTLINE}")
    angle = np.linspace(0.0, 2 * np.pi, 360, endpoint=False)
    order = np.arange(2, 7)[:, None]
    # Amplitudes add up to less than 1, so the radius stays positive and the outline never crosses itself.
    amplitude = rng.uniform(0.0, 0.5, (5, 1)) / order
    radius = 1 + (amplitude * np.cos(order * angle + rng.uniform(0.0, 2 * np.pi, (5, 1)))).sum(axis=0)
    outline = np.stack([radius * np.cos(angle), radius * np.sin(angle)])
    outline -= outline.min(axis=1, keepdims=True)
    outline /= outline.max(axis=1, keepdims=True)
    x, y = outline
    filled = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2  # of the bounding box, by the shoelace formula
    box = area_fraction / filled
    box_width = float(np.clip(np.sqrt(box) * np.exp(rng.uniform(-0.4, 0.4)), box, 1.0))
    extent = np.array([[box_width], [box / box_width]])
    corner = rng.random((2, 1)) * (1 - extent)
    frame = np.array([[width - 1], [height - 1]])
    mask: Mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.rint((corner + outline * extent) * frame).astype(np.int32).T], 1)
    return mask


@dataclass(frozen=True)
class _Move:
    """How an object moves from a window of its source (`taken`) to one of the target (`put`), blending width included.

    `region` (H_s, W_s) and `mask` (H_t, W_t) mark the object in source and target, `affine` (2, 3) maps the windows.
    """

    region: Mask
    mask: Mask
    taken: Window
    put: Window
    affine: npt.NDArray[np.float64]
    feather: int
    recipe: dict[str, object]

    def carried(self, taken: Image) -> Image:
        """The pixels of the window `taken`, transformed to the window `put`."""
        rows, columns = self.put
        size = (columns.stop - columns.start, rows.stop - rows.start)
        # Beyond the source, pixels are mirrored; only the blended rim can show them.
        moved: Image = cv2.warpAffine(
            taken, self.affine, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
        )
        return moved


def _move(
    source: Image, target: Image, rng: np.random.Generator, settings: ForgeSettings, object_mask: Mask | None
) -> _Move:
    """An object of `source`, scaled, sheared, rotated, flipped, and put at a random position inside `target`.

    The recipe names the top left corners (x, y) of the object's box in the source and in the target.
    """
    feather = _whole(rng, settings.feather)
    region, scale = _region(source, target, rng, settings, object_mask)
    rotation, shear = _real(rng, settings.rotation), _real(rng, settings.shear)
    flip = bool(rng.random() < settings.flip)
    cosine, sine = np.cos(np.deg2rad(rotation)), np.sin(np.deg2rad(rotation))
    linear = scale * np.array([[cosine, sine], [-sine, cosine]]) @ [[-1.0 if flip else 1.0, shear], [0.0, 1.0]]

    outlines = np.vstack(cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0])
    corners = cv2.convexHull(outlines).reshape(-1, 2) @ linear.T
    extent = np.ceil(np.ptp(corners, axis=0).round(6)).astype(int)
    height, width = target.shape[:2]
    slack = (width - 1, height - 1) - extent
    if slack.min() < 0:
        raise Misfit("the object is larger than the image it goes to")
    put_at = rng.integers(0, slack, endpoint=True)

    # A nearest-neighbour pixel reaches half a source pixel beyond the corners, the blending `feather` further.
    around = int(np.ceil(np.linalg.norm(linear, 2))) + feather + 1
    (left, top), (right, bottom) = np.maximum(put_at - around, 0), put_at + extent + around + 1
    put = np.s_[top : min(bottom, height), left : min(right, width)]
    # In the source the rim (a square's diagonal) may be wider; interpolation reaches 2 pixels, JPEG's chroma 2 more.
    rim = float(np.linalg.norm(np.linalg.inv(linear), 2) * np.sqrt(2) * feather)
    taken = _window(region, int(np.ceil(rim)) + 5)
    start = linear @ [taken[1].start, taken[0].start] - corners.min(axis=0) + put_at - (left, top)
    affine = np.column_stack([linear, start])
    mask: Mask = np.zeros((height, width), np.uint8)
    mask[put] = cv2.warpAffine(region[taken], affine, mask[put].shape[::-1], flags=cv2.INTER_NEAREST)
    recipe: dict[str, object] = {"feather": feather, "scale": scale, "rotation": rotation, "shear": shear, "flip": flip}
    recipe |= {"taken_from": list(cv2.boundingRect(region)[:2]), "put_at": put_at.tolist()}
    return _Move(region, mask, taken, put, affine, feather, recipe)


def _region(
    source: Image, target: Image, rng: np.random.Generator, settings: ForgeSettings, object_mask: Mask | None
) -> tuple[Mask, float]:
    """The mask of the object to take from `source`, and the scale that gives it the drawn area in `target`.

    Raises DataError for a given object that has an area of the settings at no scale of the settings.
    """
    extent = target.shape[0] * target.shape[1]
    wanted = rng.uniform(*settings.area) * extent
    scale = _real(rng, settings.scale)
    if object_mask is None:
        height, width = source.shape[:2]
        return random_outline(rng, height, width, wanted / scale**2 / (height * width)), scale
    pixels = np.count_nonzero(_checked(object_mask, source))
    smallest, largest = (pixels * factor**2 / extent for factor in settings.scale)
    if largest < settings.area[0] or smallest > settings.area[1]:
        raise _impossible(f"an object that can cover {smallest:.3g} to {largest:.3g} of the image", settings, "scale")
    return object_mask, _rounded(np.sqrt(wanted / pixels), settings.scale)


def _with_margin(region: Mask, rng: np.random.Generator, settings: ForgeSettings) -> tuple[Mask, int]:
    """`region` dilated by a margin, drawn from those that fit the area, and that margin. DataError if none fits."""
    window = _window(region, settings.remove_margin[1])
    distance = cv2.distanceTransform(1 - region[window], cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    narrow, wide = settings.remove_margin
    shares = {margin: np.count_nonzero(distance <= margin) / region.size for margin in range(narrow, wide + 1)}
    fitting = [margin for margin, share in shares.items() if settings.area[0] <= share <= settings.area[1]]
    if not fitting:
        covers = f"an object that covers {shares[narrow]:.3g} to {shares[wide]:.3g} of the image with its margin"
        raise _impossible(covers, settings, "remove_margin")
    margin = fitting[_whole(rng, (0, len(fitting) - 1))]
    grown = np.zeros_like(region)
    grown[window] = distance <= margin
    return grown, margin


def _impossible(what: str, settings: ForgeSettings, other: str) -> DataError:
    low, high = settings.area
    return DataError(
        f"{what} does not fit area, {low:.3g} to {high:.3g}; widen area or {other}, or use another object", "not_forged"
    )


def _checked(object_mask: Mask, source: Image) -> Mask:
    if object_mask.shape != source.shape[:2] or not object_mask.any():
        raise DataError("the object mask is empty or has another size than its image", "not_forged")
    return object_mask


def _window(region: Mask, around: int) -> Window:
    """The bounding box of `region`, enlarged by `around` pixels and to the JPEG grid, within the image."""
    left, top, columns, rows = cv2.boundingRect(region)

    def span(start: int, length: int, end: int) -> slice:
        low, high = start - around, start + length + around
        return slice(max(0, low) // JPEG_GRID * JPEG_GRID, min(end, -(-high // JPEG_GRID) * JPEG_GRID))

    return span(top, rows, region.shape[0]), span(left, columns, region.shape[1])


def _paste(target: Image, pasted: npt.NDArray[np.float32], move: _Move) -> Image:
    """`target` with `pasted` (the window `move.put`, RGB) blended in; pixels of weight 0 are unchanged.

    The weight is the mask smoothed by a Gaussian of deviation feather / 2, cut off after `feather` pixels.
    """
    image = target.copy()
    patch = image[move.put]
    side = 2 * move.feather + 1
    weight = cv2.GaussianBlur(move.mask[move.put].astype(np.float32), (side, side), move.feather / 2)[..., None]
    # Where the weight is 0, this is exactly the target.
    patch[:] = np.clip(np.rint(patch + weight * (pasted - patch)), 0, 255).astype(np.uint8)
    return image


def _changed(target: Image, forged: Forged) -> float:
    """The fraction of the masked pixels that differ from the target."""
    box = _window(forged.mask, 0)
    difference = cv2.absdiff(forged.image[box], target[box])
    differs = (difference[..., 0] | difference[..., 1] | difference[..., 2]) > 0
    inside = forged.mask[box] > 0
    return np.count_nonzero(differs & inside) / np.count_nonzero(inside)


def _real(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    low, high = bounds
    return _rounded(rng.uniform(low + 0.0, high + 0.0), bounds)  # NumPy takes a range from 0.0 to -0.0 for reversed


def _rounded(value: float, bounds: tuple[float, float]) -> float:
    """`value` rounded to three digits, so that recipes are short, and inside its bounds."""
    return float(np.clip(round(value, 3), *bounds))


def _whole(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    return int(rng.integers(*bounds, endpoint=True))
