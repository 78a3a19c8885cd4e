"""HRFormer, the backbone: four resolutions in parallel, windowed attention within each, fused again and again.

Source: Yuan et al., "HRFormer: High-Resolution Vision Transformer for Dense Prediction", NeurIPS 2021, with the four
1x1 projections that MPC (Lou et al., IEEE TIFS 2025) puts on its outputs. Tensor names and shapes are those of the
published MPC checkpoints. Shape letters: B images, C channels, H x W pixels, N windows, T = 49 tokens in a window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpc_model.nn.backbone import BACKBONES, STRIDE
from mpc_model.nn.tile_frame import Frame, resized
from mpc_model.nn.window_attention import WindowAttention

MLP_RATIO = 4  # hidden width of a block's MLP over its channels
DROP_PATH = 0.2  # stochastic-depth rate of the last block depth; the first has 0


@dataclass(frozen=True)
class HRFormerSpec:
    """The sizes of one variant. `modules` and `blocks` are per stage (2, 3, 4) and per branch of a module."""

    channels: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    modules: tuple[int, int, int] = (1, 4, 2)
    blocks: int = 2
    stem: int = 64
    layer1: int = 64
    expansion: int = 4
    projection: int = 256


class StochasticDepth(nn.Module):
    """In train mode, zero a residual branch for whole images with probability `rate` and scale the rest by 1/(1-rate).

    Draws from torch's global generator of the tensor's device: whoever trains seeds it (`torch.manual_seed`).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def drawn(self, x: Tensor) -> Tensor | None:
        """What the branch of each image of x (B, ...) is multiplied by, (B, 1, ...); None where all stay as they are.

        It is drawn outside the block that uses it: compiled, blocks of other rates then share their code, and draw what
        they would have drawn anyway.
        """
        if not self.training or self.rate == 0:
            return None
        keep = 1 - self.rate
        return x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(keep) / keep

    def forward(self, x: Tensor) -> Tensor:
        return _scaled(x, self.drawn(x))


def _scaled(branch: Tensor, factors: Tensor | None) -> Tensor:
    return branch if factors is None else branch * factors


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm that gives the type that it is given, also under autocast: statistics and sums are float32 inside.

    Autocast would convert bf16 to float32 before the norm, and its result back again before the next product.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.dtype == self.weight.dtype:
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
            return F.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


class LocalAttention(nn.Module):
    """The level that the published names have between a block and its attention."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attn = WindowAttention(channels, heads)

    def forward(self, tokens: Tensor, frame: Frame | None = None) -> Tensor:
        return self.attn(tokens, frame)


class ConvMLP(nn.Module):
    """The block's MLP with a depth-wise 3x3 convolution inside, so that windows exchange information: (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = MLP_RATIO * channels
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.dw3x3 = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.norm2 = nn.BatchNorm2d(hidden)
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.norm3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(self.fc1(x)))
        x = F.gelu(self.norm2(self.dw3x3(x)))
        return F.gelu(self.norm3(self.fc2(x)))


