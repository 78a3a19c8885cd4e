"""Forged samples out of authentic photographs: splicing, copy-move and removal, deterministic from the generator.

    forged = forge("splice", target, donor, np.random.default_rng(7), ForgeSettings())

Each kind is one function that makes one attempt and raises DataError where its draw does not fit; `forge` tries again
and checks what every forged sample promises. Nothing here compresses the result: that is the last act of a view.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import cv2
import numpy as np
import numpy.typing as npt

from mpc_model.errors import DataError, UserError
from mpc_model.images import Image, Mask, decode_image, encode_jpeg
from mpc_model.registry import Registry

MIN_CHANGED = 0.5  # a forged region of which less than this differs from the original would teach a wrong label
MAX_OVERLAP = 0.5  # a copy that lies on its own original by more than this moved hardly anything
MAX_OUTLINE = 0.5  # any smooth outline of `random_outline` can have this fraction of its frame


@dataclass(frozen=True)
class ForgeSettings:
    """Ranges (low, high), both included, from which each forgery draws uniformly.

    Raises UserError for a range that is reversed, or an area outside 0 to 0.5.
    """

    area: tuple[float, float] = (0.05, 0.35)  # forged fraction of the image
    feather: tuple[int, int] = (0, 3)  # blend width, pixels on either side of the outline
    scale: tuple[float, float] = (0.7, 1.4)  # size of the pasted object relative to its source
    rotation: tuple[float, float] = (-30.0, 30.0)  # degrees, anticlockwise
    gain: tuple[float, float] = (0.85, 1.15)  # splices: factor of each colour channel
    offset: tuple[float, float] = (-12.0, 12.0)  # splices: grey levels added to each colour channel
    noise_sigma: tuple[float, float] = (0.0, 4.0)  # splices: grey levels of Gaussian noise on the object
    donor_quality: tuple[int, int] = (60, 95)  # splices: JPEG quality of the donor's own past
    inpaint_radius: tuple[int, int] = (2, 5)  # removals: pixels around a point that fill it
    attempts: int = 20  # draws before `forge` gives up on a photograph

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple) and value[0] > value[1]:
                raise UserError(f"forging range {field.name} is reversed: {value}; write the smaller number first")
        if not 0 < self.area[0] <= self.area[1] <= MAX_OUTLINE:
            raise UserError(f"forging range area is {self.area}; fractions must lie above 0 and up to {MAX_OUTLINE}")


@dataclass(frozen=True)
class Forged:
    """A forged image (uint8 RGB, H, W, 3), its mask (uint8 0/1, H, W), its kind, and the JSON-able parameters drawn."""

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
    """A forgery of `target` of the named kind; `donor` matters to splices only.

    `object_mask` (0/1) outlines the object to take: in the donor for a splice, in the target otherwise; without it a
    random curved outline is drawn. Promised: the mask covers a fraction of the image inside `settings.area`; at least
    half of the masked pixels differ from the target; outside the mask dilated by recipe["feather"] pixels (a square
    neighbourhood) the image is byte-identical to the target.
    Raises UserError for an unknown kind, DataError where `settings.attempts` draws did not give such a forgery.
    """
    attempt = FORGERIES[kind]
    misfit = ""
    for _ in range(settings.attempts):
        try:
            forged = attempt(target, donor, rng, settings, object_mask)
        except DataError as error:
            misfit = str(error)
            continue
        area = float(forged.mask.mean())
        if not settings.area[0] <= area <= settings.area[1]:
            misfit = f"the region covers {area:.3f} of the image"
        elif (forged.image != target).any(axis=2)[forged.mask == 1].mean() < MIN_CHANGED:
            misfit = "the region looks like what it replaces"
        else:
            return forged
    raise DataError(
        f"no {kind} in {settings.attempts} attempts, at last because {misfit}; "
        "widen the settings or use another photograph"
    )


@FORGERIES.add("splice")
def splice(
    target: Image, donor: Image, rng: np.random.Generator, settings: ForgeSettings, object_mask: Mask | None = None
) -> Forged:
    """One attempt to paste an object of `donor` into `target`.

    The donor first goes through a JPEG compression of its own; the object is scaled and rotated, its channels get a
    gain and an offset, noise is added, its rim is blended.
    """
    quality = _whole(rng, settings.donor_quality)
    gain = [_real(rng, settings.gain) for _ in range(3)]
    offset = [_real(rng, settings.offset) for _ in range(3)]
    sigma = _real(rng, settings.noise_sigma)
    feather = _whole(rng, settings.feather)
    region, scale = _region(donor, target, rng, settings, object_mask)
    past = decode_image(encode_jpeg(donor, quality), "donor")
    moved, mask, placement = _carry(past, region, target, scale, rng, settings)
    touched, weight = _soft_edge(mask, feather)
    pasted = moved[touched].astype(np.float32) * np.array(gain, np.float32) + np.array(offset, np.float32)
    pasted += rng.normal(0.0, sigma, pasted.shape).astype(np.float32)
    recipe = {"donor_quality": quality, "gain": gain, "offset": offset, "noise_sigma": sigma, "feather": feather}
    return Forged(_blend(target, pasted, touched, weight), mask, "splice", recipe | placement)


def copy_move(
    target: Image, rng: np.random.Generator, settings: ForgeSettings, object_mask: Mask | None = None
) -> Forged:
    """One attempt to copy an object of `target` elsewhere in it, scaled and rotated, its rim blended.

    The mask marks the destination only: the original of the copy is authentic. DataError where the copy would cover
    more than half of its own area with its original.
    """
    feather = _whole(rng, settings.feather)
    region, scale = _region(target, target, rng, settings, object_mask)
    moved, mask, placement = _carry(target, region, target, scale, rng, settings)
    if (mask & region).sum() > MAX_OVERLAP * mask.sum():
        raise DataError("the copy lies on its original")
    touched, weight = _soft_edge(mask, feather)
    image = _blend(target, moved[touched].astype(np.float32), touched, weight)
    return Forged(image, mask, "copy_move", {"feather": feather} | placement)


def remove(target: Image, rng: np.random.Generator, settings: ForgeSettings, object_mask: Mask | None = None) -> Forged:
    """One attempt to remove an object of `target` by inpainting (Telea's or the Navier-Stokes method, OpenCV's).

    The mask is the inpainted region; nothing outside it changes.
    """
    radius = _whole(rng, settings.inpaint_radius)
    method = "telea" if rng.random() < 0.5 else "navier-stokes"
    region = _object(target, rng, _real(rng, settings.area), object_mask)
    flag = cv2.INPAINT_TELEA if method == "telea" else cv2.INPAINT_NS
    image: Image = cv2.inpaint(target, region, radius, flag)
    return Forged(image, region, "remove", {"method": method, "radius": radius, "feather": 0})


FORGERIES.add("copy_move")(lambda target, _, rng, settings, mask: copy_move(target, rng, settings, mask))
FORGERIES.add("remove")(lambda target, _, rng, settings, mask: remove(target, rng, settings, mask))


def random_outline(rng: np.random.Generator, height: int, width: int, area_fraction: float) -> Mask:
    """A region with a smooth closed outline, uint8 (height, width) of 0/1, of about `area_fraction` of the frame.

    The outline is a low-order Fourier series of the radius over the angle, stretched to a random box inside the frame.
    Raises DataError for a fraction above 0.5, which not every such outline can reach.
    """
    if not 0 < area_fraction <= MAX_OUTLINE:
        raise DataError(f"an outline of {area_fraction:.3f} of the frame was asked, it can have up to {MAX_OUTLINE}")
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


def _object(source: Image, rng: np.random.Generator, area_fraction: float, object_mask: Mask | None) -> Mask:
    """The given object of `source`, or a random outline of that fraction of it."""
    height, width = source.shape[:2]
    if object_mask is None:
        return random_outline(rng, height, width, area_fraction)
    if object_mask.shape != (height, width) or not object_mask.any():
        raise DataError("the object mask is empty or has another size than its image")
    return object_mask


def _region(
    source: Image, target: Image, rng: np.random.Generator, settings: ForgeSettings, object_mask: Mask | None
) -> tuple[Mask, float]:
    """The object to take from `source`, and the scale that brings it to the drawn area of `target`."""
    fraction = _real(rng, settings.area)
    scale = _real(rng, settings.scale)
    wanted = fraction * target.shape[0] * target.shape[1]
    region = _object(source, rng, wanted / scale**2 / (source.shape[0] * source.shape[1]), object_mask)
    if object_mask is not None:  # its size is given: the scale follows, as far as its range allows
        scale = round(float(np.clip(np.sqrt(wanted / region.sum()), *settings.scale)), 3)
    return region, scale


def _carry(
    source: Image, region: Mask, target: Image, scale: float, rng: np.random.Generator, settings: ForgeSettings
) -> tuple[Image, Mask, dict[str, object]]:
    """`source` and `region` scaled, rotated, and shifted by whole pixels to where the region lies inside `target`.

    The parameters name the top left corners (x, y) of the region's box in the source and in the target.
    """
    rotation = _real(rng, settings.rotation)
    height, width = target.shape[:2]
    hull = cv2.convexHull(cv2.findNonZero(region))
    left, top, columns, rows = cv2.boundingRect(hull)
    affine = cv2.getRotationMatrix2D((left + columns / 2, top + rows / 2), rotation, scale)
    corners = cv2.transform(hull.astype(np.float64), affine).reshape(-1, 2)
    low, high = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
    room = (width, height) - (high - low + 1)
    if room.min() < 0:
        raise DataError("the object is larger than the image it goes to")
    position = rng.integers(0, room.astype(int), endpoint=True)
    affine[:, 2] += position - low
    size = (width, height)
    # What lies beyond the source is mirrored; only the blended rim can show it.
    moved: Image = cv2.warpAffine(source, affine, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    mask: Mask = cv2.warpAffine(region, affine, size, flags=cv2.INTER_NEAREST)
    placement = {"scale": scale, "rotation": rotation, "taken_from": [left, top], "put_at": position.tolist()}
    return moved, mask, placement


def _soft_edge(mask: Mask, feather: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Where a paste has any weight (bool, H, W), and its weights there (float32, N x 1), 1 deep inside the mask.

    The mask smoothed by a Gaussian of deviation feather / 2, cut off after `feather` pixels.
    """
    side = 2 * feather + 1
    weight = cv2.GaussianBlur(mask.astype(np.float32), (side, side), feather / 2)
    touched = weight > 0
    return touched, weight[touched][:, None]


def _blend(
    target: Image, pasted: npt.NDArray[np.float32], touched: npt.NDArray[np.bool_], weight: npt.NDArray[np.float32]
) -> Image:
    """`target` with the touched pixels mixed with `pasted` (N, 3); every other pixel stays as it is."""
    image = target.copy()
    mixed = weight * pasted + (1 - weight) * target[touched]
    image[touched] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return image


def _real(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return round(float(rng.uniform(*bounds)), 3)


def _whole(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    return int(rng.integers(*bounds, endpoint=True))
