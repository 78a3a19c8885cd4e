"""Pictures of results: outlines on images, heat maps, and contact sheets."""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from mpc_model.imaging.codecs import IGNORED, Image, Mask

OUTLINE = (255, 40, 120)
IGNORED_GREY = 110


def outlined(image: Image, mask: Mask) -> Image:
    """The image, uint8 RGB (H, W, 3), with the border of the forged region of its mask (H, W) drawn on a copy."""
    drawn = image.copy()
    contours, _ = cv2.findContours((mask == 1).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, contours, -1, OUTLINE, max(1, round(max(image.shape) / 256)))
    return drawn


def mask_picture(mask: Mask) -> Image:
    """A mask (H, W) as RGB: black is authentic, white forged, grey ignored."""
    grey = np.where(mask == IGNORED, IGNORED_GREY, mask * np.uint8(255))
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def heat(probability: npt.NDArray[np.float32]) -> Image:
    """A map of probabilities (H, W) as RGB: from black (0) through purple and orange to pale yellow (1)."""
    levels = np.rint(probability * 255).astype(np.uint8)
    coloured: Image = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return coloured


def overlay(image: Image, probability: npt.NDArray[np.float32]) -> Image:
    """The image and the heat map of its probabilities (H, W), blended 40:60."""
    blended: Image = cv2.addWeighted(image, 0.4, heat(probability), 0.6, 0)
    return blended


def sheet(rows: Sequence[Sequence[Image]], titles: Sequence[str], captions: Sequence[str], side: int = 192) -> Image:
    """Pictures of any sizes, scaled to fit squares of `side` pixels, in a grid with column titles and row captions."""
    gap, text = 8, 20
    width = gap + len(titles) * (side + gap)
    height = text + gap + len(rows) * (side + text + gap)
    canvas = np.full((height, width, 3), 255, np.uint8)
    for column, title in enumerate(titles):
        write(canvas, title, gap + column * (side + gap), text - 5)
    for line, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        top = text + line * (side + text + gap)
        for column, picture in enumerate(row):
            scale = side / max(picture.shape[:2])
            size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
            fitted = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
            left = gap + column * (side + gap)
            canvas[top : top + size[1], left : left + size[0]] = fitted
        write(canvas, caption, gap, top + side + text - 6)
    return canvas


def write(canvas: Image, text: str, left: int, baseline: int) -> None:
    """Draw a line of text on a picture, in place; (left, baseline) in pixels."""
    cv2.putText(canvas, text, (left, baseline), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 40, 50), 1, cv2.LINE_AA)
