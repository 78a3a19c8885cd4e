"""Scribbles drawn from full masks, as an annotator would draw them: one thin curve for each class.

The recipe is that of WSL4MIS (Luo et al., "Scribble-Supervised Medical Image Segmentation via Dual-Branch Network and
Dynamically Mixed Pseudo Labels Supervision", MICCAI 2022): shrink the region, take its skeleton, keep one branch,
thicken it, shift and turn it a little, and cut it to the region. Its numbers are for images of about 256 pixels, so a
curve is found in an image of that size and drawn in the one that was given.
"""

from collections import deque

import cv2
import numpy as np
import numpy.typing as npt

from mpc_model.classes import IGNORED
from mpc_model.imaging.codecs import Mask

SIDE = 256
"""Pixels of the longer side at which a curve is found."""
ERODED_ABOVE, EROSIONS = 900, (4, 10)
"""Regions of more pixels are eroded, so often at least and at most."""
MOVED_ABOVE, SHIFT, TURN = 1000, 6.0, 15.0
"""Curves of regions of more pixels are shifted by up to so many pixels and turned by up to so many degrees."""
SIDE_OF_WIDTH = 200
"""Pixels of an image's side for each pixel of a curve's width: scribbles are then about 1% of an image."""

Points = npt.NDArray[np.float64]
"""Rows and columns, (N, 2)."""
_NEIGHBOURS = np.array([[128, 1, 2], [64, 0, 4], [32, 16, 8]], np.float32)
"""What each of a pixel's neighbours adds to its code."""


def draw(labels: Mask, rng: np.random.Generator) -> Mask:
    """A scribble: uint8 (H, W) with a label on one curve of each class, and 255 elsewhere.

    `labels` is uint8 (H, W), 255 = ignored, which gets no curve. Every labelled pixel has the label of `labels`, and
    every class there, if only of one pixel, has at least one. The same mask and state of `rng` give the same scribble.
    """
    scribble = np.full_like(labels, IGNORED)
    for label in np.unique(labels):
        if label != IGNORED:
            region = (labels == label).astype(np.uint8)
            scribble[_curve(region, rng) > 0] = label
    return scribble


