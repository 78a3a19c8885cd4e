"""HRFormer written plainly, as the reference of the benchmark and the tests: maps are (B, C, H, W), tokens are
(B, H W, C), and every step is the torch module or the formula of its name.

Written from the papers' description, offsets from mpc_model.nn.hrformer, whose tensor names and shapes it shares.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpc_model.nn.hrformer import DROP_PATH, HRFormerSpec

SIDE = 7


def load_plain(spec: HRFormerSpec, tensors: dict[str, Tensor]) -> "PlainHRFormer":
    """The plain network with the tensors of an HRFormer of these sizes, in the float type of the tensors."""
    model = PlainHRFormer(spec).to(next(iter(tensors.values())).dtype)
    model.load_state_dict(tensors)
    return model


class DropPath(nn.Module):
    """Drops a residual branch for whole images."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return x
        drawn = torch.empty(x.shape[0], *[1] * (x.ndim - 1), dtype=x.dtype, device=x.device).bernoulli_(1 - self.rate)
        return x * (drawn / (1 - self.rate))


class Attention(nn.Module):
    """Attention of the tokens of each window: (N, 49, C)."""

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.q_proj = nn.Linear(channels, channels)
        self.out_proj = nn.Linear(channels, channels)
        positions = torch.stack(torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")).flatten(1)
        offsets = positions[:, :, None] - positions[:, None, :] + SIDE - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * SIDE - 1) ** 2, heads))
        self.register_buffer("relative_position_index", offsets[0] * (2 * SIDE - 1) + offsets[1])

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        d = c // self.heads
        q = self.q_proj(x).view(n, t, self.heads, d).permute(0, 2, 1, 3)
        k = self.k_proj(x).view(n, t, self.heads, d).permute(0, 2, 1, 3)
        v = self.v_proj(x).view(n, t, self.heads, d).permute(0, 2, 1, 3)
        logits = (q / math.sqrt(d)) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)].view(t, t, self.heads)
        weights = torch.softmax(logits + bias.permute(2, 0, 1).unsqueeze(0), dim=-1)
        return self.out_proj((weights @ v).permute(0, 2, 1, 3).reshape(n, t, c))


