"""Public checkpoints: each kind is recognised and loaded exactly, what does not fit is refused in one line."""

import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mpc_model import published
from mpc_model.errors import UserError
from mpc_model.localizer import Localizer, ModelSpec
from mpc_model.nn.backbone import BACKBONES
from mpc_model.nn.heads import HEADS

Tensors = dict[str, Tensor]


def encoder_tensors(seed: int = 0) -> Tensors:
    """A tiny encoder's tensors under their bare names, none at its initial value."""
    torch.manual_seed(seed)
    tensors = BACKBONES["hrformer_tiny"]().state_dict()
    return {n: t + 0.1 * torch.rand(t.shape) if t.is_floating_point() else t for n, t in tensors.items()}


def stage_2(head: str) -> Tensors:
    tensors = {f"encoder.{name}": tensor for name, tensor in encoder_tensors().items()}
    return tensors | {f"decoder.{name}": tensor for name, tensor in HEADS[head](64, 1).state_dict().items()}


def imagenet() -> Tensors:
    tensors = {name: tensor for name, tensor in encoder_tensors().items() if not name.startswith("convs.")}
    leftovers = {"incre_modules.0.0.conv1.weight": torch.rand(8, 16, 1, 1), "classifier.weight": torch.rand(10, 16)}
    return tensors | leftovers


