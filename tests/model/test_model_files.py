"""What strangers, or a damaged disk, wrote into the files of a model directory is refused before it costs anything."""

import hashlib
import json
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from support import tiny
from torch import Tensor

from mpc_model.errors import UserError
from mpc_model.localizer import Localizer, ModelSpec
from mpc_model.model_files import DOCUMENT_BYTES, read_document

Tensors = dict[str, Tensor]
WEIGHT, INDEX = "encoder.conv1.weight", "encoder.stage2.0.branches.0.0.attn.attn.relative_position_index"


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return tiny().packed()


def write(folder: Path, document: str | bytes, blob: bytes = b"") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.json").write_bytes(document if isinstance(document, bytes) else document.encode())
    (folder / "model.safetensors").write_bytes(blob)
    return folder


def with_blob(files: dict[str, bytes], blob: bytes, folder: Path) -> Path:
    """A model directory with these weights, and their sha256 in model.json."""
    document = json.loads(files["model.json"]) | {"sha256": hashlib.sha256(blob).hexdigest()}
    return write(folder, json.dumps(document), blob)


def changed(files: dict[str, bytes], change: Callable[[Tensors], None]) -> bytes:
    tensors = safetensors.torch.load(files["model.safetensors"])
    change(tensors)
    return safetensors.torch.save(tensors)


# ---- model.json ----


def edited(**changes: object) -> Callable[[str], str]:
    return lambda text: json.dumps(json.loads(text) | changes)


def spec(**changes: object) -> Callable[[str], str]:
    return lambda text: json.dumps({**json.loads(text), "spec": json.loads(text)["spec"] | changes})


def of_classes(**changes: object) -> Callable[[str], str]:
    """A document of two classes."""
    return lambda text: spec(**{"classes": 2, "class_names": []} | changes)(edited(format=2)(text))


