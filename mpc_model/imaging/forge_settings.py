"""What can be set of forgeries: every range with its bounds, its unit and its meaning."""

from dataclasses import dataclass, field, fields
from typing import Any

from mpc_model.errors import UserError

MAX_OUTLINE = 0.5  # fraction of its frame that every outline of `random_outline` can cover, whatever its shape


def _setting(default: Any, minimum: float, maximum: float, unit: str, meaning: str) -> Any:
    return field(default=default, metadata={"minimum": minimum, "maximum": maximum, "unit": unit, "meaning": meaning})


@dataclass(frozen=True)
class ForgeSettings:
    """Ranges (low, high), ends included, that are drawn from uniformly; single numbers are probabilities or counts.

    The metadata of each dataclass field holds `minimum` and `maximum` (the bounds of valid values, both included), its
    `unit` and its `meaning`, for config models and documentation.
    Raises UserError, naming the field and its bounds, for a range that is reversed or exceeds them.
    """

    area: tuple[float, float] = _setting((0.05, 0.35), 1e-6, MAX_OUTLINE, "fraction of the image", "forged area")
    feather: tuple[int, int] = _setting(
        (0, 3), 0, 32, "pixels", "all but removals: width of the blending on either side of the outline"
    )
    scale: tuple[float, float] = _setting(
        (0.7, 1.4), 0.1, 10.0, "times", "all but removals: size of the pasted object relative to its source"
    )
    rotation: tuple[float, float] = _setting(
        (-30.0, 30.0), -180.0, 180.0, "degrees", "all but removals: rotation of the pasted object, anticlockwise"
    )
    shear: tuple[float, float] = _setting(
        (-0.1, 0.1), -1.0, 1.0, "pixels a row", "all but removals: shear of the pasted object; its area stays the same"
    )
    flip: float = _setting(0.5, 0.0, 1.0, "chance", "all but removals: the pasted object is mirrored, left to right")
    gain: tuple[float, float] = _setting((0.85, 1.15), 0.25, 4.0, "times", "splices: factor of each colour channel")
    offset: tuple[float, float] = _setting(
        (-12.0, 12.0), -128.0, 128.0, "grey levels", "splices: added to each colour channel"
    )
    noise_sigma: tuple[float, float] = _setting(
        (0.0, 4.0), 0.0, 64.0, "grey levels", "splices: deviation of the Gaussian noise on the object"
    )
    donor_quality: tuple[int, int] = _setting(
        (60, 95), 1, 100, "libjpeg quality", "splices: JPEG compression that the object went through before"
    )
    remove_margin: tuple[int, int] = _setting(
        (2, 6),
        0,
        64,
        "pixels",
        "removals of a given object: margin around it that is removed too, so that no rim is left",
    )
    inpaint_radius: tuple[int, int] = _setting(
        (2, 5), 1, 16, "pixels", "removals: distance of the pixels that fill a point"
    )
    telea: float = _setting(0.5, 0.0, 1.0, "chance", "removals: by Telea's method, otherwise by the Navier-Stokes one")
    attempts: int = _setting(20, 1, 1000, "draws", "all kinds: made before a photograph is given up")

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, bounds = getattr(self, entry.name), entry.metadata
            low, high = value if isinstance(value, tuple) else (value, value)
            if low > high:
                raise UserError(f"forging range {entry.name} is reversed: {value}; write the smaller number first")
            if not bounds["minimum"] <= low <= high <= bounds["maximum"]:
                raise UserError(
                    f"forging setting {entry.name} is {value}; "
                    f"it can lie between {bounds['minimum']:g} and {bounds['maximum']:g} ({bounds['unit']})"
                )
