"""The photographs of installed packages are there, can be decoded, and are all different."""

from pathlib import Path

import pytest

from mpc_model.errors import UserError
from mpc_model.imaging import codecs
from pipelines.ingest import example_photos


def test_every_photograph_is_a_large_enough_image_and_no_two_are_near_duplicates() -> None:
    locations = example_photos.photographs()
    assert len(locations) == len(set(locations)) == example_photos.COUNT
    images = [codecs.decode_image(Path(location).read_bytes(), location) for location in locations]
    assert min(min(image.shape[:2]) for image in images) >= 256
    hashes = [codecs.difference_hash(image) for image in images]
    assert min(codecs.hamming(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > 4


def test_a_package_that_is_not_installed_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(example_photos.SHIPPED, "a_package_that_nobody_has", ("data", "a.png"))
    with pytest.raises(UserError, match=r"pip install '\.\[demo\]'"):
        example_photos.photographs()
