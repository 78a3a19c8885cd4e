"""What a step of the contrast asks of an accelerator: counted and traced on the CPU, which needs no device."""

import pytest
from contrast_cases import FORMS, random_maps, random_mask, seeded
from operators import Counted
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from mpc_model.losses.contrast import multi_view_contrast
from mpc_model.losses.logsumexp import all_images_at_once
from mpc_model.losses.sampling import SAMPLERS

ALLOWED = {"uniform": 700, "balanced": 700, "hard_negative": 850, "boundary": 900}
"""A sampler that weighs pixels needs operators for each draw; distances to edges are found in steps of a cell."""
MORE_FOR_SHARED = 240


def counted(batch: int, **options) -> Counted:
    """The operators of a step."""
    maps, mask = [random_maps(batch, 16, 16, seed) for seed in (1, 2)], random_mask(batch, 16, 16)
    with all_images_at_once(), Counted() as operators:
        losses = multi_view_contrast(*maps, mask, anchors_per_class=20, generator=seeded(), **options)
        losses["total"].backward()
    return operators


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("negatives", ["image", "batch"])
def test_a_step_waits_for_nothing_and_its_operators_do_not_grow_with_the_batch(form, sampler, negatives):
    options = {"form": form, "sampler": sampler, "negatives": negatives}
    of_two, of_eight = (counted(batch, **options) for batch in (2, 8))
    assert of_two.names == of_eight.names
    assert not of_two.waits
    assert of_two.kernels <= ALLOWED[sampler] + MORE_FOR_SHARED * (negatives == "batch"), of_two.names.most_common(12)


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
