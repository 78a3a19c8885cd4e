"""The localizer: head arithmetic, prediction of any sizes, and the model directory with its refusals."""

import json
import math
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from support import tiny

from mpc_model.errors import DataError, UserError
from mpc_model.localizer import Localizer, ModelSpec, load_tensors, to_probabilities

SIZES = [(64, 64), (100, 75), (33, 47), (224, 160), (100, 75)]


def photos(sizes: list[tuple[int, int]], seed: int = 0) -> list[np.ndarray]:
    """Smooth random colours with grain."""
    rng = np.random.default_rng(seed)
    return [
        cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (w, h)) // 2 + rng.integers(0, 128, (h, w, 3), np.uint8)
        for h, w in sizes
    ]


def half_pixel_upsampling(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear: the centre of output pixel k lies at (k + 1/2) m / n - 1/2 of the m input pixels, clamped to them."""
    out = np.empty((height, width))
    for row in range(height):
        y = min(max((row + 0.5) * logits.shape[0] / height - 0.5, 0), logits.shape[0] - 1)
        for column in range(width):
            x = min(max((column + 0.5) * logits.shape[1] / width - 0.5, 0), logits.shape[1] - 1)
            out[row, column] = sum(
                (1 - abs(y - yy)) * (1 - abs(x - xx)) * logits[yy, xx]
                for yy in {math.floor(y), math.ceil(y)}
                for xx in {math.floor(x), math.ceil(x)}
            )
    return out


# ---- prediction ----


@pytest.mark.parametrize("input_size", [None, 64])
def test_prediction_follows_the_input_rule(input_size: int | None) -> None:
    model, (image,) = tiny(input_size), photos([(45, 70)])
    (got,) = model.predict([image])
    fed = image if input_size is None else cv2.resize(image, (64, 64), interpolation=cv2.INTER_LINEAR)
    with torch.no_grad():
        logits = model(torch.tensor(fed.transpose(2, 0, 1)[None] / 255, dtype=torch.float32))
    assert logits.shape == ((1, 1, 12, 18) if input_size is None else (1, 1, 16, 16))
    expected = 1 / (1 + np.exp(-half_pixel_upsampling(logits[0, 0].double().numpy(), 45, 70)))
    assert expected.std() > 0.001
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("input_size", [None, 64])
def test_maps_come_in_order_at_their_images_sizes_whatever_the_batch(input_size: int | None) -> None:
    model, images = tiny(input_size), photos(SIZES)
    maps = model.predict(images, batch_size=3)
    assert [m.shape for m in maps] == SIZES
    assert all(m.dtype == np.float32 and 0 <= m.min() < m.max() <= 1 for m in maps)
    for image, together in zip(images, maps, strict=True):
        (alone,) = model.predict([image])
        np.testing.assert_allclose(together, alone, atol=1e-5)
    assert not np.allclose(maps[1], maps[4], atol=1e-4)  # the same size, another image


def test_views_and_images_under_32_pixels_are_predicted_too() -> None:
    (image,) = photos([(40, 52)])
    model = tiny(None)
    flipped, small = model.predict([image[:, ::-1], image[:5, :3]])
    np.testing.assert_allclose(flipped, model.predict([image[:, ::-1].copy()])[0], atol=1e-6)
    assert small.shape == (5, 3)


def test_no_images_give_no_maps() -> None:
    assert tiny().predict([]) == []


def test_probabilities_are_those_of_predict() -> None:
    model, (image,) = tiny(None), photos([(64, 48)])
    with torch.no_grad():
        got = model.probabilities(torch.tensor(image.transpose(2, 0, 1)[None] / 255, dtype=torch.float32), (64, 48))
    np.testing.assert_allclose(got[0], model.predict([image])[0], atol=1e-6)


def test_probabilities_are_float32_from_half_precision_logits() -> None:
    assert to_probabilities(torch.zeros(1, 1, 2, 2, dtype=torch.bfloat16), (3, 3)).dtype == torch.float32


def test_bf16_maps_are_float32_and_near_those_of_fp32() -> None:
    model, images = tiny(), photos(SIZES)
    exact, rough = model.predict(images), model.predict(images, precision="bf16")
    differences = [np.abs(a - b).max() for a, b in zip(exact, rough, strict=True)]
    assert all(map_.dtype == np.float32 for map_ in rough)
    assert 0 < max(differences) < 0.3
    for map_, again in zip(exact, model.predict(images), strict=True):
        np.testing.assert_array_equal(map_, again)  # nothing of it stays
    with pytest.raises(UserError, match=r"precision is 'fp16': give one of fp32, bf16"):
        model.predict(images, precision="fp16")


def test_the_pixels_of_a_batch_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = tiny(64), []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda x, *frame: batches.append(len(x)) or forward(x, *frame))
    for pixels, expected in ((10 * 64 * 64, [4, 1]), (3 * 64 * 64, [3, 2]), (1, [1] * 5)):
        batches.clear()
        logits = model.logits(photos([(40, 52)] * 5), batch_size=4, batch_pixels=pixels)
        assert batches == expected
        assert [tuple(of_image.shape) for of_image in logits] == [(1, 1, 16, 16)] * 5


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("size", "tile"), [((64, 64), 0), ((32, 1100), 256)])
def test_an_answer_that_is_not_finite_is_no_map(value: float, size: tuple[int, int], tile: int) -> None:
    """Minus infinity would be a probability of 0 everywhere: nothing forged."""
    model = tiny(None)
    torch.nn.init.constant_(model.decoder.classifier[-1].bias, value)
    images = photos([size, size])
    with pytest.raises(DataError, match=r"^image 0: the model's answer is not finite, so there is no map"):
        model.predict(images, tile=tile)
    with pytest.raises(DataError, match=r"^second: "):
        model.predict(images[1:], tile=tile, names=["second"])


def test_predict_leaves_every_module_in_its_mode_even_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny().train()
    model.encoder.eval()
    model.predict(photos([(64, 64)]))
    assert (model.training, model.encoder.training, model.decoder.training) == (True, False, True)

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model, "features", fail)
    with pytest.raises(RuntimeError):
        model.predict(photos([(64, 64)]))
    assert (model.training, model.encoder.training, model.decoder.training) == (True, False, True)


def test_predict_writes_nothing_to_a_model_in_eval_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = tiny(), photos(SIZES)

    def refuse(module: torch.nn.Module, name: str, value: object) -> None:
        raise AssertionError(f"{type(module).__name__}.{name} is written: another thread may be predicting")

    monkeypatch.setattr(torch.nn.Module, "__setattr__", refuse)
    assert len(model.predict(images)) == len(SIZES)


def test_threads_that_share_a_model_get_the_maps_of_one() -> None:
    model, images = tiny(None), photos(SIZES)
    expected = model.predict(images)
    with ThreadPoolExecutor(8) as pool:
        for maps in pool.map(lambda _: model.predict(images), range(24)):
            for got, map_ in zip(maps, expected, strict=True):
                np.testing.assert_array_equal(got, map_)


def test_predict_ignores_train_mode() -> None:
    model, images = tiny(), photos(SIZES)
    expected = model.predict(images)
    for got, map_ in zip(model.train().predict(images), expected, strict=True):
        np.testing.assert_array_equal(got, map_)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((64, 64), np.uint8), r"image 1 is uint8 \(64, 64\)"),
        (np.zeros((64, 64, 4), np.uint8), r"\(64, 64, 4\)"),
        (np.zeros((64, 64, 3), np.float32), "float32"),
        (np.zeros((0, 64, 3), np.uint8), r"\(0, 64, 3\)"),
        ([[0, 0, 0]], "image 1 is a list"),
    ],
)
def test_anything_but_uint8_rgb_is_refused(image: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        tiny().predict([np.zeros((64, 64, 3), np.uint8), image])


def test_a_localizer_without_head_gives_features_but_no_prediction() -> None:
    model = tiny(head=None)
    assert [f.shape[1] for f in model.features(torch.rand(1, 3, 64, 64))] == [64] * 4
    with pytest.raises(UserError, match="no head"):
        model.predict(photos([(64, 64)]))


def test_a_batch_size_of_zero_is_refused() -> None:
    with pytest.raises(UserError, match="batch_size is 0"):
        tiny().predict([], batch_size=0)


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"input_size": 16}, "input_size is 16"),
        ({"input_size": "512"}, "input_size is '512'"),
        ({"threshold": 1.0}, "threshold is 1.0"),
        ({"threshold": float("nan")}, "threshold is nan"),
    ],
)
def test_a_spec_with_impossible_values_is_refused(kwargs: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        ModelSpec(**{"backbone": "hrformer_tiny", "head": "mlp4", "input_size": 64, **kwargs})


@pytest.mark.parametrize(("backbone", "head"), [("hrformer_bas", "mlp4"), ("hrformer_tiny", "mlp6")])
def test_unknown_names_are_refused_with_the_nearest(backbone: str, head: str) -> None:
    with pytest.raises(UserError, match="did you mean"):
        Localizer(ModelSpec(backbone, head, 64))


# ---- the model directory ----


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny(64, seed=3)
    model.card = {"dataset": "f00d", "metrics": {"f1": 0.5}}
    folder = tmp_path_factory.mktemp("models") / "deep" / "model"
    model.save(folder)
    return folder


@pytest.mark.parametrize("head", ["mlp4", "mlp5", None])
def test_what_is_saved_is_loaded(head: str | None, tmp_path: Path) -> None:
    model = tiny(None, head, seed=5).train()
    model.card = {"dataset": "f00d", "metrics": {"f1": 0.5}}
    model.save(tmp_path / "model")
    loaded = Localizer.load(str(tmp_path / "model"))
    assert loaded.spec == model.spec
    assert loaded.card == model.card
    assert not any(module.training for module in loaded.modules())
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    if head:
        images = photos(SIZES[:2])
        for a, b in zip(model.predict(images), loaded.predict(images), strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_directory_holds_two_files_and_the_same_model_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    assert sorted(p.name for p in saved.iterdir()) == ["model.json", "model.safetensors"]
    Localizer.load(saved).save(tmp_path)
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes()


def test_the_document_says_what_the_model_is(saved: Path) -> None:
    document = json.loads((saved / "model.json").read_text())
    assert document["format"] == 1
    assert document["spec"] == {"backbone": "hrformer_tiny", "head": "mlp4", "input_size": 64, "threshold": 0.5}
    assert document["sizes"]["channels"] == [16, 32, 64, 128]
    assert document["card"] == {"dataset": "f00d", "metrics": {"f1": 0.5}}
    names = safetensors.torch.load_file(saved / "model.safetensors").keys()
    assert {name.split(".")[0] for name in names} == {"encoder", "decoder"}


def test_a_save_cut_short_leaves_no_model_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(source: Path, target: Path) -> None:
        if target.name == "model.json":
            raise OSError("host lost")
        shutil.move(source, target)

    first, second = tiny(seed=1), tiny(seed=2)
    first.save(tmp_path / "over")
    monkeypatch.setattr(os, "replace", replace)
    for folder, said in ((tmp_path / "new", "lacks model.json"), (tmp_path / "over", "sha256")):
        with pytest.raises(OSError, match="host lost"):
            second.save(folder)
        assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []
        with pytest.raises(UserError, match=said):
            Localizer.load(folder)


def edit_json(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        document = json.loads((folder / "model.json").read_text()) | changes
        (folder / "model.json").write_text(json.dumps(document))

    return edit


def flip_last_byte(folder: Path) -> None:
    blob = bytearray((folder / "model.safetensors").read_bytes())
    blob[-1] ^= 1
    (folder / "model.safetensors").write_bytes(blob)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shutil.rmtree, "no such model directory"),
        (lambda folder: (folder / "model.json").unlink(), "lacks model.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "lacks model.safetensors"),
        (lambda folder: (folder / "model.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "model.json").write_bytes(b"\xff\xfe\xfa"), "not JSON"),
        (lambda folder: (folder / "model.json").write_text("[]"), "not the model.json of an mpc-localizer"),
        (edit_json(architecture="resnet"), "not the model.json of an mpc-localizer"),
        (edit_json(format=3), "format 3, this version reads 1"),
        (edit_json(spec={"backbone": "hrformer_tiny"}), "incomplete or altered"),
        (edit_json(spec=None), "incomplete or altered"),
        (
            edit_json(spec={"backbone": "hrformer_huge", "head": "mlp4", "input_size": 64}),
            "unknown backbone 'hrformer_huge'",
        ),
        (
            edit_json(spec={"backbone": "hrformer_tiny", "head": "mlp5", "input_size": 64}),
            r"7 missing \(decoder.classifier.12.*2 of another shape \(decoder.classifier.11",
        ),
        (edit_json(sha256="0" * 64), "sha256 is not the one"),
        (flip_last_byte, "sha256 is not the one"),
    ],
)
def test_a_spoilt_directory_is_refused(spoil: Callable[[Path], None], said: str, saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    spoil(folder)
    with pytest.raises(UserError, match=said) as refusal:
        Localizer.load(folder)
    assert "\n" not in str(refusal.value)


def test_tensors_that_do_not_fit_are_named_a_handful_at_a_time() -> None:
    model = tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = dict(before)
    gone = sorted(name for name in tensors if name.startswith("encoder.layer1."))
    for name in gone:
        del tensors[name]
    tensors["extra"] = torch.zeros(1)
    tensors["decoder.classifier.0.weight"] = torch.zeros(7)
    with pytest.raises(UserError) as refusal:
        load_tensors(model, tensors, "weights.pth")
    message = str(refusal.value)
    assert message.startswith("weights.pth: ")
    assert f"{len(gone)} missing ({', '.join(gone[:5])}, ...)" in message
    assert "1 unexpected (extra)" in message
    assert "1 of another shape (decoder.classifier.0.weight [7] for [256])" in message
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