def of_settings(settings: object, **changes: object) -> Callable[[str], str]:
    """A document with settings of the head."""
    return lambda text: spec(head_settings=settings, **changes)(edited(format=2)(text))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda text: "[" * 100_000, "not JSON"),
        (lambda text: text.replace('"format": 1', '"format": ' + "1" * 5000), "not JSON"),
        (lambda text: text.replace('"format": 1', '"format": 1, "format": 1'), "the key 'format' is there twice"),
        (lambda text: text + " " * DOCUMENT_BYTES, f"a model.json has {DOCUMENT_BYTES} at most"),
        (edited(format=True), "format True, this version reads 1"),
        (edited(format=1.0), "format 1.0, this version reads 1"),
        (edited(format="9" * 300), "format '9{39}, this version reads 1"),
        (edited(extra=1), "unknown key 'extra'"),
        (edited(sha256="A" * 64), "sha256 is not 64 hexadecimal digits"),
        (edited(sha256=None), "sha256 is not 64 hexadecimal digits"),
        (edited(sizes=[]), "sizes is no object"),
        (edited(spec=[]), "spec is no object"),
        (edited(card=None), "card is no object"),
        (edited(card={"published": None}), "card.published lacks"),
        (edited(card={"published": {"file": "a", "sha256": "b", "kind": 3}}), "card.published lacks"),
        (edited(card={"chosen_threshold": {"rule": "best_f1"}}), "card.chosen_threshold lacks"),
        (edited(card={"trained_on": "all"}), "card.trained_on is no list"),
        (edited(card={"trained_on": [{"uri": 1, "fingerprint": "a"}]}), "card.trained_on is no list"),
        (spec(more=1), "incomplete or altered"),
        (spec(backbone=3), "backbone must be a name, not 3"),
        (spec(backbone="x" * 10_000), "unknown backbone 'x{79}; choose"),
        (spec(head=["mlp4"]), r"head must be a name, not \['mlp4'\]"),
        (spec(input_size=10**9), "input_size is 1000000000: give a whole number of pixels from 32 to 4096"),
        (spec(input_size=True), "input_size is True"),
        (spec(input_size=64.0), r"input_size is 64\.0"),
        (spec(threshold=True), "threshold is True"),
        (spec(threshold=float("nan")), "threshold is nan"),
        (lambda text: text.replace("0.5", "1e999"), "threshold is inf"),
        (spec(classes=1), "spec has classes, which"),
        (spec(class_names=[]), "spec has class_names, which"),
        (edited(format=2), "format 2, with a spec of format 1"),
        (spec(classes=2, class_names=[]), "format 1, with a spec of format 2"),
        (spec(classes=2), "spec lacks class_names"),
        (edited(format=3), "format 3, this version reads 1 and 2"),
        (of_classes(classes=1, class_names=[]), "spec has classes, which"),
        (of_classes(classes=2.0), r"classes is 2\.0"),
        (of_classes(class_names="ab"), "class_names is no list"),
        (of_classes(class_names=["a"]), "class_names are 1, but classes is 2"),
        (of_classes(class_names=["a", 3]), "a class is named 3"),
        (of_classes(threshold=0.4), r"threshold is 0\.4: a localizer of 2 classes has none"),
        (of_settings({}), "spec has head_settings, which"),
        (of_settings([]), r"head_settings is \[\]"),
        (of_settings({"stride": [8]}), r"head_settings has 'stride': \[8\]"),
        (of_settings({"stride": 8}), "the head mlp4 has no setting 'stride'; it has none"),
        (of_settings({"stride": 8}, head=None), "head_settings are of a head, and there is none"),
        (of_settings({"stride": 3}, head="mscc"), "stride is 3"),
    ],
)
def test_a_document_is_read_strictly(
    edit: Callable[[str], str], said: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    folder = write(tmp_path / "model", edit(files["model.json"].decode()), files["model.safetensors"])
    with pytest.raises(UserError, match=said) as refusal:
        Localizer.load(folder)
    assert str(refusal.value).startswith(f"{folder}/model.json: ")
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 600


def test_what_is_for_the_reader_may_be_missing_and_the_card_may_hold_more(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    document = json.loads(files["model.json"]) | {"card": {"note": {"a": [None]}}}
    del document["sizes"], document["input"]
    read = read_document(write(tmp_path, json.dumps(document)) / "model.json")
    assert read.card == {"note": {"a": [None]}}
    assert read.spec == ModelSpec("hrformer_tiny", "mlp4", 64)


# ---- model.safetensors ----


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name_in_every_dtype(
    dtype: torch.dtype, value: float, files: dict[str, bytes], tmp_path: Path
) -> None:
    def spoil(tensors: Tensors) -> None:
        tensors[WEIGHT] = tensors[WEIGHT].to(dtype)
        tensors[WEIGHT].view(-1)[7] = value

    with pytest.raises(UserError, match=rf"weights are not finite: 1 with NaN or infinity \({WEIGHT}\); the training"):
        Localizer.load(with_blob(files, changed(files, spoil), tmp_path / "model"))


def test_doubles_that_single_precision_cannot_hold_are_not_finite(files: dict[str, bytes], tmp_path: Path) -> None:
    blob = changed(files, lambda tensors: tensors.update({WEIGHT: tensors[WEIGHT].double() * 1e200}))
    with pytest.raises(UserError, match="not finite: 1 with"):
        Localizer.load(with_blob(files, blob, tmp_path / "model"))


def test_half_precision_is_read(files: dict[str, bytes], tmp_path: Path) -> None:
    def halve(tensors: Tensors) -> None:
        tensors.update({name: tensor.half() for name, tensor in tensors.items() if tensor.is_floating_point()})

    model = Localizer.load(with_blob(files, changed(files, halve), tmp_path / "model"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert np.isfinite(model.predict([np.zeros((40, 50, 3), np.uint8)])[0]).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.update({WEIGHT: t[WEIGHT].long()}), rf"1 with numbers of another kind \({WEIGHT}\)"),
        (lambda t: t.update({INDEX: t[INDEX].float()}), "1 with numbers of another kind"),
        (lambda t: t[INDEX].fill_(10**6), "1 that the architecture sets were altered"),
        (lambda t: t.update({WEIGHT: t[WEIGHT].to(torch.complex64)}), "of a dtype that is not read"),
        (lambda t: t.update({WEIGHT: t[WEIGHT].to(torch.float8_e4m3fn)}), "of a dtype that is not read"),
        (lambda t: t.update({WEIGHT: t[WEIGHT].bool()}), "of a dtype that is not read"),
        (lambda t: t.update({"a\nb": torch.zeros(1)}), r"1 unexpected \(a\?b\)"),
        (lambda t: t.update({WEIGHT: t[WEIGHT].flatten()}), rf"1 of another shape \({WEIGHT} \[864\] for"),
    ],
)
def test_tensors_that_no_network_has_are_refused(
    change: Callable[[Tensors], None], said: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said) as refusal:
        Localizer.load(with_blob(files, changed(files, change), tmp_path / "model"))
    assert "\n" not in str(refusal.value)


def header(text: str | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


HUGE = json.dumps({WEIGHT: {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}})


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\x00\x01",
        header("{}", length=2**60),
        header("{}", length=2**31),
        header("{" * 9),
        header("[" * 60_000),
        header("[1]"),
        header('"text"'),
        header('{"a": 1}'),
        header('{"a": {"dtype": "F32"}}'),
        header('{"a": {"dtype": ["F32"], "shape": 7, "data_offsets": 1}}'),
        header('{"a": {}, "a": {}}'),
        header(b"\xff\xfe{}"),
        header(HUGE, bytes(4)),
    ],
)
def test_a_header_that_lies_is_refused(blob: bytes, files: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a safetensors file|do not fit this architecture") as refusal:
        Localizer.load(with_blob(files, blob, tmp_path / "model"))
    assert "\n" not in str(refusal.value)


def test_a_tensor_larger_than_its_data_is_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    blob = files["model.safetensors"]
    (length,) = struct.unpack("<Q", blob[:8])
    facts = json.loads(blob[8 : 8 + length])
    start, _ = facts[WEIGHT]["data_offsets"]
    facts[WEIGHT]["data_offsets"] = [start, start + 2**40]
    with pytest.raises(UserError, match="not a safetensors file"):
        Localizer.load(with_blob(files, header(json.dumps(facts), blob[8 + length :]), tmp_path / "model"))


def test_files_of_any_size_are_refused_by_it_in_little_memory(files: dict[str, bytes], tmp_path: Path) -> None:
    """Sparse files of a terabyte, in a process that may hold no more than it has and 200 MB."""
    weights = write(tmp_path / "weights", files["model.json"])
    os.truncate(weights / "model.safetensors", 2**40)
    document = write(tmp_path / "document", files["model.json"])
    os.truncate(document / "model.json", 2**40)
    script = f"""
import resource, sys
from mpc_model import Localizer
from mpc_model.errors import UserError
used = int(open("/proc/self/statm").read().split()[0]) * {resource.getpagesize()}
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)
for folder in sys.argv[1:]:
    try:
        Localizer.load(folder)
    except UserError as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-c", script, weights, document], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.splitlines()
    assert f"{weights}/model.safetensors: {2**40} bytes, the architecture in model.json has" in first
    assert f"{document}/model.json: {2**40} bytes, a model.json has {DOCUMENT_BYTES} at most" in second


def test_a_registered_folder_of_pipes_is_no_model(files: dict[str, bytes], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.json")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"lacks model\.json"):
        Localizer.load(tmp_path)
