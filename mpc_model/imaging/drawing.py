"""Pictures of results: outlines on images, heat maps, and contact sheets."""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from mpc_model.classes import BACKGROUND, IGNORED
from mpc_model.imaging.codecs import Image, Mask

AUTHENTIC, FORGED = (43, 108, 176), (213, 63, 111)
"""The colours of the two classes in every picture and on every page: blue and pink, which people with any kind of
colour blindness tell apart."""
_FORGED = np.array(FORGED, np.float32)
IGNORED_GREY = 110
_CLEAR, _OPAQUE = 0.1, 0.7
"""Of an overlay: the probability up to which the image shows as it is, and the share of colour at probability 1."""
_FONT, _FONT_SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.42


def outlined(image: Image, mask: Mask) -> Image:
    """The image, uint8 RGB (H, W, 3), with the border of the forged region of its mask (H, W) drawn on a copy."""
    drawn = image.copy()
    contours, _ = cv2.findContours((mask == 1).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, contours, -1, FORGED, max(1, round(max(image.shape) / 256)))
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


def overlay(image: Image, probability: npt.NDArray[np.float32], threshold: float) -> Image:
    """The image with the colour of forged pixels over it: the more opaque the higher their probability (H, W), and not
    there at all where it is low. A white line in a dark one goes around what is above the threshold."""
    opacity = _opacity(probability)[..., None]
    drawn = np.rint(image + opacity * (_FORGED - image)).astype(np.uint8)
    contours, _ = cv2.findContours((probability > threshold).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(max(image.shape) / 512))
    for colour, width in (((20, 20, 20), thickness + 2), ((255, 255, 255), thickness)):
        cv2.drawContours(drawn, contours, -1, colour, width, cv2.LINE_8)
    return drawn


def with_scale(picture: Image, threshold: float) -> Image:
    """A picture with the colours of `overlay` from probability 0 to 1 below it, and a mark at the threshold."""
    height, edge, width = 34, 8, max(picture.shape[1], 96)
    strip = np.full((height, width, 3), 255, np.uint8)
    levels = np.tile(np.linspace(0, 1, width - 2 * edge, dtype=np.float32), (10, 1))
    grey = np.full((*levels.shape, 3), 160, np.float32)
    strip[4:14, edge:-edge] = np.rint(grey + _opacity(levels)[..., None] * (_FORGED - grey))
    at = edge + round(threshold * (width - 2 * edge - 1))
    strip[2:16, at] = 20
    words = [text for text in (f"forged above {threshold:.2g}", f"{threshold:.2g}") if _width(text) < width - 60]
    write(strip, "0", edge, 29)
    write(strip, "1", width - edge - _width("1"), 29)
    for text in words[:1]:
        write(strip, text, min(max(at - _width(text) // 2, 24), width - 24 - _width(text)), 29)
    below = cv2.copyMakeBorder(picture, 0, 0, 0, width - picture.shape[1], cv2.BORDER_CONSTANT, value=(255, 255, 255))
    return np.concatenate([below, strip])


def _opacity(probability: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    share: npt.NDArray[np.float32] = np.clip((probability - _CLEAR) / (1 - _CLEAR), 0, 1)
    return _OPAQUE * share


def sheet(rows: Sequence[Sequence[Image]], titles: Sequence[str], captions: Sequence[str], side: int = 192) -> Image:
    """Pictures of any sizes, scaled to fit squares of `side` pixels, in a grid with column titles, and below the
    pictures of each row its caption. A text that is longer than its place is shortened in the middle."""
    gap, text = 8, 20
    width = gap + len(titles) * (side + gap)
    head = np.full((text + 4, width, 3), 255, np.uint8)
    for column, title in enumerate(titles):
        write(head, shortened(title, side), gap + column * (side + gap), text - 5)
    strips = [head]
    for row, caption in zip(rows, captions, strict=True):
        pictures = [_fitted(picture, side) for picture in row]
        height = max(picture.shape[0] for picture in pictures)
        strip = np.full((height + text + gap, width, 3), 255, np.uint8)
        for column, picture in enumerate(pictures):
            left = gap + column * (side + gap)
            strip[: picture.shape[0], left : left + picture.shape[1]] = picture
        write(strip, shortened(caption, width - 2 * gap), gap, height + text - 5)
        strips.append(strip)
    return np.concatenate(strips)


def _fitted(picture: Image, side: int) -> Image:
    """A picture scaled so that its longer side has so many pixels."""
    scale = side / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    fitted: Image = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    return fitted


def shortened(text: str, width: int) -> str:
    """A text as it is, or without its middle, so that `write` needs at most so many pixels for it."""
    left = len(text)
    short = text
    while _width(short) > width and left > 2:
        left -= 1
        short = f"{text[: (left + 1) // 2]}...{text[len(text) - left // 2 :]}"
    return short


def _width(text: str) -> int:
    """The pixels that `write` needs for a text."""
    return int(cv2.getTextSize(text, _FONT, _FONT_SIZE, 1)[0][0])


def write(canvas: Image, text: str, left: int, baseline: int) -> None:
    """Draw a line of text on a picture, in place; (left, baseline) in pixels."""
    cv2.putText(canvas, text, (left, baseline), _FONT, _FONT_SIZE, (40, 40, 50), 1, cv2.LINE_AA)


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
        write(canvas, shortened(name, step - 26), left + 18, top + 15)
    return canvas
