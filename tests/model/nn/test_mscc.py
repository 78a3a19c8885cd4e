"""MSCCNet's head: its numbers in float64, what each step does and does not, and what it refuses."""

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support import tiny
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parallel import DistributedDataParallel
from two_ranks import TwoRanks

from mpc_model.errors import UserError
from mpc_model.localizer import Localizer, ModelSpec
from mpc_model.nn.batchnorm import synchronise
from mpc_model.nn.heads import HEADS, make_head, parts_of
from mpc_model.nn.mscc import (
    Aggregation,
    ClassCentres,
    MSCCHead,
    attention,
    class_centres,
    dct_rows,
    dct_weights,
    interaction,
    weighted,
)

DOUBLE = torch.zeros((), dtype=torch.float64)
SETTINGS = {"frequencies": 2, "spectra": 2}


def close(found: Tensor, expected: object, atol: float = 1e-9) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=0, atol=atol)


def maps_of(side: int, width: int = 8, images: int = 2, seed: int = 0) -> list[Tensor]:
    """Four random maps of images of so many pixels a side."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(images, width, -(-side // s), -(-side // s), generator=draw) for s in (4, 8, 16, 32)]


def head_of(name: str = "mscc", width: int = 8, classes: int = 1, seed: int = 0, **settings: object) -> MSCCHead:
    """A head in eval mode whose norms were set by one batch."""
    torch.manual_seed(seed)
    head = make_head(name, width, classes, (SETTINGS if name == "mscc" else {}) | settings)
    norms = [module for module in head.modules() if isinstance(module, nn.BatchNorm2d)]
    for momentum in (1.0, 0.1):  # of that batch alone, and then as it was
        for norm in norms:
            norm.momentum = momentum
        if momentum == 1:
            head(maps_of(96, width, seed=9))
    return head.eval()


def centres_of(classes: int = 2, weighting: str = "dct", seed: int = 0) -> ClassCentres:
    """The module over 8 channels in float64, in eval mode, without its last convolution: it gives [X, O]."""
    torch.manual_seed(seed)
    module = ClassCentres(8, classes, 2, 2, weighting).double().eval()
    module.output = nn.Identity()
    return module


def features(seed: int = 1, height: int = 6, width: int = 10) -> Tensor:
    return torch.randn(2, 8, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# The weights.


def test_rows_are_those_of_the_orthonormal_dct() -> None:
    a, b = math.sqrt(0.5) * math.cos(math.pi / 8), math.sqrt(0.5) * math.sin(math.pi / 8)
    close(dct_rows(3, 4, DOUBLE), [[0.5] * 4, [a, b, -b, -a], [0.5, -0.5, -0.5, 0.5]])
    rows = dct_rows(64, 64, DOUBLE)
    close(rows @ rows.T, torch.eye(64), 1e-13)
    close(rows.T, cv2.dct(np.eye(64), flags=cv2.DCT_ROWS), 1e-12)


def test_weights_are_products_of_rows_with_u_down_and_first() -> None:
    weights = dct_weights(8, 64, 64, DOUBLE)
    assert weights.shape == (64, 64, 64)
    d12 = weights[1 * 8 + 2]
    close(torch.stack([d12[0, 0], d12[3, 5], d12[63, 63]]), [0.0312029574, 0.0264094007, -0.0312029574], 1e-10)
    close(weights[0], torch.full((64, 64), 0.015625))
    oblong = dct_weights(3, 5, 7, DOUBLE)
    close(oblong[1 * 3 + 2], torch.outer(dct_rows(2, 5, DOUBLE)[1], dct_rows(3, 7, DOUBLE)[2]))


def test_the_weighted_map_keeps_its_size_and_of_a_flat_one_only_the_first_frequency_has_a_sum() -> None:
    found = weighted(torch.ones(1, 64, 12, 20, dtype=torch.float64), dct_weights(4, 12, 20, DOUBLE))
    assert found.shape == (1, 64, 12, 20)
    expected = torch.zeros(64, dtype=torch.float64)
    expected[:4] = math.sqrt(12 * 20)  # 64 channels of 16 frequencies: four each, one after another
    close(found.sum((2, 3))[0], expected)


@pytest.mark.parametrize("weighting", ["dct", "random"])
def test_weights_follow_the_size_of_the_map_and_are_neither_trained_nor_stored(weighting: str) -> None:
    head = make_head("mscc", 8, 1, SETTINGS | {"weighting": weighting})
    weights = head.centres.weights
    assert not list(weights.parameters())
    assert not weights.state_dict()
    for size in ((6, 10), (70, 9)):
        found = weights(torch.ones(1, 8, *size))
        assert found.shape == (1, 8, *size)
        lengths = found.square().sum((2, 3))
        torch.testing.assert_close(lengths, torch.ones(1, 8), rtol=0, atol=1e-5 if weighting == "dct" else 0.5)
        assert torch.equal(found[:, ::2], found[:, 1::2])  # two channels of each of four frequencies
    x = features().float()
    assert torch.equal(ClassCentres(8, 2, 2, 2, weighting).weights(x), weights(x))  # of every model the same


# The steps after it, in numbers.

X = torch.tensor([[1, 2, 3, 4], [0, 1, -1, 2], [2, 0, 1, -1], [1, 1, 0, 3]], dtype=torch.float64)
F = torch.tensor([[0.5, 1, 1.5, 2], [0, -0.5, -0.5, -1], [1, 0, -0.5, 0.5], [0.5, -0.5, 0, 1.5]], dtype=torch.float64)
A = torch.tensor([[[1, 0, 2, -1], [0, 1, -1, 2]], [[0.5, 0.5, 0, 1], [1, 0, 0, -0.5]]], dtype=torch.float64)
W1 = torch.tensor([[0.5, -0.25], [1, 0.75]], dtype=torch.float64)
W2 = torch.tensor([[1, 0.5], [-0.5, 2]], dtype=torch.float64)
SEEN = torch.tensor(
    [
        [4.9256648348, 5.0318334400, 5.0624322401, 5.0621867067],
        [-2.4628324174, -2.5159167200, -2.5312161201, -2.5310933534],
        [4.5634863517, 4.5630991827, 4.7030441252, 4.5625000027],
        [3.6012042652, 3.6105447169, 0.2343729790, 3.6249999349],
    ],
    dtype=torch.float64,
)


def groups(channels: Tensor) -> Tensor:
    return channels.view(1, 2, 2, 4)


def seen(queries: Tensor = X, coarse: Tensor = A, values: Tensor = F) -> Tensor:
    """O (4, 4), of two spectra with two channels each over four pixels."""
    centres = interaction(class_centres(coarse[None], groups(values)), W1, W2)
    return attention(groups(queries), centres).view(4, 4)


def test_the_module_in_numbers() -> None:
    centres = class_centres(A[None], groups(F))
    close(centres[0], [[[1.5, 0], [3.5, -2]], [[1, 1.5], [0.75, -0.25]]])
    mixed = interaction(centres, W1, W2)
    close(mixed[0], [[[2, -1], [5.0625, -2.53125]], [[4.5625, 3.625], [4.8125, -2.40625]]])
    shares = (mixed @ groups(X)).softmax(2)[0]
    close(shares[:, 1, 0], [0.9553191297, 0.0039454068], 1e-10)
    close(shares[:, 1, 1], [0.9899864294, 0.0023967309], 1e-10)
    close(shares[:, 0, 2], [2.2125669e-5, 0.4378234991], 1e-10)
    close(shares[:, 0, 3], [1.0229985e-4, 0.9999999892], 1e-10)
    close(shares.sum(1), torch.ones(2, 4))
    close(seen(), SEEN, 1e-9)


@pytest.mark.parametrize(
    ("shortcut", "difference"),
    [
        (lambda: seen(queries=F), 5.7),
        (lambda: seen(coarse=A.softmax(1)), 2.8),
        (lambda: seen(coarse=A.softmax(2)), 3.7),
    ],
)
def test_no_shortcut_gives_these_numbers(shortcut: Callable[[], Tensor], difference: float) -> None:
    assert (shortcut() - SEEN).abs().max().item() == pytest.approx(difference, abs=0.05)


def test_centres_are_sums() -> None:
    found = class_centres(A[None], groups(F))
    close(class_centres(2 * A[None], groups(F)), 2 * found)

    def repeated(pixels: Tensor) -> Tensor:
        """Every pixel of 2 x 2 twice in both directions."""
        return pixels.unflatten(-1, (2, 2)).repeat_interleave(2, -1).repeat_interleave(2, -2).flatten(-2)

    close(class_centres(repeated(A[None]), repeated(groups(F))), 4 * found)


def test_a_pixel_gets_a_mean_of_its_own_spectrum_s_centres() -> None:
    centres = torch.randn(3, 4, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    queries = torch.randn(3, 4, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    first, second = centres[..., :1, :].mT, centres[..., 1:, :].mT  # (3, 4, 5, 1)
    along = ((attention(queries, centres) - first) / (second - first)).diff(dim=2)
    close(along, torch.zeros_like(along))  # the same share in all channels: on the line between the two
    share = ((attention(queries, centres) - first) / (second - first))[..., 0, :]
    assert 0 < share.min() < share.max() < 1
    scores = centres @ queries
    close(share, 1 / (1 + (scores[:, :, 0] - scores[:, :, 1]).exp()))  # over the classes, not over the pixels


# The module.


def rolled(x: Tensor) -> Tensor:
    return x.roll((2, 3), (2, 3))


@pytest.mark.parametrize(("weighting", "commutes"), [("ones", True), ("dct", False), ("random", False)])
def test_only_the_weights_know_where_a_pixel_is(weighting: str, commutes: bool) -> None:
    module, x = centres_of(weighting=weighting), features()
    pairs = list(zip(module(rolled(x)), map(rolled, module(x)), strict=True))
    assert all(torch.allclose(one, other, rtol=0, atol=1e-10) for one, other in pairs) == commutes
    assert commutes or not any(torch.allclose(one, other, rtol=0, atol=1e-4) for one, other in pairs)


@torch.no_grad()
def test_classes_can_be_swapped() -> None:
    module, x = centres_of(), features()
    output, coarse = module(x)
    last = module.decoder[-1]
    last.weight.copy_(last.weight.flip(0))
    last.bias.copy_(last.bias.flip(0))
    again, swapped = module(x)
    close(again, output.detach())
    close(swapped, coarse.flip(1))
    assert (coarse - swapped).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("mixes", [False, True])
def test_spectra_are_mixed_by_the_interaction_alone(mixes: bool) -> None:
    module, x = centres_of(), features()
    if not mixes:
        module.between_spectra.weight.zero_()
    changed = x.clone()
    changed[:, 2:4] = features(seed=3)[:, 2:4]  # the second of four spectra
    before, after = (module(each)[0][:, 8:].unflatten(1, (4, 2)) for each in (x, changed))
    differs = (before - after).abs().amax((0, 2, 3, 4)) > 1e-9
    assert differs.tolist() == ([True] * 4 if mixes else [False, True, False, False])


def test_in_bf16_the_centres_and_the_attention_are_float32() -> None:
    torch.manual_seed(0)
    module = ClassCentres(8, 2, 2, 2, "dct").eval()
    module.output, x = nn.Identity(), features().float()
    logits = []
    module.decoder.register_forward_hook(lambda _module, _inputs, output: logits.append(output.detach()))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = module(x)[0][:, 8:]
    assert logits[0].dtype == torch.bfloat16
    values = module.weights(x).view(2, 4, 2, 60)
    centres = class_centres(logits[0].float().view(2, 4, 2, 60), values)
    centres = interaction(centres, module.between_spectra.weight, module.between_channels.weight)
    assert torch.equal(found.flatten(2).unflatten(1, (4, 2)), attention(x.view(2, 4, 2, 60), centres).detach())


# The head.


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_sizes_are_the_published_ones() -> None:
    with torch.device("meta"):
        assert parameters(Aggregation([512, 1024, 2048], [1, 1, 1], 512)) == 23_597_056
        assert parameters(ClassCentres(512, 2, 8, 2, "dct")) == 4_752_919
        head = HEADS["mscc"](512, 1)
        assert parameters(head.classifier) == 264_194
        assert parameters(HEADS["mfa"](512, 1)) == parameters(head) - 4_752_919


@pytest.mark.parametrize("name", ["mscc", "mfa"])
@pytest.mark.parametrize("stride", [8, 4])
def test_logits_are_of_the_finest_map_whatever_its_size(name: str, stride: int) -> None:
    head = head_of(name, stride=stride)
    for side in (32, 33, 75, 100):
        maps = maps_of(side)
        maps = [level[..., : -(-64 // s)] for level, s in zip(maps, (4, 8, 16, 32), strict=True)]  # not square
        parts = parts_of(head, maps)
        assert parts.mask.shape == (2, 1, *maps[0].shape[2:])
        assert parts.image.shape == (2, 2)
        assert name == "mfa" or parts.coarse.shape == (2, 1, *maps[stride // 4 - 1].shape[2:])
        assert torch.equal(head(maps), parts.mask)
        assert all(level.isfinite().all() for level in parts if level is not None)
    finest = maps_of(100)
    finest[0] = finest[0] + 1
    assert torch.equal(head(finest), head(maps_of(100))) == (stride == 8)


def test_one_logit_is_that_of_forged_over_authentic() -> None:
    one, two = head_of(), head_of(classes=2)
    assert two.image is None
    two.load_state_dict({name: tensor for name, tensor in one.state_dict().items() if not name.startswith("image.")})
    binary, of_classes = parts_of(one, maps_of(64)), parts_of(two, maps_of(64))
    torch.testing.assert_close(binary.mask[:, 0].sigmoid(), of_classes.mask.softmax(1)[:, 1])
    torch.testing.assert_close(binary.coarse[:, 0].sigmoid(), of_classes.coarse.softmax(1)[:, 1])
    assert parts_of(head_of(classes=5), maps_of(64)).coarse.shape[1] == 5


@torch.no_grad()
@pytest.mark.parametrize("weighting", ["dct", "ones", "random"])
def test_what_else_is_in_the_batch_does_not_matter(weighting: str) -> None:
    head, maps = head_of(weighting=weighting), maps_of(72, images=3)
    for image in range(3):
        alone = parts_of(head, [level[image : image + 1] for level in maps])
        for part, of_all in zip(alone, parts_of(head, maps), strict=True):
            torch.testing.assert_close(part[0], of_all[image], rtol=1e-5, atol=1e-5)


def test_every_loss_reaches_what_it_can() -> None:
    model = tiny(head="mscc").train()
    images = torch.rand(2, 3, 64, 64)

    def reached(part: str) -> set[str]:
        model.zero_grad()
        getattr(parts_of(model.decoder, model.features(images)), part).sum().backward()
        moved = [name for name, one in model.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0]
        return {".".join(name.split(".")[:3]) for name in moved}

    mask, image = reached("mask"), reached("image")
    # Without the coarse map's own loss its decoder learns by the centres.
    assert {"decoder.centres.decoder", "decoder.centres.between_spectra", "decoder.features.levels"} <= mask
    assert "decoder.centres.coarse" not in mask
    assert any(name.startswith("encoder.") for name in image)
    assert not any(name.startswith(("decoder.centres", "decoder.features")) for name in image)


@pytest.mark.parametrize("name", ["mscc", "mfa"])
def test_every_weight_of_the_backbone_gets_a_gradient(name: str) -> None:
    """Those of the map that is left out get zeros: DDP with `train.accumulate` stops where a weight has none."""
    model = tiny(head=name).train()
    model(torch.rand(2, 3, 64, 64)).sum().backward()
    gradients = {key: one.grad for key, one in model.named_parameters() if key.startswith("encoder.")}
    assert not [key for key, gradient in gradients.items() if gradient is None]
    assert any(gradient is not None and not gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("weighting", ["dct", "random"])
def test_fake_tensors_go_through_it_and_leave_nothing_behind(weighting: str) -> None:
    head = head_of(weighting=weighting)
    expected = head(maps_of(72))
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert head(maps_of(72)).shape == (2, 1, 18, 18)
    assert torch.equal(head(maps_of(72)), expected)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("mscc", {}, "frequencies is 8, and the backbone's 48 channels.*one of 1, 2, 4$"),
        ("mscc", {"frequencies": 4, "spectra": 3}, "spectra is 3, .*one of 1, 2, 4$"),
        ("mscc", {"frequencies": 0}, "frequencies is 0"),
        ("mscc", {"frequencies": 2.0}, r"frequencies is 2\.0"),
        ("mscc", {"frequencies": 4, "weighting": "dtc"}, "weighting is 'dtc'; .* one of dct, ones, random"),
        ("mfa", {"stride": 16}, "stride is 16"),
        ("mfa", {"image": 1}, "image is 1"),
        ("mfa", {"frequencies": 4}, "frequencies"),
        ("mscc", {"frequences": 4}, "frequencies"),
        ("mlp4", {"stride": 8}, "mlp4"),
    ],
)
def test_settings_that_cannot_be_are_refused(name: str, settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_head(name, 48, 1, settings)


# In a localizer.


def test_a_saved_model_is_the_same_and_takes_no_tiles(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Localizer(ModelSpec("hrformer_tiny", "mscc", None, head_settings={"frequencies": 4})).eval()
    model.save(tmp_path)
    again = Localizer.load(tmp_path)
    assert again.spec == model.spec
    assert again.default_tile == 0
    image = np.random.default_rng(0).integers(0, 256, (70, 50, 3), dtype=np.uint8)
    assert np.array_equal(again.predict([image])[0], model.predict([image])[0])
    with pytest.raises(UserError, match="head mscc looks at an image as a whole"):
        again.predict([image], tile=256)
    for name in ("ones", "random"):  # the same tensors under other settings are another function
        other = Localizer(ModelSpec("hrformer_tiny", "mscc", None, head_settings={"frequencies": 4, "weighting": name}))
        other.load_state_dict(model.state_dict())
        assert not np.allclose(other.eval().predict([image])[0], model.predict([image])[0], atol=1e-4)


# On two ranks.


def one_step(head: nn.Module, maps: list[Tensor]) -> Tensor:
    """The head's outputs in train mode; gradients of a loss that is a mean over images are left in it."""
    parts = head(maps)
    losses = [part.square().mean() for part in parts]
    torch.stack(losses).sum().backward()
    return torch.cat([part.detach().flatten(1) for part in parts], dim=1)


class Trained(nn.Module):
    """A head as training calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = head_of().train()
        for module in self.head.modules():
            if isinstance(module, nn.Dropout2d):
                module.p = 0.0

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return list(parts_of(self.head, maps))


def gradients(module: nn.Module) -> Tensor:
    return torch.cat([one.grad.flatten() for one in module.parameters()])


def one_rank(rank: int) -> tuple[Tensor, Tensor]:
    module = DistributedDataParallel(synchronise(Trained()), forward_sync_buffers=False, static_graph=True)
    outputs = one_step(module, [level[rank : rank + 1] for level in maps_of(64)])
    return outputs, gradients(module)


def test_two_ranks_compute_what_one_does(two_ranks: TwoRanks) -> None:
    (first, averaged), (second, other) = two_ranks.run(one_rank)
    module = Trained()
    expected = one_step(module, maps_of(64))
    torch.testing.assert_close(torch.cat([first, second]), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(averaged, gradients(module), rtol=1e-5, atol=1e-5)
    assert torch.equal(averaged, other)
