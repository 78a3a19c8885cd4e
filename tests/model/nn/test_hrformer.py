"""HRFormer against a plain reference written from its description: names, shapes, arithmetic, randomness."""

import hashlib
import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mpc_model.nn.heads import HEADS
from mpc_model.nn.hrformer import BACKBONES, HRFormer, HRFormerSpec, MultiScaleModule, StochasticDepth
from mpc_model.nn.window_attention import WindowAttention

LAYOUT_COUNT = 2264
LAYOUT_SHA256 = "18fcc147a121eec41410a98f7891fdf680705da68a65c33fb23ea8202bfb28be"  # of its sorted "name [shape]" lines


# ---- the published layout of base, stated without the model ----


def norm(name: str, width: int) -> Iterator[tuple[str, list[int]]]:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", [width]
    yield f"{name}.num_batches_tracked", []


def conv(name: str, norm_name: str, shape: list[int]) -> Iterator[tuple[str, list[int]]]:
    yield f"{name}.weight", shape
    yield from norm(norm_name, shape[0])


def block(name: str, c: int, heads: int) -> Iterator[tuple[str, list[int]]]:
    yield f"{name}.attn.attn.relative_position_bias_table", [13 * 13, heads]
    yield f"{name}.attn.attn.relative_position_index", [49, 49]
    for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
        yield f"{name}.attn.attn.{projection}.weight", [c, c]
        yield f"{name}.attn.attn.{projection}.bias", [c]
    for layer_norm in ("norm1", "norm2"):
        yield f"{name}.{layer_norm}.weight", [c]
        yield f"{name}.{layer_norm}.bias", [c]
    for k, (layer, shape) in enumerate(
        (("fc1", [4 * c, c, 1, 1]), ("dw3x3", [4 * c, 1, 3, 3]), ("fc2", [c, 4 * c, 1, 1])), start=1
    ):
        yield from conv(f"{name}.mlp.{layer}", f"{name}.mlp.norm{k}", shape)
        yield f"{name}.mlp.{layer}.bias", [shape[0]]


def base_layout() -> Iterator[tuple[str, list[int]]]:
    c, heads = (78, 156, 312, 624), (2, 4, 8, 16)
    yield from conv("conv1", "bn1", [64, 3, 3, 3])
    yield from conv("conv2", "bn2", [64, 64, 3, 3])
    for k, inputs in enumerate((64, 256)):
        yield from conv(f"layer1.{k}.conv1", f"layer1.{k}.bn1", [64, inputs, 1, 1])
        yield from conv(f"layer1.{k}.conv2", f"layer1.{k}.bn2", [64, 64, 3, 3])
        yield from conv(f"layer1.{k}.conv3", f"layer1.{k}.bn3", [256, 64, 1, 1])
    yield from conv("layer1.0.downsample.0", "layer1.0.downsample.1", [256, 64, 1, 1])
    yield from conv("transition1.0.0", "transition1.0.1", [78, 256, 3, 3])
    yield from conv("transition1.1.0.0", "transition1.1.0.1", [156, 256, 3, 3])
    yield from conv("transition2.2.0.0", "transition2.2.0.1", [312, 156, 3, 3])
    yield from conv("transition3.3.0.0", "transition3.3.0.1", [624, 312, 3, 3])
    for stage, modules in ((2, 1), (3, 4), (4, 2)):
        for m in range(modules):
            here = f"stage{stage}.{m}"
            for i in range(stage):
                for b in range(2):
                    yield from block(f"{here}.branches.{i}.{b}", c[i], heads[i])
                for j in range(stage):
                    fuse = f"{here}.fuse_layers.{i}.{j}"
                    if j > i:
                        yield from conv(f"{fuse}.0", f"{fuse}.1", [c[i], c[j], 1, 1])
                    for step in range(i - j):
                        out = c[i] if step == i - j - 1 else c[j]
                        yield from conv(f"{fuse}.{step}.0", f"{fuse}.{step}.1", [c[j], 1, 3, 3])
                        yield from conv(f"{fuse}.{step}.2", f"{fuse}.{step}.3", [out, c[j], 1, 1])
    for k in range(4):
        yield from conv(f"convs.{k}.conv", f"convs.{k}.bn", [256, c[k], 1, 1])


