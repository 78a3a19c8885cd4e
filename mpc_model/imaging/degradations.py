"""Degradations: compression, scaling, blur and noise of fixed strength, to evaluate how robust a localizer is.

Images are changed in these ways before an analyst sees them. Views, which are for training, draw their strength at
random; a degradation does not, so a metric under `jpeg70` means the same in every evaluation. The size may change:
the predicted map is scaled back to the size of the part of the original image that is left, whose mask stays as it is.

A degradation is called by its family and its strength, `jpeg70` or `blur1.5`. `DEGRADATIONS` has the families.
Several after one another are joined by a plus sign, `facebook+jpeg60`; some orders of four have a name, `JRBN`.
"""

import difflib
import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np

from mpc_model.errors import UserError
from mpc_model.imaging.codecs import Image, decode_image, encode_jpeg
from mpc_model.imaging.degradation_sets import SETS
from mpc_model.registry import Registry

Region: TypeAlias = tuple[slice, slice]
"""A part of an image: rows and columns."""
WHOLE: Region = (slice(None), slice(None))


class Degraded(NamedTuple):
    """A degraded image, uint8 RGB (H, W, 3), and the part of the original that it shows."""

    image: Image
    region: Region = WHOLE


Apply: TypeAlias = Callable[[Image, float, np.random.Generator], Degraded]


@dataclass(frozen=True)
class Family:
    """Degradations of one kind. `apply` gets the image, the strength and a generator for what is random in it.

    Strengths are numbers from `least` to `most`, or every `step` of them; `undegraded` is the strength of an image as
    it is. A family without strengths has none of these. `pixels` is how many pixels the result has for one of the
    image, at most.
    """

    apply: Apply
    least: float = 0.0
    most: float = 0.0
    undegraded: float = 0.0
    step: float | None = None
    pixels: float = 1.0

    @property
    def has_strengths(self) -> bool:
        """Whether a name of this family ends in a number."""
        return self.most > 0

    def allows(self, strength: float) -> bool:
        """Whether there is a degradation of this strength."""
        return self.least <= strength <= self.most and (not self.step or (strength - self.least) % self.step == 0)

    @property
    def range(self) -> str:
        """Its strengths in words."""
        steps = f"{self.least:g}, {self.least + self.step:g}, ... {self.most:g}" if self.step else ""
        return steps or f"{self.least:g} to {self.most:g}"


DEGRADATIONS: Registry[Family] = Registry("degradation")

ALIASES = {"half_size": "resize0.5", "blur": "blur1", "noise": "noise5"}
"""Names of earlier versions."""
LETTERS = {"J": "jpeg60", "R": "resize0.6", "B": "blur_k5", "N": "noise1.53"}
"""What a letter of a chain such as JRBN stands for: the strengths of the paper."""
SOCIAL_NETWORKS = {"facebook": (2048, 80), "weibo": (2048, 75), "whatsapp": (1600, 75), "wechat": (1280, 60)}
"""Imitations of social networks: the longest side that they leave, in pixels, and the JPEG quality. Real services have
other encoders, choose the quality by the image, and change both from time to time."""
SCREEN = (1080, 1920)
"""Height and width in pixels of the screen of a screenshot."""
SCREEN_SCALE = 1.5
"""How large a screenshot shows an image that fits: a display that is set to 150%, as those of laptops are."""


def family(name: str, **settings: float) -> Callable[[Apply], Apply]:
    """Decorator that registers a function as a `Family` of these settings."""

    def register(apply: Apply) -> Apply:
        DEGRADATIONS.add(name)(Family(apply, **settings))
        return apply

    return register


@family("jpeg", least=1, most=100, undegraded=100, step=1)
def jpeg(image: Image, quality: float, rng: np.random.Generator) -> Degraded:
    """JPEG at this quality of libjpeg, with 4:2:0 chroma. 70 is about that of images sent by messengers."""
    return Degraded(_jpeg(image, int(quality)))


@family("resize", least=0.1, most=2, undegraded=1, pixels=4)
def resize(image: Image, factor: float, rng: np.random.Generator) -> Degraded:
    """Height and width times the factor, rounded down, at least 1: by area averages, or bicubic where it enlarges."""
    return Degraded(_resized(image, factor, cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC))


@family("blur", least=0.1, most=20)
def blur(image: Image, sigma: float, rng: np.random.Generator) -> Degraded:
    """A Gaussian blur of this deviation in pixels."""
    return Degraded(_of_image(cv2.GaussianBlur(image, (0, 0), sigma)))


@family("blur_k", least=3, most=51, undegraded=1, step=2)
def blur_k(image: Image, side: float, rng: np.random.Generator) -> Degraded:
    """A Gaussian blur with a kernel of this side in pixels, as OpenCV makes it: binomial up to 5, one of its tables at
    7, and above of deviation 0.15 side + 0.35."""
    return Degraded(_of_image(cv2.GaussianBlur(image, (int(side), int(side)), 0)))


@family("noise", least=0.1, most=100)
def noise(image: Image, sigma: float, rng: np.random.Generator) -> Degraded:
    """Gaussian noise of this deviation in grey levels, independent in each channel and pixel."""
    return Degraded(np.clip(np.rint(image + rng.normal(0.0, sigma, image.shape)), 0, 255).astype(np.uint8))


