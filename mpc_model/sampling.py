"""Which pixels a contrastive loss looks at: named rules that draw a bounded number of pixels of one class."""

from collections.abc import Callable

import torch
from torch import Tensor

from mpc_model.registry import Registry

Sampler = Callable[[Tensor, int, int, torch.Generator], Tensor]
SAMPLERS: Registry[Sampler] = Registry("sampler")


@SAMPLERS.add("uniform")
def uniform(labels: Tensor, label: int, count: int, generator: torch.Generator) -> Tensor:
    """At most `count` of the pixels whose label is `label`, each equally likely, none twice.

    `labels` is integer (N,). Returns int64 indices into it, on its device: all that carry the label, in order, if
    they are at most `count` (then `generator` is not advanced), else a random `count` of them. `generator` may live
    on another device than `labels`: a CPU generator draws the same pixels whatever accelerator holds them.
    """
    candidates = (labels == label).nonzero().squeeze(1)
    if len(candidates) <= count:
        return candidates
    order = torch.randperm(len(candidates), generator=generator, device=generator.device)
    return candidates[order[:count].to(candidates.device)]