def write(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def read(path: Path) -> Localizer:
    return Localizer.from_published(path, backbone="hrformer_tiny")


def same(model: Localizer, tensors: Tensors, prefix: str = "") -> bool:
    ours = model.state_dict()
    return all(torch.equal(ours[prefix + name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("head", ["mlp4", "mlp5"])
def test_a_stage_2_checkpoint_is_read_with_its_own_head(head: str, tmp_path: Path) -> None:
    tensors = stage_2(head)
    path = write(tmp_path / "weights.pth", tensors)
    model = read(path)
    assert model.spec == ModelSpec("hrformer_tiny", head, 512, 0.5)
    assert model.state_dict().keys() == tensors.keys()
    assert same(model, tensors)
    assert not model.training
    digest = sha256(path.read_bytes()).hexdigest()
    assert model.card["published"] == {
        "file": "weights.pth",
        "sha256": digest,
        "kind": "stage-2",
        "fresh": [],
        "ignored": [],
    }
    (probabilities,) = model.predict([np.zeros((40, 60, 3), np.uint8)])
    assert probabilities.shape == (40, 60)


def test_a_stage_1_checkpoint_gives_an_encoder(tmp_path: Path) -> None:
    tensors = encoder_tensors()
    model = read(write(tmp_path / "weights.pth", tensors))
    assert model.spec.head is None
    assert model.card["published"]["kind"] == "stage-1"
    assert len(model.state_dict()) == len(tensors)
    assert same(model, tensors, "encoder.")


def test_an_imagenet_checkpoint_gives_an_encoder_with_fresh_projections(tmp_path: Path) -> None:
    tensors = imagenet()
    path = write(tmp_path / "hrt.pth", {"model": tensors, "epoch": 300})
    torch.manual_seed(0)
    model = read(path)
    origin = model.card["published"]
    assert model.spec.head is None
    assert origin["kind"] == "imagenet"
    assert origin["ignored"] == ["encoder.classifier.weight", "encoder.incre_modules.0.0.conv1.weight"]
    projections = {name for name in model.state_dict() if ".convs." in name}
    assert set(origin["fresh"]) == projections
    ignored = {name.removeprefix("encoder.") for name in origin["ignored"]}
    read_from_file = {name: tensor for name, tensor in tensors.items() if name not in ignored}
    assert len(read_from_file) + len(projections) == len(model.state_dict())
    assert same(model, read_from_file, "encoder.")
    weight = model.encoder.convs[0].conv.weight
    assert weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.1)


WRAPPINGS: list[Callable[[Tensors], Any]] = [
    lambda tensors: {"state_dict": tensors, "epoch": 3},
    lambda tensors: {"model": tensors},
    lambda tensors: {f"module.{name}": tensor for name, tensor in tensors.items()},
    lambda tensors: {"state_dict": OrderedDict((f"module.{name}", tensor) for name, tensor in tensors.items())},
]


@pytest.mark.parametrize("wrap", WRAPPINGS)
@pytest.mark.parametrize("bare", [True, False])
def test_wrapping_keys_and_prefixes_are_taken_off(wrap: Callable[[Tensors], Any], bare: bool, tmp_path: Path) -> None:
    tensors = encoder_tensors() if bare else stage_2("mlp4")
    model = read(write(tmp_path / "weights.pth", wrap(tensors)))
    assert model.card["published"]["kind"] == ("stage-1" if bare else "stage-2")
    assert same(model, tensors, "encoder." if bare else "")


def without(tensors: Tensors, prefix: str) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: without(stage_2("mlp4"), "encoder.bn1."), r"5 missing \(encoder.bn1.bias, "),
        (lambda: without(stage_2("mlp5"), "decoder.classifier.12"), r"5 missing \(decoder.classifier.12"),
        (lambda: without(stage_2("mlp4"), "decoder."), r"28 missing \(decoder"),
        (lambda: stage_2("mlp4") | {"optimizer.step": torch.zeros(1)}, r"1 unexpected \(optimizer.step\)"),
        (lambda: encoder_tensors() | {"bn1.bias": torch.zeros(9)}, r"encoder.bn1.bias \[9\] for \[32\]"),
        (lambda: without(encoder_tensors(), "convs."), r"24 missing \(encoder.convs.0.bn.bias, "),
        (lambda: encoder_tensors() | {"fc.weight": torch.zeros(9)}, r"1 unexpected \(encoder.fc.weight\)"),
        (lambda: {"model": without(imagenet(), "stage4.")}, "missing \\(encoder.stage4"),
        (lambda: {"model": imagenet() | {"bn1.bias": torch.zeros(9)}}, r"encoder.bn1.bias \[9\] for \[32\]"),
        (lambda: {"epoch": 3}, "no tensors by name"),
        (lambda: {}, "no tensors by name"),
        (lambda: [torch.zeros(3)], "no tensors by name"),
        (lambda: {"state_dict": {"a": 1}}, "no tensors by name"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_with_the_names(
    content: Callable[[], object], said: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "weights.pth", content())
    with pytest.raises(UserError, match=said) as refusal:
        read(path)
    assert str(refusal.value).startswith(str(path))
    assert len(str(refusal.value)) < 1200


def test_the_wrong_backbone_is_refused_with_shapes(tmp_path: Path) -> None:
    path = write(tmp_path / "weights.pth", encoder_tensors())
    with pytest.raises(UserError, match=r"missing .* of another shape"):
        Localizer.from_published(path, backbone="hrformer_small")


class RunsOnLoading:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.witness,)


def test_pickled_code_is_refused_and_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    path = write(tmp_path / "weights.pth", {"state_dict": encoder_tensors(), "config": RunsOnLoading(witness)})
    with pytest.raises(UserError, match="could run code"):
        read(path)
    assert not witness.exists()
    torch.load(path, weights_only=False)  # the trap is live
    assert witness.exists()


def damaged(seed: int) -> list[bytes]:
    """Files that are no checkpoint: other formats, a cut-off one, single bytes changed in a small one, noise."""
    rng = np.random.default_rng(seed)
    whole = pickle.dumps({"a": [1, 2.5, "text"]}, protocol=2)
    files = [b"", b"hello world", b'{"a": 1}', b"\x89PNG\r\n\x1a\n" * 9, b"\xff\xd8\xff\xe0" * 9, b"PK\x03\x04" * 9]
    files += [rng.bytes(int(n)) for n in rng.integers(1, 60, 40)]
    for _ in range(40):
        changed = bytearray(whole)
        changed[int(rng.integers(len(whole)))] = int(rng.integers(256))
        files.append(bytes(changed))
    return files


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_files_that_are_no_checkpoint_are_refused_in_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "weights.pth", {"a": torch.rand(9)})
    cut = path.read_bytes()
    for content in [*damaged(0), cut[: len(cut) // 2], cut[:-30]]:
        path.write_bytes(content)
        with pytest.raises(UserError) as refusal:
            read(path)
        assert str(refusal.value).startswith(str(path))
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_public_weights_that_are_not_finite_are_refused_by_name(value: float, tmp_path: Path) -> None:
    tensors = stage_2("mlp4")
    tensors["encoder.bn1.weight"][3] = value
    with pytest.raises(UserError, match=r"not finite: 1 with NaN or infinity \(encoder.bn1.weight\)"):
        read(write(tmp_path / "weights.pth", tensors))


@pytest.mark.parametrize(
    "change",
    [lambda t: t.to(torch.complex64), lambda t: t.to("meta"), lambda t: t.to_sparse(), lambda t: t.long()],
    ids=["complex", "meta", "sparse", "whole"],
)
def test_tensors_of_another_kind_are_refused(change: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    tensors = stage_2("mlp4")
    tensors["encoder.bn1.weight"] = change(tensors["encoder.bn1.weight"])
    with pytest.raises(UserError, match=r"1 with numbers of another kind \(encoder.bn1.weight\)"):
        read(write(tmp_path / "weights.pth", tensors))


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    """PyTorch reads compressed entries, too: a file of kilobytes would become gigabytes."""
    write(tmp_path / "plain.pth", {"a": torch.zeros(2**20)})
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for entry in plain.infolist():
            small.writestr(entry.filename, plain.read(entry))
    assert torch.load(tmp_path / "small.pth", weights_only=True)["a"].shape == (2**20,)  # the trap is live
    with pytest.raises(UserError, match="not a PyTorch checkpoint, or a damaged one"):
        read(tmp_path / "small.pth")


def test_a_checkpoint_of_any_size_is_refused_by_it(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.touch()
    os.truncate(path, published.LARGEST + 1)
    with pytest.raises(UserError, match=f"{published.LARGEST + 1} bytes, a published checkpoint has"):
        read(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(UserError, match="no such checkpoint file"):
            read(path)