@family("crop", least=0.1, most=0.99, undegraded=1)
def crop(image: Image, share: float, rng: np.random.Generator) -> Degraded:
    """A part with this share of the height and of the width, at least one pixel, at a random place."""
    region = []
    for side in image.shape[:2]:
        length = max(1, round(side * share))
        start = int(rng.integers(0, side - length + 1))
        region.append(slice(start, start + length))
    rows, columns = region
    return Degraded(np.ascontiguousarray(image[rows, columns]), (rows, columns))


@family("screenshot", pixels=SCREEN_SCALE**2)
def screenshot(image: Image, strength: float, rng: np.random.Generator) -> Degraded:
    """The image as a screen shows it, cut out at its edges and stored without loss: SCREEN_SCALE times as large,
    bilinear, or as large as fits into SCREEN, by area averages where that is smaller."""
    factor = min(SCREEN_SCALE, *(most / side for most, side in zip(SCREEN, image.shape[:2], strict=True)))
    return Degraded(_resized(image, factor, cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR))


def _social_network(name: str, longest: int, quality: int) -> None:
    @family(name)
    def share(image: Image, strength: float, rng: np.random.Generator) -> Degraded:
        factor = longest / max(image.shape[:2])
        return Degraded(_jpeg(_resized(image, factor, cv2.INTER_AREA) if factor < 1 else image, quality))


for _name, _settings in SOCIAL_NETWORKS.items():
    _social_network(_name, *_settings)


class Step(NamedTuple):
    """A family, and the strength that is asked of it."""

    family: str
    strength: float


@dataclass(frozen=True)
class Degradation:
    """A degradation by its name: its steps, one after the other."""

    name: str
    steps: tuple[Step, ...]

    def __call__(self, image: Image, rng: np.random.Generator) -> Degraded:
        """The degraded image (H, W, 3) uint8 of an image of the same kind, which stays as it is."""
        region = WHOLE
        for index, step in enumerate(self.steps):
            image, shown = DEGRADATIONS[step.family].apply(image, step.strength, rng)
            region = region if index else shown
        return Degraded(image, region)

    @property
    def pixels(self) -> float:
        """How many pixels the result has for one of the image, at most."""
        return math.prod(DEGRADATIONS[step.family].pixels for step in self.steps)


def degradation(name: str) -> Degradation:
    """The degradation called `name`. Raises UserError for a name that is none, and names the nearest one."""
    parts = name.split("+")
    if len(parts) > 1 and not all(parts):
        raise UserError(f"degradation {name!r:.80}: a plus sign joins two names, such as facebook+jpeg60")
    steps = tuple(step for part in parts for step in _steps(part))
    if any(step.family == "crop" for step in steps[1:]):
        raise UserError(f"degradation {name!r:.80}: a crop has to come first")
    return Degradation(name, steps)


def _steps(name: str) -> list[Step]:
    """The steps of a name without a plus sign."""
    if 2 <= len(name) <= len(LETTERS) and set(name) <= set(LETTERS) and len(set(name)) == len(name):
        return [step for letter in name for step in _steps(LETTERS[letter])]
    match = re.fullmatch(r"([a-z_]+)(\d+(?:\.\d+)?)?", ALIASES.get(name, name))
    if not match or match[1] not in set(DEGRADATIONS):
        raise UserError(_unknown(name))
    of_name, number = DEGRADATIONS[match[1]], match[2]
    if number and not of_name.has_strengths:
        raise UserError(f"degradation {name!r:.80}: {match[1]} takes no number")
    strength = float(number or 0)
    if of_name.has_strengths and not of_name.allows(strength):
        raise UserError(f"degradation {name!r:.80}: {match[1]} takes a number, {of_name.range}")
    if number and number != f"{strength:.12g}":
        raise UserError(f"degradation {name!r:.80}: write it {match[1]}{strength:.12g}")
    return [Step(match[1], strength)]


def _unknown(name: str) -> str:
    """What is said of a name that is none."""
    written = re.search(r"\d+(\.\d+)?$", name)
    number = written[0] if written else ""

    def example(family: str) -> str:
        takes_number = number and DEGRADATIONS[family].allows(float(number))
        return f"{family}{number if takes_number else '<number>' if DEGRADATIONS[family].has_strengths else ''}"

    chains = ["".join(letters) for letters in itertools.permutations(LETTERS)]
    near = difflib.get_close_matches(name, [*map(example, DEGRADATIONS), *ALIASES, *SETS, *chains], n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    known = [f"{each}<{one.range}>" if (one := DEGRADATIONS[each]).has_strengths else each for each in DEGRADATIONS]
    return (
        f"unknown degradation {name!r:.80}{hint}; choose from: {', '.join(known)}, chains of the letters"
        f" {', '.join(LETTERS)} such as JRBN, several joined by +, or the sets {', '.join(SETS)}"
    )


def _jpeg(image: Image, quality: int) -> Image:
    return decode_image(encode_jpeg(image, quality), "a degraded image")


def _resized(image: Image, factor: float, interpolation: int) -> Image:
    """Both sides times the factor, rounded down but for errors of rounding, at least 1."""
    height, width = (max(1, int(side * factor + 1e-9)) for side in image.shape[:2])
    return _of_image(cv2.resize(image, (width, height), interpolation=interpolation))


def _of_image(result: object) -> Image:
    return np.asarray(result, np.uint8)
