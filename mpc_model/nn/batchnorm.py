"""BatchNorm whose statistics are those of all ranks together, on any device and backend.

torch.nn.SyncBatchNorm refuses CPU tensors; the one here runs wherever torch.distributed does.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d over the batches of all ranks of the default process group, (B, C, H, W) -> same.

    In train mode every rank must call it equally often; batches may differ in size. Mean and variance are computed in
    float32 (the mean first, then the squares around it: no cancellation), and their gradients reach all ranks. In eval
    mode, or in a world of one, it is nn.BatchNorm2d.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        x = input.float()
        count = all_reduce(x.new_full((1,), x.numel() / x.shape[1]))
        mean = all_reduce(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = all_reduce(centred.square().sum((0, 2, 3))) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1).clamp_min(1))
        scale = torch.rsqrt(variance + self.eps)
        if not self.affine:
            return (centred * scale[:, None, None]).to(input.dtype)
        scale = self.weight * scale
        return torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        """Update the running statistics as nn.BatchNorm2d does."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased_variance, self.momentum)


def synchronise(module: nn.Module, device: torch.device | None = None) -> nn.Module:
    """Make every BatchNorm2d below `module` a synchronised one, in place; parameters and buffers stay the same ones.

    On a GPU that is PyTorch's own, with one exchange a layer and fused kernels, elsewhere the one above.
    """
    for part in module.modules():
        if type(part) is nn.BatchNorm2d:
            if device is not None and device.type == "cuda":
                part.__class__ = nn.SyncBatchNorm  # type: ignore[assignment]
                part.process_group = None  # type: ignore[assignment]  # all ranks
            else:
                part.__class__ = SyncedBatchNorm2d
    return module
