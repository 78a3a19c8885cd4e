"""Mixed images: image, labels and weights agree pixel by pixel, and no rule for forgeries calls a splice authentic."""

import pytest
import torch
from torch import Tensor

from mpc_model.classes import IGNORED
from mpc_model.imaging.class_mix import AUTHENTIC, FORGED, MIXES, RIM, Labelled, Mixed, drawn_pixels


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def forgeries(seed: int, share: float = 0.25) -> Labelled:
    """Images whose pixels say in which image they are, with a forged rectangle, and some pixels without a label."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(4, 32, 32, dtype=torch.uint8)
    for one in labels:
        top, left = torch.randint(0, 8, (2,), generator=generator).tolist()
        one[top : top + int(32 * share * 2), left : left + 16] = FORGED
        one[30:, 20:] = IGNORED
    return Labelled(torch.rand(4, 3, 32, 32, generator=generator), labels)


@pytest.fixture(scope="module", params=sorted(MIXES))
def mixed(request: pytest.FixtureRequest) -> tuple[str, Labelled, Labelled, Mixed]:
    source, target = forgeries(1), forgeries(2)
    return request.param, source, target, MIXES[request.param](source, target, uniform(4, 3))


def test_image_labels_and_weights_agree_pixel_by_pixel(mixed: tuple[str, Labelled, Labelled, Mixed]) -> None:
    name, source, target, found = mixed
    pasted = found.pasted
    assert pasted.any()
    assert not pasted.all()
    for image, labels, origin in ((pasted, pasted, source), (~pasted, ~pasted, target)):
        assert torch.equal(found.images.movedim(1, -1)[image], origin.images.movedim(1, -1)[image])
        agrees = found.labels[labels] == origin.labels[labels]
        assert (agrees | (found.labels[labels] == IGNORED)).all() if name == "ignored" else agrees.all()
    weights = found.weights(torch.tensor(0.25))
    assert torch.equal(weights, torch.where(pasted, 1.0, 0.25))


@pytest.mark.parametrize("name", ["forged", "ignored"])
def test_no_pasted_pixel_is_labelled_authentic(name: str) -> None:
    for seed in range(20):
        source, target = forgeries(seed, (0.25, 0.5)[seed % 2]), forgeries(100 + seed)
        found = MIXES[name](source, target, uniform(4, 3, seed=seed))
        assert not (found.labels[found.pasted] == AUTHENTIC).any()
        if name == "ignored":
            foreign = found.pasted.flatten(1).float().mean(1) >= 0.5
            assert not (found.labels[foreign] == AUTHENTIC).any()


def test_forged_regions_alone_are_pasted() -> None:
    source, target = forgeries(1), forgeries(2)
    found = MIXES["forged"](source, target, uniform(4, 3))
    assert torch.equal(found.pasted, source.labels == FORGED)
    assert (found.labels[found.pasted] == FORGED).all()


def test_the_rim_of_what_was_pasted_has_no_label() -> None:
    source = Labelled(torch.ones(1, 3, 24, 24), torch.zeros(1, 24, 24, dtype=torch.uint8))
    source.labels[:, 8:16, 8:16] = FORGED
    target = Labelled(torch.zeros(1, 3, 24, 24), torch.zeros(1, 24, 24, dtype=torch.uint8))
    found = MIXES["ignored"](source, target, torch.tensor([[0.9, 0.1, 0.5]]))  # the forged class is drawn
    row = found.labels[0, 12].tolist()
    inside, outside = [FORGED] * (8 - 2 * RIM), [AUTHENTIC] * (8 - RIM)
    assert row == [*outside, *[IGNORED] * 2 * RIM, *inside, *[IGNORED] * 2 * RIM, *outside]


@pytest.mark.parametrize(("present", "expected"), [(2, 1), (3, 2), (4, 2), (5, 3), (6, 3)])
def test_half_of_the_classes_of_the_batch_are_drawn_rounded_up(present: int, expected: int) -> None:
    """255 counts as one; classes that only another image of the batch has count, too."""
    labels = torch.tensor([*range(present - 1), IGNORED], dtype=torch.uint8).repeat(2, 3, 1)
    for seed in range(10):
        drawn = drawn_pixels(labels, uniform(2, 9, seed=seed))
        assert [len(of_image[mask].unique()) for of_image, mask in zip(labels, drawn, strict=True)] == [expected] * 2
    only_first = labels.clone()
    only_first[1] = 0
    drawn = drawn_pixels(only_first, uniform(2, 9))
    assert len(only_first[0][drawn[0]].unique()) == expected


def test_every_class_is_drawn_now_and_then() -> None:
    labels = torch.tensor([0, 1, 2, IGNORED], dtype=torch.uint8).repeat(1, 3, 1)
    drawn = {tuple(drawn_pixels(labels, uniform(1, 4, seed=seed))[0, 0].tolist()) for seed in range(60)}
    assert len(drawn) == 6
