"""The rotations and mirror images of a picture: the eight symmetries of the square, and the orientations of EXIF."""

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.uint8]
_ROTATIONS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}


def dihedral(image: Image, mask: Mask, k: int) -> tuple[Image, Mask]:
    """Element k (0 to 7) of the symmetry group of the square (D4), applied to an image and its mask.

    First k % 4 rotations by 90 degrees anticlockwise, then, from k = 4 on, a flip left to right. No pixel is
    interpolated. 0 is the identity, 4 flips left to right, 6 top to bottom, 7 transposes, 5 transposes about the other
    diagonal. Height and width are exchanged where k is odd.
    """

    return element(image, k), element(mask, k)


def element(array: Image, k: int) -> Image:
    """Element k of the symmetry group of the square, applied to one array, (H, W) or (H, W, 3): see `dihedral`."""
    array = array if k % 4 == 0 else cv2.rotate(array, _ROTATIONS[k % 4])
    return cv2.flip(array, 1) if k >= 4 else array


def upright(image: Image, orientation: int) -> Image:
    """The upright form of a stored image or mask, (H, W) or (H, W, 3), by its EXIF orientation (1 to 8)."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(image[::rows, ::columns])