class Block(nn.Module):
    """A transformer block on a branch: x + drop(attention(LN(x))), then x + drop(mlp(LN(x))). (B, C, H, W) -> same.

    `attention_factors` and `mlp_factors` are what stochastic depth has drawn for the two residual branches (`drawn`).
    """

    alike = True

    def __init__(self, channels: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(channels, eps=1e-6)
        self.attn = LocalAttention(channels, heads)
        self.norm2 = LayerNorm(channels, eps=1e-6)
        self.mlp = ConvMLP(channels)
        self.drop_path = StochasticDepth(drop_path)

    def drawn(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """What stochastic depth draws for one pass: the factors of attention and of the MLP."""
        return self.drop_path.drawn(x), self.drop_path.drawn(x)

    def forward(
        self,
        x: Tensor,
        attention_factors: Tensor | None = None,
        mlp_factors: Tensor | None = None,
        frame: Frame | None = None,
    ) -> Tensor:
        tokens = x.permute(0, 2, 3, 1)
        tokens = tokens + _scaled(self.attn(self.norm1(tokens), frame), attention_factors)
        x = tokens.permute(0, 3, 1, 2)
        return x + _scaled(self.mlp(self.norm2(tokens).permute(0, 3, 1, 2)), mlp_factors)


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias, padded to keep the size (ceil of size / stride), and its BatchNorm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class Bottleneck(nn.Module):
    """ResNet bottleneck 1x1, 3x3, 1x1; the shortcut is projected where the channel count changes."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(inputs, width, 1)
        self.conv2, self.bn2 = conv_bn(width, width, 3)
        self.conv3, self.bn3 = conv_bn(width, outputs, 1)
        self.downsample = nn.Identity() if inputs == outputs else nn.Sequential(*conv_bn(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def fuse_layer(channels: Sequence[int], source: int, target: int) -> nn.Module:
    """What brings branch `source` to the channels and (up to rounding) the stride of branch `target`."""
    if source == target:
        return nn.Identity()
    c, out = channels[source], channels[target]
    if source > target:
        return nn.Sequential(*conv_bn(c, out, 1), nn.Upsample(scale_factor=2 ** (source - target), mode="nearest"))
    steps = [
        nn.Sequential(*conv_bn(c, c, 3, stride=2, groups=c), *conv_bn(c, c, 1), nn.ReLU(inplace=True))
        for _ in range(target - source - 1)
    ]
    return nn.Sequential(*steps, nn.Sequential(*conv_bn(c, c, 3, stride=2, groups=c), *conv_bn(c, out, 1)))


def _fitted(x: Tensor, finer: Tensor, source: Frame | None, target: Frame | None, steps: int) -> Tensor:
    """A map doubled `steps` times, at the size of a finer one. Where that is odd, doubling overshoots it by pixels."""
    size = (finer.shape[2], finer.shape[3])
    if source is not None and target is not None:
        return resized(x, source.raised(1 << steps, target), target, size)
    return x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=True)


class MultiScaleModule(nn.Module):
    """Blocks on every branch, then every branch becomes ReLU of the sum of all branches: list of maps -> same shapes.

    `drop_path` holds the stochastic-depth rates, one a block, the same on all branches. A tile comes with its frame.
    """

    def __init__(self, channels: Sequence[int], heads: Sequence[int], drop_path: Sequence[float]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(Block(c, h, rate) for rate in drop_path)) for c, h in zip(channels, heads, strict=True)
        )
        indices = range(len(channels))
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(fuse_layer(channels, source, target) for source in indices) for target in indices
        )

    def forward(self, maps: list[Tensor], frame: Frame | None = None) -> list[Tensor]:
        frames = [frame and frame.at(STRIDE << index) for index in range(len(maps))]
        maps = list(maps)
        for branch, blocks in enumerate(self.branches):
            for block in blocks:  # type: ignore[attr-defined]
                maps[branch] = block(maps[branch], *block.drawn(maps[branch]), frame=frames[branch])
        fused = []
        for target, layers in enumerate(self.fuse_layers):
            terms = [layer(x) for layer, x in zip(layers, maps, strict=True)]  # type: ignore[call-overload]
            for source in range(target + 1, len(terms)):
                terms[source] = _fitted(terms[source], maps[target], frames[source], frames[target], source - target)
            fused.append(F.relu(sum(terms[1:], start=terms[0])))
        return fused


class Projection(nn.Module):
    """1x1 convolution, BatchNorm (eps 1e-3, momentum 0.03), ReLU: the embedding that the contrast and the head see."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class HRFormer(nn.Module):
    """Images (B, 3, H, W), float in [0, 1] -> four maps (B, projection_width, ceil(H/s), ceil(W/s)), s = 4, 8, 16, 32.

    The maps are non-negative and not L2-normalised. Any size from 32 pixels a side is accepted.
    In train mode stochastic depth (0 at the first block depth, linearly up to 0.2 at the last) draws from torch's
    global generator, which the training loop seeds; two passes over one image then differ. In eval mode nothing is
    random. Initialisation draws from the same generator: truncated normal (std 0.02) and zero biases for the linear
    layers, convolutions and position biases of the blocks, He normal (fan out) for the ReLU convolutions outside them,
    1 and 0 for every norm.
    A tile of a larger image comes with its frame there, its origin a multiple of 32 pixels, and gives its part of the
    image's maps, as far as it sees what they depend on.
    """

    def __init__(self, spec: HRFormerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.projection_width = spec.projection
        channels, outputs = spec.channels, spec.layer1 * spec.expansion

        self.conv1, self.bn1 = conv_bn(3, spec.stem, 3, stride=2)
        self.conv2, self.bn2 = conv_bn(spec.stem, spec.stem, 3, stride=2)
        self.layer1 = nn.Sequential(
            Bottleneck(spec.stem, spec.layer1, outputs), Bottleneck(outputs, spec.layer1, outputs)
        )

        depth = spec.blocks * sum(spec.modules)
        rates = iter([DROP_PATH * index / (depth - 1) for index in range(depth)])  # the stages take theirs in order

        def stage(number: int) -> nn.Sequential:
            return nn.Sequential(
                *(
                    MultiScaleModule(channels[:number], spec.heads[:number], list(islice(rates, spec.blocks)))
                    for _ in range(spec.modules[number - 2])
                )
            )

        def conv3x3(c_in: int, c_out: int, stride: int) -> nn.Sequential:
            return nn.Sequential(*conv_bn(c_in, c_out, 3, stride), nn.ReLU(inplace=True))

        def new_branch(number: int) -> nn.ModuleList:
            existing = [nn.Identity() for _ in range(number)]
            return nn.ModuleList([*existing, nn.Sequential(conv3x3(channels[number - 1], channels[number], 2))])

        # The extra nesting of a new branch is that of the published names (transition1.1.0.0, not transition1.1.0).
        self.transition1 = nn.ModuleList(
            [conv3x3(outputs, channels[0], 1), nn.Sequential(conv3x3(outputs, channels[1], 2))]
        )
        self.stage2 = stage(2)
        self.transition2 = new_branch(2)
        self.stage3 = stage(3)
        self.transition3 = new_branch(3)
        self.stage4 = stage(4)
        self.convs = nn.ModuleList(Projection(c, spec.projection) for c in channels)

        self.apply(_initialise)

    def forward(self, images: Tensor, frame: Frame | None = None) -> list[Tensor]:
        # Attention and LayerNorm want channels last; convolutions that already are spare a copy at every block.
        images = images.contiguous(memory_format=torch.channels_last)
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.layer1(x)
        maps = [transition(x) for transition in self.transition1]
        for module in self.stage2:
            maps = module(maps, frame)
        for transitions, stage in ((self.transition2, self.stage3), (self.transition3, self.stage4)):
            maps = [t(m) for t, m in zip(transitions, [*maps, maps[-1]], strict=True)]
            for module in stage:
                maps = module(maps, frame)
        return [project(m) for project, m in zip(self.convs, maps, strict=True)]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        if module.bias is None:  # a convolution outside the blocks
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        else:
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    elif isinstance(module, WindowAttention):
        nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)


@BACKBONES.add("hrformer_small")
def hrformer_small() -> HRFormer:
    """8.0M parameters."""
    return HRFormer(HRFormerSpec(channels=(32, 64, 128, 256), heads=(1, 2, 4, 8)))


@BACKBONES.add("hrformer_base")
def hrformer_base() -> HRFormer:
    """44.3M parameters: the backbone of the published localizers."""
    return HRFormer(HRFormerSpec(channels=(78, 156, 312, 624), heads=(2, 4, 8, 16)))


@BACKBONES.add("hrformer_tiny")
def hrformer_tiny() -> HRFormer:
    """0.6M parameters. Our own, not of the paper: small enough to train on two CPU cores."""
    sizes = HRFormerSpec(
        (16, 32, 64, 128), (1, 2, 4, 8), modules=(1, 1, 1), blocks=1, stem=32, layer1=32, expansion=2, projection=64
    )
    return HRFormer(sizes)
