"""What a step of the contrast asks of an accelerator: counted and traced on the CPU, which needs no device."""

from collections import Counter

import pytest
import torch
from contrast_cases import FORMS, random_maps, random_mask, seeded
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mpc_model.losses.contrast import multi_view_contrast
from mpc_model.losses.logsumexp import all_images_at_once
from mpc_model.losses.sampling import SAMPLERS

WAITING = ("nonzero", "masked_select", "_local_scalar_dense", "unique", "bincount")
"""Operators whose result's shape, or whose value, the host has to read before it can go on."""
ALLOWED = {"uniform": 700, "balanced": 700, "hard_negative": 850, "boundary": 900}
"""A sampler that weighs pixels needs operators for each draw; distances to edges are found in steps of a cell."""
MORE_FOR_SHARED = 240
VIEWS = ("view", "expand", "transpose", "t.", "unsqueeze", "squeeze", "select", "slice", "split", "alias", "detach")
"""Operators that launch nothing on a device."""


class Counted(TorchDispatchMode):
    """Counts the operators that are dispatched, forward and backward, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::")
        if name.startswith("index.") and any(x is not None and x.dtype == torch.bool for x in args[1]):
            name = "boolean " + name
        self.names[name] += 1
        return func(*args, **(kwargs or {}))


def counted(batch: int, **options) -> Counter[str]:
    """The operators of a step."""
    maps, mask = [random_maps(batch, 16, 16, seed) for seed in (1, 2)], random_mask(batch, 16, 16)
    with all_images_at_once(), Counted() as operators:
        losses = multi_view_contrast(*maps, mask, anchors_per_class=20, generator=seeded(), **options)
        losses["total"].backward()
    return operators.names


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("negatives", ["image", "batch"])
def test_a_step_waits_for_nothing_and_its_operators_do_not_grow_with_the_batch(form, sampler, negatives):
    options = {"form": form, "sampler": sampler, "negatives": negatives}
    of_two, of_eight = (counted(batch, **options) for batch in (2, 8))
    assert of_two == of_eight
    assert not [name for name in of_two if name.startswith(WAITING) or "boolean" in name]
    kernels = sum(number for name, number in of_two.items() if not name.startswith(VIEWS))
    assert kernels <= ALLOWED[sampler] + MORE_FOR_SHARED * (negatives == "batch"), of_two.most_common(12)


@pytest.mark.parametrize("form", FORMS)
def test_a_step_traces_without_values(form):
    # With fake tensors, a shape that depends on values, or a value that is read, raises.
    with FakeTensorMode() as mode, all_images_at_once():
        maps = [
            [mode.from_tensor(x.detach()).requires_grad_() for x in random_maps(2, 16, 16, seed)] for seed in (1, 2)
        ]
        mask: Tensor = mode.from_tensor(random_mask(2, 16, 16))
        losses = multi_view_contrast(*maps, mask, generator=seeded(), form=form, sampler="hard_negative")
        losses["total"].backward()
    assert maps[0][0].grad.shape == maps[0][0].shape
