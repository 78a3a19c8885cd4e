"""What both kinds of scores have in common."""

import torch
from support import tiny

from pipelines.inference.split_scorer import untrained_network


def test_the_untrained_network_follows_from_the_seed_and_has_the_classes_of_the_model() -> None:
    spec = tiny(names=("background", "left", "right")).spec
    first, again, other = (untrained_network(spec, seed).state_dict() for seed in (3, 3, 4))
    name = "decoder.classifier.11.weight"
    assert first[name].shape[0] == 3
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
