"""Views: renderings of a sample, image and mask together, encoded as a pixel dataset stores them.

A policy is a function (image, mask, rng) -> View under a name in VIEW_POLICIES; `render_views` makes the views of one
sample. The encoding of a view is that of its last operation: the original file where nothing was changed, JPEG where
the last operation was a JPEG compression, PNG otherwise. One more lossy compression would destroy the traces that a
model learns.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import numpy.typing as npt

from mpc_model.errors import DataError
from mpc_model.imaging.codecs import Image, Mask, decode_image, encode_jpeg, encode_labels, encode_mask, encode_png
from mpc_model.imaging.symmetries import dihedral as dihedral
from mpc_model.registry import Registry

Params = dict[str, object]
Photometric = Callable[[Image, np.random.Generator], tuple[Image, Params]]
Geometric = Callable[[Image, Mask, np.random.Generator], tuple[Image, Mask, Params]]


@dataclass(frozen=True)
class View:
    """An image file, a PNG mask of the same size, and the operations in order, each {"op": name, parameters}."""

    image_bytes: bytes
    mask_bytes: bytes
    ops: list[Params]
    scribble_bytes: bytes | None = None
    """A PNG file of the scribble, of the same size, where the sample has one."""


ViewPolicy = Callable[[Image, Mask, np.random.Generator], View]
VIEW_POLICIES: Registry[ViewPolicy] = Registry("view policy")


def render_views(
    encoded: bytes,
    image: Image,
    mask: Mask,
    policy: str,
    count: int,
    rng: np.random.Generator,
    *,
    indexed: bool = False,
    scribble: Mask | None = None,
) -> list[View]:
    """`count` views of a sample: the canonical one (view 0), then those that the policy draws.

    Args: `encoded` is the file of the canonical view, and `image`, uint8 RGB (H, W, 3), the pixels that decoding it
    gives: whoever made the file has them already. `mask` is uint8 (H, W) of 0, 1 and 255 = ignored, or, with `indexed`,
    of class numbers and 255. `scribble`, uint8 (H, W) of class numbers and 255, goes through the same operations.
    View 0, and every view that the policy leaves unchanged, stores `encoded` itself. The first views do not depend on
    `count`. Raises UserError for an unknown policy, ValueError for an image and masks of different sizes, DataError for
    a mask of other values, and for a policy whose draws depend on what the mask holds, where there is a scribble.
    """
    render = VIEW_POLICIES[policy]
    for labels in (mask, scribble):
        if labels is not None and labels.shape != image.shape[:2]:
            raise ValueError(
                f"the image is {image.shape[:2]}, its mask {labels.shape} (height, width); they must agree"
            )
    encode = encode_labels if indexed else encode_mask
    canonical = View(encoded, encode(mask), [], None if scribble is None else encode_labels(scribble))
    views = [canonical]
    for _ in range(count - 1):
        before = None if scribble is None else copy.deepcopy(rng)
        view = render(image, mask, rng)
        if view.ops and scribble is not None and before is not None:
            # The same draws once more, with the scribble in the place of the mask: a policy need not know of scribbles.
            again = render(image, scribble, before)
            if (again.image_bytes, again.ops) != (view.image_bytes, view.ops):
                raise DataError(
                    f"view policy {policy} looks at the mask, so that scribbles cannot follow it; use another"
                )
            view = replace(view, scribble_bytes=again.mask_bytes)
        views.append(view if view.ops else canonical)
    return views


@dataclass
class _Draft:
    """A view while a policy makes it. `jpeg` is its file after a compression, until another operation follows."""

    image: Image
    mask: Mask
    ops: list[Params] = field(default_factory=list)
    jpeg: bytes | None = None

    def photometric(self, op: Photometric, rng: np.random.Generator) -> None:
        self.image, params = op(self._pixels(), rng)
        self._record(op.__name__, params)

    def geometric(self, op: Geometric, rng: np.random.Generator) -> None:
        self.image, self.mask, params = op(self._pixels(), self.mask, rng)
        self._record(op.__name__, params)

    def compress(self, low: int, high: int, rng: np.random.Generator) -> None:
        quality = int(rng.integers(low, high, endpoint=True))
        self.jpeg = encode_jpeg(self._pixels(), quality)
        self._record("jpeg", {"quality": quality})

    def view(self) -> View:
        return View(self.jpeg or encode_png(self.image), encode_labels(self.mask), self.ops)

    def _pixels(self) -> Image:
        """The pixels after all operations so far. A JPEG file is decoded only here: often no operation follows it."""
        if self.jpeg is not None:
            self.image, self.jpeg = decode_image(self.jpeg, "view"), None
        return self.image

    def _record(self, name: str, params: Params) -> None:
        self.ops.append({"op": name, **params})


@VIEW_POLICIES.add("light")
def light(image: Image, mask: Mask, rng: np.random.Generator) -> View:
    """A symmetry of the square, then in half of the views a JPEG compression, quality 70 to 95. Cheap, for the demo."""
    draft = _Draft(image, mask)
    draft.geometric(symmetry, rng)
    if rng.random() < 0.5:
        draft.compress(70, 95, rng)
    return draft.view()


@VIEW_POLICIES.add("release")
def release(image: Image, mask: Mask, rng: np.random.Generator) -> View:
    """The augmentation of the published training of MPC; a quarter of the views stays unchanged.

    Published are the groups, their order and probabilities, the scale (.5 to 1) and the JPEG quality (50 to 95). Each
    of the last three groups is taken to have a probability of .25 of its own. The ranges of the single operations are
    not published; each operation below states ours.
    """
    draft = _Draft(image, mask)
    if rng.random() < 0.75:
        if rng.random() < 0.75:
            draft.geometric(scale, rng)
        if rng.random() < 0.75:
            draft.geometric(symmetry, rng)
        if rng.random() < 0.75:
            draft.compress(50, 95, rng)
        if rng.random() < 0.25:
            draft.photometric(BLURS[rng.integers(len(BLURS))], rng)
        if rng.random() < 0.25:
            draft.photometric(TONES[rng.integers(len(TONES))], rng)
        if rng.random() < 0.25:
            draft.geometric(WARPS[rng.integers(len(WARPS))], rng)
    return draft.view()


def scale(image: Image, mask: Mask, rng: np.random.Generator) -> tuple[Image, Mask, Params]:
    """Shrinks to .5 to 1 of the size, bilinear; the mask by nearest neighbour."""
    factor = _real(rng, 0.5, 1.0)
    size = [max(1, round(side * factor)) for side in (image.shape[1], image.shape[0])]
    smaller: Image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    # INTER_NEAREST takes the top left pixel of each cell, which would shift the mask by half a pixel.
    return smaller, cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT), {"factor": factor}


def symmetry(image: Image, mask: Mask, rng: np.random.Generator) -> tuple[Image, Mask, Params]:
    """One of the seven flips, quarter turns and transposes other than the identity."""
    k = int(rng.integers(1, 8))
    return *dihedral(image, mask, k), {"k": k}


def elastic(image: Image, mask: Mask, rng: np.random.Generator) -> tuple[Image, Mask, Params]:
    """Smooth displacement: a 5x5 grid of normally distributed shifts (sigma .5 to 2% of the short side), interpolated
    by cubic splines."""
    height, width = image.shape[:2]
    strength = _real(rng, 0.005, 0.02)
    shifts = rng.normal(0.0, strength * min(height, width), (5, 5, 2)).astype(np.float32)
    drift = cv2.resize(shifts, (width, height), interpolation=cv2.INTER_CUBIC)
    moved = _displaced(image, mask, np.arange(width) + drift[..., 0], np.arange(height)[:, None] + drift[..., 1])
    return *moved, {"strength": strength}


def grid(image: Image, mask: Mask, rng: np.random.Generator) -> tuple[Image, Mask, Params]:
    """Grid distortion: 5 columns and 5 rows, each stretched by a factor of .7 to 1.3, then all scaled to the size."""

    def source(side: int) -> npt.NDArray[np.float64]:
        knots = np.concatenate([[0.0], np.cumsum(rng.uniform(0.7, 1.3, 5))])
        return np.interp(np.arange(side), knots / knots[-1] * (side - 1), np.linspace(0, side - 1, 6))

    xs, ys = np.meshgrid(source(image.shape[1]), source(image.shape[0]))
    return *_displaced(image, mask, xs, ys), {}


def box_blur(image: Image, rng: np.random.Generator) -> tuple[Image, Params]:
    """Mean over a square of 3, 5 or 7 pixels."""
    side = _odd(rng)
    return cv2.blur(image, (side, side)), {"kernel": side}


def gaussian_blur(image: Image, rng: np.random.Generator) -> tuple[Image, Params]:
    """Gaussian with a kernel of 3, 5 or 7 pixels (the sigma OpenCV derives from it)."""
    side = _odd(rng)
    return cv2.GaussianBlur(image, (side, side), 0), {"kernel": side}


def median_blur(image: Image, rng: np.random.Generator) -> tuple[Image, Params]:
    """Median over a square of 3, 5 or 7 pixels."""
    side = _odd(rng)
    return cv2.medianBlur(image, side), {"kernel": side}


def motion_blur(image: Image, rng: np.random.Generator) -> tuple[Image, Params]:
    """Mean along a line of 3, 5 or 7 pixels, in any direction."""
    side, angle = _odd(rng), _real(rng, 0.0, np.pi)
    kernel = np.zeros((side, side), np.float32)
    reach = np.rint(side // 2 * np.array([np.cos(angle), np.sin(angle)])).astype(int)
    cv2.line(kernel, (side // 2 - reach).tolist(), (side // 2 + reach).tolist(), 1.0)
    kernel += kernel[::-1, ::-1].copy()  # a line may be drawn off the centre, which would shift the image off its mask
    return cv2.filter2D(image, -1, kernel / kernel.sum()), {"kernel": side, "radians": angle}


def downscale(image: Image, rng: np.random.Generator) -> tuple[Image, Params]:
    """Shrinks to .5 to .9 of the size and enlarges again: fine detail is lost."""
    factor = _real(rng, 0.5, 0.9)
    height, width = image.shape[:2]
    size = [max(1, round(side * factor)) for side in (width, height)]
    smaller = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.resize(smaller, (width, height), interpolation=cv2.INTER_LINEAR), {"factor": factor}


def noise(image: Image, rng: np.random.Generator) -> tuple[Image, Params]:
    """Gaussian noise of 3 to 7 grey levels, independent in each channel."""
    sigma = _real(rng, 3.0, 7.0)
    return _rounded(image + rng.normal(0.0, sigma, image.shape)), {"sigma": sigma}


def iso_noise(image: Image, rng: np.random.Generator) -> tuple[Image, Params]:
    """Noise of a high ISO setting: sigma = strength * sqrt(value), strength .2 to .8, the same in all channels, and
    about a quarter as much of a coarser noise that differs between channels.
    """
    strength = _real(rng, 0.2, 0.8)
    shot = rng.normal(0.0, 1.0, (*image.shape[:2], 1))
    colour = cv2.GaussianBlur(rng.normal(0.0, 1.0, image.shape), (5, 5), 0)
    return _rounded(image + strength * np.sqrt(image.astype(np.float64)) * (shot + colour)), {"strength": strength}


def brightness_contrast(image: Image, rng: np.random.Generator) -> tuple[Image, Params]:
    """Contrast factor .8 to 1.2, then brightness shifted by up to 20% of the full range."""
    contrast, shift = _real(rng, 0.8, 1.2), _real(rng, -0.2, 0.2)
    return _mapped(image, lambda level: contrast * level + shift), {"contrast": contrast, "shift": shift}


def gamma(image: Image, rng: np.random.Generator) -> tuple[Image, Params]:
    """Levels (0 to 1) raised to a power of .8 to 1.2."""
    power = _real(rng, 0.8, 1.2)
    return _mapped(image, lambda level: level**power), {"power": power}


def tone_curve(image: Image, rng: np.random.Generator) -> tuple[Image, Params]:
    """A cubic Bezier curve from (0, 0) to (1, 1), its inner points at 1/3 and 2/3 raised or lowered by up to .2."""
    low, high = _real(rng, -0.2, 0.2), _real(rng, -0.2, 0.2)

    def curve(level: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        # The abscissae are 0, 1/3, 2/3 and 1, so the curve's parameter is the level itself.
        return level + 3 * low * level * (1 - level) ** 2 + 3 * high * level**2 * (1 - level)

    return _mapped(image, curve), {"low": low, "high": high}


def sharpen(image: Image, rng: np.random.Generator) -> tuple[Image, Params]:
    """Unsharp mask: adds .2 to 1 times the difference to a Gaussian blur of sigma 1."""
    amount = _real(rng, 0.2, 1.0)
    blurred = cv2.GaussianBlur(image, (0, 0), 1.0)
    return cv2.addWeighted(image, 1 + amount, blurred, -amount, 0), {"amount": amount}


BLURS: tuple[Photometric, ...] = (box_blur, gaussian_blur, median_blur, motion_blur)
TONES: tuple[Photometric, ...] = (downscale, noise, iso_noise, brightness_contrast, gamma, tone_curve, sharpen)
WARPS: tuple[Geometric, ...] = (elastic, grid)


def _displaced(
    image: Image, mask: Mask, xs: npt.NDArray[np.float64], ys: npt.NDArray[np.float64]
) -> tuple[Image, Mask]:
    """Image and mask sampled at (xs, ys), each (H, W) in pixels, reflected at the border; the mask by nearest
    neighbour."""
    x32, y32 = xs.astype(np.float32), ys.astype(np.float32)
    moved: Image = cv2.remap(image, x32, y32, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return moved, cv2.remap(mask, x32, y32, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)


def _mapped(image: Image, curve: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]) -> Image:
    """`image` with `curve`, a function of the level (0 to 1), applied to every value."""
    return _rounded(255 * curve(np.arange(256) / 255))[image]


def _rounded(values: npt.NDArray[np.float64]) -> Image:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _odd(rng: np.random.Generator) -> int:
    return 3 + 2 * int(rng.integers(3))


def _real(rng: np.random.Generator, low: float, high: float) -> float:
    return round(float(rng.uniform(low, high)), 3)
