"""Pictures of results: outlines on images, heat maps, and contact sheets."""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from mpc_model.classes import BACKGROUND
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


def with_scribble(image: Image, scribble: Mask, names: Sequence[str]) -> Image:
    """The image with a scribble, uint8 (H, W) of class numbers and 255, drawn over it, wider than it is.

    The background, black in maps of classes, is white here.
    """
    side = 1 + 2 * round(max(image.shape) / 256)
    wider = cv2.erode(scribble, np.ones((side, side), np.uint8))  # 255, not scribbled, is the largest value
    table = np.full((256, 3), 255, np.uint8)
    colours = class_colours(names)
    colours[~colours.any(axis=1)] = 255
    table[: len(names)] = colours
    return np.where((wider == IGNORED)[..., None], image, table[wider])


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


def class_colours(names: Sequence[str]) -> Image:
    """A colour for each class of these names, uint8 RGB (K, 3): black for the background, the others far apart."""
    hues = [int(180 * ((0.618034 * label + 0.08) % 1)) for label in range(len(names))]
    hsv = [(hue, 150 if label % 3 == 2 else 220, 235 - 60 * (label % 2)) for label, hue in enumerate(hues)]
    colours: Image = cv2.cvtColor(np.array([hsv], np.uint8), cv2.COLOR_HSV2RGB)[0]
    colours[[name == BACKGROUND for name in names]] = 0
    return colours


def class_picture(labels: Mask, names: Sequence[str]) -> Image:
    """A map of classes (H, W) in their colours; ignored pixels are grey."""
    table = np.full((256, 3), IGNORED_GREY, np.uint8)
    table[: len(names)] = class_colours(names)
    return table[labels]


def class_overlay(image: Image, labels: Mask, names: Sequence[str]) -> Image:
    """The image and the colours of its classes (H, W), blended half and half; the background stays as it is."""
    blended: Image = cv2.addWeighted(image, 0.5, class_picture(labels, names), 0.5, 0)
    background = np.isin(labels, [label for label, name in enumerate(names) if name == BACKGROUND])
    return np.where(background[..., None], image, blended)


def class_legend(names: Sequence[str], width: int) -> Image:
    """The names of the classes with their colours, in as many lines as a picture of this width in pixels needs."""
    line, step = 22, 170
    columns = max(1, width // step)
    canvas = np.full((line * -(-len(names) // columns) + 8, width, 3), 255, np.uint8)
    for label, (name, colour) in enumerate(zip(names, class_colours(names), strict=True)):
        left, top = step * (label % columns) + 8, line * (label // columns)
        canvas[top + 4 : top + 16, left : left + 12] = colour
        write(canvas, name[:20], left + 18, top + 15)
    return canvas
