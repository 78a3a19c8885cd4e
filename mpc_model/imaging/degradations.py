"""Degradations: compression, scaling, blur and noise of fixed strength, to evaluate how robust a localizer is.

Images are changed in these ways before an analyst sees them. Views, which are for training, draw their strength at
random; a degradation does not, so a metric under `jpeg70` means the same in every evaluation. The size may change:
the predicted map is scaled back to the size of the original image, whose mask stays as it is.
"""

from collections.abc import Callable

import cv2
import numpy as np

from mpc_model.imaging.codecs import Image, decode_image, encode_jpeg
from mpc_model.registry import Registry

Degradation = Callable[[Image, np.random.Generator], Image]
DEGRADATIONS: Registry[Degradation] = Registry("degradation")
NOISE_SIGMA = 5.0  # grey levels
BLUR_SIGMA = 1.0  # pixels


@DEGRADATIONS.add("jpeg70")
def jpeg70(image: Image, rng: np.random.Generator) -> Image:
    """JPEG at quality 70, about that of images uploaded to social platforms."""
    return _jpeg(image, 70)


@DEGRADATIONS.add("jpeg50")
def jpeg50(image: Image, rng: np.random.Generator) -> Image:
    """JPEG at quality 50: visibly compressed."""
    return _jpeg(image, 50)


@DEGRADATIONS.add("half_size")
def half_size(image: Image, rng: np.random.Generator) -> Image:
    """Half the height and half the width, at least 1, by area averages."""
    height, width = image.shape[:2]
    smaller: Image = cv2.resize(image, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
    return smaller


@DEGRADATIONS.add("blur")
def blur(image: Image, rng: np.random.Generator) -> Image:
    """A Gaussian blur of BLUR_SIGMA."""
    blurred: Image = cv2.GaussianBlur(image, (0, 0), BLUR_SIGMA)
    return blurred


@DEGRADATIONS.add("noise")
def noise(image: Image, rng: np.random.Generator) -> Image:
    """Gaussian noise of NOISE_SIGMA, independent in each channel and pixel."""
    return np.clip(np.rint(image + rng.normal(0.0, NOISE_SIGMA, image.shape)), 0, 255).astype(np.uint8)


def _jpeg(image: Image, quality: int) -> Image:
    return decode_image(encode_jpeg(image, quality), "a degraded image")
