"""Photographs that come with installed packages: what `mpc demo` forges when no others are named."""

from importlib.util import find_spec
from pathlib import Path

from mpc_model.errors import UserError

# Photographs that come with scikit-image and scikit-learn. Of the stereo pair (motorcycle) only the left one is
# used: two photographs of one scene in different splits would be leakage.
SHIPPED = {
    "skimage": (
        "data",
        "astronaut.png brick.png camera.png chelsea.png clock_motion.png coffee.png coins.png grass.png gravel.png"
        " hubble_deep_field.jpg ihc.png moon.png motorcycle_left.png retina.jpg rocket.jpg",
    ),
    "sklearn": ("datasets/images", "china.jpg flower.jpg"),
}
COUNT = sum(len(names.split()) for _, names in SHIPPED.values())


def photographs() -> list[str]:
    """Locations of the photographs that installed packages ship."""
    locations = []
    for package, (folder, names) in SHIPPED.items():
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise UserError("the demo's photographs come with scikit-image and scikit-learn: pip install '.[demo]'")
        locations += [str(Path(spec.submodule_search_locations[0]) / folder / name) for name in names.split()]
    return locations