class WindowedAttention(nn.Module):
    """Attention in the 7x7 windows of a map: (B, H W, C)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(channels, heads)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        b, _, c = x.shape
        x = x.view(b, height, width, c)
        pad_y, pad_x = -height % SIDE, -width % SIDE
        top, left = pad_y // 2, pad_x // 2
        x = F.pad(x, (0, 0, left, pad_x - left, top, pad_y - top))
        rows, columns = (height + pad_y) // SIDE, (width + pad_x) // SIDE
        x = x.view(b, rows, SIDE, columns, SIDE, c).permute(0, 1, 3, 2, 4, 5).contiguous()
        x = self.attn(x.view(-1, SIDE * SIDE, c))
        x = x.view(b, rows, columns, SIDE, SIDE, c).permute(0, 1, 3, 2, 4, 5).contiguous()
        x = x.view(b, height + pad_y, width + pad_x, c)[:, top : top + height, left : left + width]
        return x.reshape(b, height * width, c)


class MLP(nn.Module):
    """The MLP with a depth-wise convolution, on the map of the tokens: (B, H W, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 4 * channels
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.act1 = nn.GELU()
        self.dw3x3 = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.norm2 = nn.BatchNorm2d(hidden)
        self.act2 = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.norm3 = nn.BatchNorm2d(channels)
        self.act3 = nn.GELU()

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        b, n, c = x.shape
        x = x.permute(0, 2, 1).reshape(b, c, height, width)
        x = self.act1(self.norm1(self.fc1(x)))
        x = self.act2(self.norm2(self.dw3x3(x)))
        x = self.act3(self.norm3(self.fc2(x)))
        return x.reshape(b, c, n).permute(0, 2, 1).contiguous()


class TransformerBlock(nn.Module):
    def __init__(self, channels: int, heads: int, rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = WindowedAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = MLP(channels)
        self.drop_path = DropPath(rate)

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        x = x.view(b, c, -1).permute(0, 2, 1).contiguous()
        x = x + self.drop_path(self.attn(self.norm1(x), height, width))
        x = x + self.drop_path(self.mlp(self.norm2(x), height, width))
        return x.permute(0, 2, 1).reshape(b, c, height, width)


def conv(inputs: int, outputs: int, side: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, groups=groups, bias=False)


class Residual(nn.Module):
    """The bottleneck of a ResNet."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample: nn.Module | None = None
        if inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class FusedBranches(nn.Module):
    """Blocks on each branch, then each branch sums the resampled maps of all branches."""

    def __init__(self, channels: Sequence[int], heads: Sequence[int], rates: Sequence[float]) -> None:
        super().__init__()
        count = len(channels)
        self.branches = nn.ModuleList(
            nn.Sequential(*(TransformerBlock(channels[i], heads[i], rate) for rate in rates)) for i in range(count)
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._path(channels, j, i) for j in range(count)) for i in range(count)
        )
        self.relu = nn.ReLU()

    @staticmethod
    def _path(channels: Sequence[int], j: int, i: int) -> nn.Module:
        if i == j:
            return nn.Identity()
        if j > i:
            up = nn.Upsample(scale_factor=2 ** (j - i), mode="nearest")
            return nn.Sequential(conv(channels[j], channels[i], 1), nn.BatchNorm2d(channels[i]), up)
        steps = []
        for k in range(i - j):
            last = k == i - j - 1
            outputs = channels[i] if last else channels[j]
            step = [
                conv(channels[j], channels[j], 3, 2, channels[j]),
                nn.BatchNorm2d(channels[j]),
                conv(channels[j], outputs, 1),
                nn.BatchNorm2d(outputs),
            ]
            steps.append(nn.Sequential(*step) if last else nn.Sequential(*step, nn.ReLU()))
        return nn.Sequential(*steps)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        fused = []
        for i, target in enumerate(maps):
            total = torch.zeros_like(target)
            for j, x in enumerate(maps):
                term = self.fuse_layers[i][j](x)  # type: ignore[index]
                if term.shape[2:] != target.shape[2:]:
                    term = F.interpolate(term, target.shape[2:], mode="bilinear", align_corners=True)
                total = total + term
            fused.append(self.relu(total))
        return fused


class Embedding(nn.Module):
    """One of the four projections that MPC adds."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = conv(inputs, outputs, 1)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


class PlainHRFormer(nn.Module):
    """Images (B, 3, H, W) -> four maps; see mpc_model.nn.hrformer.HRFormer."""

    def __init__(self, spec: HRFormerSpec) -> None:
        super().__init__()
        channels, wide = spec.channels, spec.layer1 * spec.expansion
        self.conv1, self.bn1 = conv(3, spec.stem, 3, 2), nn.BatchNorm2d(spec.stem)
        self.conv2, self.bn2 = conv(spec.stem, spec.stem, 3, 2), nn.BatchNorm2d(spec.stem)
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(Residual(spec.stem, spec.layer1, wide), Residual(wide, spec.layer1, wide))

        def entry(inputs: int, outputs: int, stride: int) -> nn.Sequential:
            return nn.Sequential(conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs), nn.ReLU())

        last = spec.blocks * sum(spec.modules) - 1
        done = 0

        def stage(branches: int, modules: int) -> nn.Sequential:
            nonlocal done
            made = []
            for _ in range(modules):
                rates = [DROP_PATH * (done + block) / last for block in range(spec.blocks)]
                done += spec.blocks
                made.append(FusedBranches(channels[:branches], spec.heads[:branches], rates))
            return nn.Sequential(*made)

        self.transition1 = nn.ModuleList(
            [entry(wide, channels[0], 1), nn.Sequential(entry(wide, channels[1], 2))],
        )
        self.stage2 = stage(2, spec.modules[0])
        new = nn.Sequential(entry(channels[1], channels[2], 2))
        self.transition2 = nn.ModuleList([nn.Identity(), nn.Identity(), new])
        self.stage3 = stage(3, spec.modules[1])
        new = nn.Sequential(entry(channels[2], channels[3], 2))
        self.transition3 = nn.ModuleList([nn.Identity(), nn.Identity(), nn.Identity(), new])
        self.stage4 = stage(4, spec.modules[2])
        self.convs = nn.ModuleList(Embedding(c, spec.projection) for c in channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.layer1(x)
        maps = self.stage2([entry(x) for entry in self.transition1])
        maps = self.stage3([*maps, self.transition2[-1](maps[-1])])
        maps = self.stage4([*maps, self.transition3[-1](maps[-1])])
        return [embed(x) for embed, x in zip(self.convs, maps, strict=True)]
