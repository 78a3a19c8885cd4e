"""The classes of pixels, by number and by name; it needs no torch.

One class stands for one logit, of forgery: a pixel is authentic (0) or forged (1). Of several, a pixel is of one, from
0 on. 255 is no class: such pixels are ignored.
"""

from collections.abc import Sequence

from mpc_model.errors import UserError

IGNORED = 255
"""In a mask: the pixel is left out of losses, samples and metrics."""
MAX_CLASSES = 255
"""Labels have 8 bits, and 255 is that of ignored pixels."""
BACKGROUND = "background"
"""The name of a class that is not among the structures that are looked for: means leave it out."""
AUTHENTIC, FORGED = 0, 1
FORGERY = ("authentic", "forged")
_LONGEST = 200
"""Characters of the name of a class, at most."""


def check_classes(classes: object, names: Sequence[object]) -> None:
    """UserError unless a localizer can have so many classes of these names (none: they are called by their numbers)."""
    if type(classes) is not int or not 1 <= classes <= MAX_CLASSES:
        raise UserError(f"classes is {classes!r:.40}: give a whole number from 1 to {MAX_CLASSES}")
    if classes == 1 and names:
        raise UserError("class_names are for several classes, and classes is 1: leave them out")
    if names and len(names) != classes:
        raise UserError(f"class_names are {len(names)}, but classes is {classes}: give a name for each, or none")
    for name in names:
        if not isinstance(name, str) or not 1 <= len(name) <= _LONGEST or not name.isprintable():
            raise UserError(f"a class is named {name!r:.80}: give a printable text of 1 to {_LONGEST} characters")
    if len(set(names)) < len(names):
        raise UserError("class_names has a name twice: give each class a name of its own")


def class_labels(classes: int, names: Sequence[str]) -> tuple[str, ...]:
    """What the values of a mask are called, from 0 on: by their names, by their numbers where there are none, and
    authentic and forged with one class."""
    if classes == 1:
        return FORGERY
    return tuple(names) or tuple(map(str, range(classes)))
