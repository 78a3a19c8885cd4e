"""Rotations and mirror images: what each is called, that they form a group, and that EXIF's orientations are undone."""

import numpy as np
import pytest

from mpc_model.imaging.symmetries import dihedral, element, upright


def test_dihedral_elements_are_what_they_are_called():
    a = np.arange(2 * 3).reshape(2, 3).astype(np.uint8)
    image = np.stack([a, a + 10, a + 20], axis=2)
    expected = {
        0: [[0, 1, 2], [3, 4, 5]],
        1: [[2, 5], [1, 4], [0, 3]],
        2: [[5, 4, 3], [2, 1, 0]],
        3: [[3, 0], [4, 1], [5, 2]],
        4: [[2, 1, 0], [5, 4, 3]],
        5: [[5, 2], [4, 1], [3, 0]],
        6: [[3, 4, 5], [0, 1, 2]],
        7: [[0, 3], [1, 4], [2, 5]],
    }
    for k, rows in expected.items():
        turned, mask = dihedral(image, a, k)
        assert mask.tolist() == rows
        assert np.array_equal(turned, np.stack([mask, mask + 10, mask + 20], axis=2))
        assert turned.flags.c_contiguous
        assert mask.flags.c_contiguous


def test_dihedral_elements_form_a_group():
    a = np.random.default_rng(0).integers(0, 256, (5, 5)).astype(np.uint8)
    image = np.stack([a] * 3, axis=2)
    results = [dihedral(image, a, k)[1].tobytes() for k in range(8)]
    assert len(set(results)) == 8
    for first in range(8):
        row = [results.index(dihedral(*dihedral(image, a, first), second)[1].tobytes()) for second in range(8)]
        assert sorted(row) == list(range(8))  # closed, and one of them undoes `first`


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, [[0, 1, 2], [3, 4, 5]]),
        (2, [[2, 1, 0], [5, 4, 3]]),
        (3, [[5, 4, 3], [2, 1, 0]]),
        (4, [[3, 4, 5], [0, 1, 2]]),
        (5, [[0, 3], [1, 4], [2, 5]]),
        (6, [[3, 0], [4, 1], [5, 2]]),
        (7, [[5, 2], [4, 1], [3, 0]]),
        (8, [[2, 5], [1, 4], [0, 3]]),
    ],
)
def test_each_orientation_of_exif_is_undone(orientation, expected):
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert upright(stored, orientation).tolist() == expected
    assert upright(np.dstack([stored] * 3), orientation)[..., 2].tolist() == expected


def test_an_element_moves_one_array_as_it_moves_two():
    a = np.arange(2 * 3).reshape(2, 3).astype(np.uint8)
    for k in range(8):
        assert np.array_equal(element(a, k), dihedral(a, a, k)[1])