def _curve(region: Mask, rng: np.random.Generator) -> Mask:
    """One curve inside a region that is not empty; uint8 (H, W) of 0 and 1, as the region."""
    erosions = int(rng.integers(EROSIONS[0], EROSIONS[1] + 1))
    shift, turn = rng.uniform(-SHIFT, SHIFT, 2), rng.uniform(-TURN, TURN)
    start, angle = rng.uniform(0, 1), rng.uniform(0, np.pi)
    height, width = region.shape
    factor = max(1.0, max(height, width) / SIDE)
    size = max(1, round(width / factor)), max(1, round(height / factor))
    small = (cv2.resize(region.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
    area = int(small.sum())
    if area > ERODED_ABOVE:
        kernel = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
        border = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0}  # the image's edge is one of the region, too
        eroded = cv2.erode(small, kernel, iterations=erosions, **border)
        small = eroded if eroded.any() else small
    part = _largest_part(small)
    path = _longest_path(_skeleton(part), start)
    if len(path) < np.sqrt(part.sum()):
        path = _straight(part, angle)
    path = (path + 0.5) * (np.array(region.shape) / small.shape) - 0.5
    paths = [path]
    if area > MOVED_ABOVE:
        paths.insert(0, _turned(path, turn) + shift * factor)
    for points in paths:
        curve = _drawn(points, region.shape) & region
        if curve.any():
            return curve
    return _innermost(region)


def _largest_part(region: Mask) -> Mask:
    """The largest connected part of a region."""
    _, parts, statistics, _ = cv2.connectedComponentsWithStats(region, connectivity=8)
    return (parts == 1 + statistics[1:, cv2.CC_STAT_AREA].argmax()).astype(np.uint8)


def _removable() -> list[Mask]:
    """For each of the two half steps of a thinning, 0 at the codes of pixels that it removes, and 1 at the others.

    Zhang and Suen, "A Fast Parallel Algorithm for Thinning Digital Patterns", 1984. A code holds a bit for each
    neighbour, clockwise from the one above.
    """
    bits = np.arange(256)[:, None] >> np.arange(8) & 1
    neighbours, edges = bits.sum(1), ((bits == 0) & (np.roll(bits, -1, axis=1) == 1)).sum(1)
    above, right, below, left = (bits[:, place] == 1 for place in (0, 2, 4, 6))
    outer = (neighbours >= 2) & (neighbours <= 6) & (edges == 1)
    first = outer & ~(above & right & below) & ~(right & below & left)
    second = outer & ~(above & right & left) & ~(above & below & left)
    return [(~removed).astype(np.uint8) for removed in (first, second)]


_KEPT = _removable()


def _skeleton(region: Mask) -> Mask:
    """A region thinned to lines of one pixel, without gaps."""
    thin, left = cv2.copyMakeBorder(region, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0), -1
    while left != (left := cv2.countNonZero(thin)):
        for kept in _KEPT:
            thin &= cv2.LUT(cv2.filter2D(thin, -1, _NEIGHBOURS), kept)
    thin = thin[1:-1, 1:-1]
    return thin if thin.any() else _innermost(region)  # of a square of 2 x 2 pixels, thinning leaves nothing


def _innermost(region: Mask) -> Mask:
    """The pixel of a region that is farthest from its edge."""
    pixel = np.zeros_like(region)
    pixel.flat[cv2.distanceTransform(region, cv2.DIST_L2, 3).argmax()] = 1
    return pixel


def _longest_path(skeleton: Mask, start: float) -> Points:
    """The pixels (N, 2) of a path without branches: from the one farthest from a start to the one farthest from that.

    `start`, in [0, 1), says with which pixel of the skeleton to begin.
    """
    pixels = [(int(y), int(x)) for y, x in np.argwhere(skeleton)]
    first = _farthest(pixels, pixels[int(start * len(pixels))])[-1]
    return np.array(_farthest(pixels, first), np.float64)


def _farthest(pixels: list[tuple[int, int]], start: tuple[int, int]) -> list[tuple[int, int]]:
    """The shortest path, over neighbours, from a pixel to the one that is farthest from it."""
    known, waiting, before, last = set(pixels), deque([start]), {start: start}, start
    while waiting:
        last = y, x = waiting.popleft()
        for neighbour in ((y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
            if neighbour in known and neighbour not in before:
                before[neighbour] = last
                waiting.append(neighbour)
    path = [last]
    while path[-1] != start:
        path.append(before[path[-1]])
    return path[::-1]


def _straight(region: Mask, angle: float) -> Points:
    """The ends (2, 2) of a line through the innermost pixel of a region, as long as a square of its area is wide.

    For round regions, whose skeletons are points.
    """
    half = np.sqrt(region.sum()) / 2 * np.array([np.sin(angle), np.cos(angle)])
    middle = np.argwhere(_innermost(region))[0]
    return np.array([middle - half, middle + half])


def _turned(path: Points, degrees: float) -> Points:
    """Points (N, 2) turned about their mean."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    middle = path.mean(axis=0)
    turned: Points = (path - middle) @ np.array([[cosine, sine], [-sine, cosine]]) + middle
    return turned


def _drawn(path: Points, shape: tuple[int, ...]) -> Mask:
    """A curve through points (N, 2) of row and column; uint8 of 0 and 1."""
    canvas = np.zeros(shape, np.uint8)
    width = max(1, round(float(np.sqrt(shape[0] * shape[1])) / SIDE_OF_WIDTH))
    points = np.round(path[:, ::-1]).astype(np.int32)
    cv2.polylines(canvas, [points.reshape(-1, 1, 2)], isClosed=False, color=1, thickness=width)
    return canvas
