"""What a step of the contrast asks of an accelerator: counted and traced on the CPU, which needs no device."""

import weakref

import pytest
import torch
from contrast_cases import FORMS, random_maps, random_mask, seeded
from operators import Counted
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mpc_model.losses.contrast import multi_view_contrast
from mpc_model.losses.logsumexp import all_images_at_once
from mpc_model.losses.sampling import SAMPLERS
from pipelines.benchmarks import contrast as contrast_bench

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


class HeldBytes(TorchDispatchMode):
    """The most bytes that tensors made inside held at one moment."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and x.untyped_storage()._cdata not in self._known:
                self._hold(x.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size


def test_a_device_holds_at_most_an_eighth_of_what_the_plain_form_holds():
    # A quarter of the sizes of an image of 512 pixels: of its pixels, of what is drawn of a class, and of the channels.
    count, mask = 1250, torch.zeros(1, 64, 64, dtype=torch.uint8)
    mask[:, :, 24:] = 1
    maps = [torch.randn(1, 64, 64 >> k, 64 >> k, generator=seeded(k)) for k in (0, 1, 2, 3, 0)]

    def ours(leaves):
        second = [leaves[4], *leaves[1:4]]
        return multi_view_contrast(leaves[:4], second, mask, anchors_per_class=count, generator=seeded())["total"]

    def plain(leaves):
        return contrast_bench.plain_contrast(leaves[:4], leaves[4], mask, count, seed=0)

    peaks = []
    for loss in (ours, plain):
        with all_images_at_once(), HeldBytes() as bytes_:
            contrast_bench._step(loss, maps)
        peaks.append(bytes_.peak - sum(level.nbytes for level in maps))
    # What a boolean index makes inside, which is not dispatched: the two places, int64, of every chosen number.
    indices = 2 * 8 * count * (count - 1)
    assert peaks[0] <= (peaks[1] + indices) / 8
