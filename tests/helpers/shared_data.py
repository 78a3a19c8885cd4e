"""Research data that is not part of the project: in a folder `shared/data` above the checkout, on some machines."""

from pathlib import Path

import pytest


def folder(name: str) -> Path:
    """The data set of this name; the test is skipped, saying so, where it is absent."""
    for above in Path(__file__).parents:
        if (found := above / "shared" / "data" / name).is_dir():
            return found
    pytest.skip(f"needs shared/data/{name}, which is not on this machine")
