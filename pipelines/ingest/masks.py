"""The mask of an item as one file: where a set has a mask for each pasted object, all of them count."""

from collections.abc import Callable

import numpy as np

from mpc_model.errors import DataError
from mpc_model.imaging import codecs


def read(locations: str, load: Callable[[str], bytes]) -> bytes:
    """The mask file at a location; of several locations, one a line, what any of them marks, as a 1-bit PNG.

    Raises DataError when one of several is not binary, or has another size than the first.
    """
    first, *others = locations.split("\n")
    if not others:
        return load(first)
    united = _marked(first, load)
    for location in others:
        more = _marked(location, load)
        if more.shape != united.shape:
            raise DataError(
                f"mask {location} has another size than {first}; find the one that belongs", "size_mismatch"
            )
        united = np.maximum(united, more)
    return codecs.encode_mask(united)


def label(locations: str | None) -> str | None:
    """What messages call them: the first, and how many more there are."""
    first, *others = (locations or "").split("\n")
    return f"{first} and {len(others)} more" if others else first or None


def _marked(location: str, load: Callable[[str], bytes]) -> codecs.Mask:
    levels = codecs.decode_image(load(location), location)
    codecs.check_binary(levels, location)
    return codecs.bright(levels)