def head_layout() -> Iterator[tuple[str, list[int]]]:
    widths = [1024, 512, 256, 128, 1]
    for k in range(4):
        yield from norm(f"classifier.{3 * k}", widths[k])
        yield f"classifier.{3 * k + 2}.weight", [widths[k + 1], widths[k], 1, 1]
        yield f"classifier.{3 * k + 2}.bias", [widths[k + 1]]


def shapes(module: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def test_base_and_mlp4_have_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        encoder, decoder = BACKBONES["hrformer_base"](), HEADS["mlp4"](256, 1)
    assert shapes(encoder) == dict(base_layout())
    assert shapes(decoder) == dict(head_layout())


def test_the_stated_layout_is_the_published_one() -> None:
    stated = {f"encoder.{name}": shape for name, shape in base_layout()}
    stated |= {f"decoder.{name}": shape for name, shape in head_layout()}
    lines = sorted(f"{name} {shape}" for name, shape in stated.items())
    assert len(lines) == LAYOUT_COUNT
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == LAYOUT_SHA256


@pytest.mark.parametrize(("name", "millions"), [("hrformer_small", 8.0), ("hrformer_base", 44.3)])
def test_parameter_counts_are_the_published_ones(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = BACKBONES[name]()
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


def test_tiny_stays_under_a_million_parameters() -> None:
    with torch.device("meta"):
        model = BACKBONES["hrformer_tiny"]()
    assert sum(p.numel() for p in model.parameters()) < 1e6
    assert model.projection_width == 64


# ---- a plain reference, from the tensors alone ----


def slow_attention(t: dict[str, Tensor], at: str, x: Tensor, heads: int) -> Tensor:
    """(H, W, C), window by window and head by head, with the bias looked up pair by pair."""
    height, width, c = x.shape
    padded_height, padded_width = 7 * math.ceil(height / 7), 7 * math.ceil(width / 7)
    top, left = (padded_height - height) // 2, (padded_width - width) // 2
    padded = x.new_zeros(padded_height, padded_width, c)
    padded[top : top + height, left : left + width] = x
    linear = {
        p: (t[f"{at}.attn.attn.{p}.weight"], t[f"{at}.attn.attn.{p}.bias"]) for p in ("q_proj", "k_proj", "v_proj")
    }
    table = t[f"{at}.attn.attn.relative_position_bias_table"]
    places = [(y, x) for y in range(7) for x in range(7)]
    rows = torch.tensor([[(yq - yk + 6) * 13 + (xq - xk + 6) for yk, xk in places] for yq, xq in places])
    d = c // heads
    out = torch.empty_like(padded)
    for y0 in range(0, padded_height, 7):
        for x0 in range(0, padded_width, 7):
            window = torch.stack([padded[y0 + y, x0 + x] for y, x in places])
            per_head = []
            for h in range(heads):
                q, k, v = ((window @ w.T + b)[:, h * d : (h + 1) * d] for w, b in linear.values())
                logits = (q @ k.T) / math.sqrt(d) + table[:, h][rows]
                weights = logits.exp() / logits.exp().sum(1, keepdim=True)
                per_head.append(weights @ v)
            mixed = torch.cat(per_head, 1) @ t[f"{at}.attn.attn.out_proj.weight"].T
            mixed = mixed + t[f"{at}.attn.attn.out_proj.bias"]
            for (y, x_), token in zip(places, mixed, strict=True):
                out[y0 + y, x0 + x_] = token
    return out[top : top + height, left : left + width]


def batch_norm(t: dict[str, Tensor], at: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    mean, var, weight, bias = (
        t[f"{at}.{p}"].view(1, -1, 1, 1) for p in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + eps).sqrt() * weight + bias


def layer_norm(t: dict[str, Tensor], at: str, x: Tensor) -> Tensor:
    """Over the channels of (C, H, W), to (H, W, C)."""
    x = x.permute(1, 2, 0)
    centred = x - x.mean(-1, keepdim=True)
    return centred / ((centred**2).mean(-1, keepdim=True) + 1e-6).sqrt() * t[f"{at}.weight"] + t[f"{at}.bias"]


def plain_conv(t: dict[str, Tensor], at: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = t[f"{at}.weight"]
    groups = x.shape[1] // weight.shape[1]
    return F.conv2d(x, weight, t.get(f"{at}.bias"), stride, weight.shape[-1] // 2, groups=groups)


def slow_block(t: dict[str, Tensor], at: str, x: Tensor, heads: int) -> Tensor:
    """(1, C, H, W)."""
    attended = slow_attention(t, at, layer_norm(t, f"{at}.norm1", x[0]), heads)
    x = x + attended.permute(2, 0, 1)[None]
    y = layer_norm(t, f"{at}.norm2", x[0]).permute(2, 0, 1)[None]
    for k, layer in enumerate(("fc1", "dw3x3", "fc2"), start=1):
        y = batch_norm(t, f"{at}.mlp.norm{k}", plain_conv(t, f"{at}.mlp.{layer}", y))
        y = y * 0.5 * (1 + torch.erf(y / math.sqrt(2)))
    return x + y


def slow_bilinear(x: Tensor, height: int, width: int) -> Tensor:
    """(1, C, h, w) with aligned corners: output pixel k of n lies at k (m - 1) / (n - 1) of the m input pixels."""
    out = x.new_empty(1, x.shape[1], height, width)
    for row in range(height):
        y = row * (x.shape[2] - 1) / (height - 1) if height > 1 else 0.0
        for column in range(width):
            z = column * (x.shape[3] - 1) / (width - 1) if width > 1 else 0.0
            total = x.new_zeros(x.shape[1])
            for yy in {math.floor(y), math.ceil(y)}:
                for zz in {math.floor(z), math.ceil(z)}:
                    total += (1 - abs(y - yy)) * (1 - abs(z - zz)) * x[0, :, yy, zz]
            out[0, :, row, column] = total
    return out


def slow_fusion(t: dict[str, Tensor], at: str, maps: list[Tensor]) -> list[Tensor]:
    fused = []
    for i, target in enumerate(maps):
        total = torch.zeros_like(target)
        for j, y in enumerate(maps):
            name = f"{at}fuse_layers.{i}.{j}"
            if j > i:
                y = batch_norm(t, f"{name}.1", plain_conv(t, f"{name}.0", y))
                y = y.repeat_interleave(2 ** (j - i), 2).repeat_interleave(2 ** (j - i), 3)
                if y.shape != target.shape:
                    y = slow_bilinear(y, target.shape[2], target.shape[3])
            for step in range(i - j):
                y = batch_norm(t, f"{name}.{step}.1", plain_conv(t, f"{name}.{step}.0", y, stride=2))
                y = batch_norm(t, f"{name}.{step}.3", plain_conv(t, f"{name}.{step}.2", y))
                if step < i - j - 1:
                    y = y.clamp(min=0)
            total = total + y
        fused.append(total.clamp(min=0))
    return fused


def slow_hrformer(t: dict[str, Tensor], spec: HRFormerSpec, image: Tensor) -> list[Tensor]:
    def step(conv_name: str, norm_name: str, x: Tensor, stride: int = 1) -> Tensor:
        return batch_norm(t, norm_name, plain_conv(t, conv_name, x, stride)).clamp(min=0)

    x = step("conv2", "bn2", step("conv1", "bn1", image, 2), 2)
    for k in range(2):
        at = f"layer1.{k}"
        shortcut = batch_norm(t, f"{at}.downsample.1", plain_conv(t, f"{at}.downsample.0", x)) if k == 0 else x
        y = step(f"{at}.conv2", f"{at}.bn2", step(f"{at}.conv1", f"{at}.bn1", x))
        x = (batch_norm(t, f"{at}.bn3", plain_conv(t, f"{at}.conv3", y)) + shortcut).clamp(min=0)
    maps = [
        step("transition1.0.0", "transition1.0.1", x),
        step("transition1.1.0.0", "transition1.1.0.1", x, 2),
    ]
    for stage, modules in zip((2, 3, 4), spec.modules, strict=True):
        if stage > 2:
            at = f"transition{stage - 1}.{stage - 1}.0"
            maps = [*maps, step(f"{at}.0", f"{at}.1", maps[-1], 2)]
        for m in range(modules):
            for i in range(stage):
                for b in range(spec.blocks):
                    maps[i] = slow_block(t, f"stage{stage}.{m}.branches.{i}.{b}", maps[i], spec.heads[i])
            maps = slow_fusion(t, f"stage{stage}.{m}.", maps)
    return [
        batch_norm(t, f"convs.{k}.bn", plain_conv(t, f"convs.{k}.conv", x), eps=1e-3).clamp(min=0)
        for k, x in enumerate(maps)
    ]


def randomise(module: torch.nn.Module, seed: int) -> dict[str, Tensor]:
    """Every float tensor drawn anew, so that no bias, norm or position bias is hidden by its initial value."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point():
                continue
            fan_in = max(1, tensor[0].numel()) if tensor.ndim > 1 else 1
            drawn = torch.randn(tensor.shape, generator=g, dtype=tensor.dtype) / math.sqrt(fan_in)
            if name.endswith("running_var"):
                drawn = drawn.abs() + 0.5
            tensor.copy_(drawn)
    return module.state_dict()


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (5, 9), (8, 14), (13, 20)])
def test_attention_is_that_of_each_zero_padded_window_and_head(size: tuple[int, int]) -> None:
    module = MultiScaleModule([6], [2], [0.0]).double().eval()
    tensors = randomise(module, seed=1)
    tokens = torch.randn(2, *size, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    got = module.branches[0][0].attn(tokens)
    for image, result in zip(tokens, got, strict=True):
        torch.testing.assert_close(result, slow_attention(tensors, "branches.0.0", image, heads=2))


@pytest.mark.parametrize("sizes", [[(16, 8), (8, 4), (4, 2), (2, 1)], [(9, 13), (5, 7), (3, 4), (2, 2)]])
def test_fusion_sums_all_branches_at_even_and_odd_sizes(sizes: list[tuple[int, int]]) -> None:
    module = MultiScaleModule([3, 4, 5, 6], [1, 1, 1, 1], []).double().eval()
    tensors = randomise(module, seed=3)
    g = torch.Generator().manual_seed(4)
    maps = [
        torch.randn(1, c, *size, generator=g, dtype=torch.float64) for c, size in zip((3, 4, 5, 6), sizes, strict=True)
    ]
    for got, expected in zip(module(maps), slow_fusion(tensors, "", maps), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("size", [(64, 64), (45, 70)])
def test_the_whole_network_is_the_described_one(size: tuple[int, int]) -> None:
    spec = HRFormerSpec((4, 8, 12, 16), (1, 2, 3, 4), modules=(1, 2, 2), stem=8, layer1=4, projection=8)
    model = HRFormer(spec).double().eval()
    tensors = randomise(model, seed=5)
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    with torch.no_grad():
        maps = model(image)
    for got, expected in zip(maps, slow_hrformer(tensors, spec, image), strict=True):
        assert expected.std() > 0.01
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("size", [(64, 64), (100, 75), (33, 47), (32, 32), (224, 160)])
def test_maps_lie_at_strides_4_to_32_rounded_up(size: tuple[int, int]) -> None:
    model = BACKBONES["hrformer_tiny"]().eval()
    with torch.no_grad():
        maps = model(torch.rand(1, 3, *size))
    assert [tuple(m.shape) for m in maps] == [
        (1, 64, math.ceil(size[0] / s), math.ceil(size[1] / s)) for s in (4, 8, 16, 32)
    ]
    assert all(bool((m >= 0).all()) for m in maps)


# ---- randomness and initial values ----


def test_drop_path_rises_linearly_over_the_block_depths_and_is_the_same_on_all_branches() -> None:
    with torch.device("meta"):
        model = BACKBONES["hrformer_base"]()
    depth = 0
    for stage, modules in ((model.stage2, 1), (model.stage3, 4), (model.stage4, 2)):
        assert len(stage) == modules
        for module in stage:
            for b in range(2):
                for branch in module.branches:
                    assert branch[b].drop_path.rate == pytest.approx(0.2 * depth / 13)
                depth += 1
    assert depth == 14


def test_stochastic_depth_drops_whole_images_and_keeps_the_mean() -> None:
    layer = StochasticDepth(0.2).train()
    torch.manual_seed(0)
    out = layer(torch.ones(5000, 2, 3))
    kept = out[:, 0, 0] != 0
    assert torch.equal(out, kept[:, None, None] * torch.full_like(out, 1.25))
    assert kept.float().mean() == pytest.approx(0.8, abs=0.02)
    assert torch.equal(layer.eval()(torch.ones(9, 1)), torch.ones(9, 1))


def test_two_passes_agree_in_eval_and_differ_in_train_unless_seeded_alike() -> None:
    torch.manual_seed(1)
    model = BACKBONES["hrformer_tiny"]()
    images = torch.rand(2, 3, 64, 64)

    def passes(seeds: tuple[int, int]) -> list[bool]:
        results = []
        for seed in seeds:
            torch.manual_seed(seed)
            with torch.no_grad():
                results.append(model(images))
        return [torch.equal(a, b) for a, b in zip(*results, strict=True)]

    model.eval()
    assert passes((3, 4)) == [True] * 4
    model.train()
    assert passes((3, 3)) == [True] * 4
    assert passes((3, 4)) == [False] * 4


def test_batch_norms_have_the_published_eps_and_momentum() -> None:
    with torch.device("meta"):
        model = BACKBONES["hrformer_small"]()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            expected = (1e-3, 0.03) if name.startswith("convs.") else (1e-5, 0.1)
            assert (module.eps, module.momentum) == expected, name


def test_initial_values() -> None:
    torch.manual_seed(0)
    model = BACKBONES["hrformer_tiny"]()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.LayerNorm):
            assert bool((module.weight == 1).all())
            assert bool((module.bias == 0).all())
        if isinstance(module, WindowAttention):
            assert 0.01 < module.relative_position_bias_table.std().item() < 0.03
    mlp = model.stage4[0].branches[3][0].mlp
    assert mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert bool((mlp.fc1.bias == 0).all())
    fan_out = model.conv2.weight.shape[0] * 9
    assert model.conv2.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)


def test_every_parameter_receives_a_gradient() -> None:
    torch.manual_seed(0)
    model = BACKBONES["hrformer_tiny"]()
    for module in model.modules():
        if isinstance(module, StochasticDepth):
            module.rate = 0.0
    g = torch.Generator().manual_seed(1)
    maps = model(torch.rand(2, 3, 64, 64, generator=g))
    sum((m * torch.rand(m.shape, generator=g)).sum() for m in maps).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())}
    # Softmax does not see what is added to all keys alike, so the keys' biases may have none.
    assert {name for name in without if not name.endswith("k_proj.bias")} == set()
