"""docs/extending.md: its examples run as they stand on the page."""

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
SECTIONS = {
    title: re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
}
CHECKS = {
    "A backbone": """
        maps = localizer.eval().features(torch.rand(1, 3, 65, 33))
        assert [tuple(level.shape[2:]) for level in maps] == [(17, 9), (9, 5), (5, 3), (3, 2)]
        localizer.save("encoder")
        again = Localizer.load("encoder")
        for name, tensor in localizer.state_dict().items():
            assert (tensor == again.state_dict()[name]).all()
        assert 0 < losses["total"]
        """,
    "A head": """
        import numpy as np
        from mpc_model.localizer import Localizer, ModelSpec
        localizer = Localizer(ModelSpec("hrformer_tiny", "sum", 64)).eval()
        (found,) = localizer.predict([np.zeros((70, 50, 3), np.uint8)])
        assert found.shape == (70, 50)
        """,
    "A stage-1 objective": """
        import torch
        from mpc_model.losses.contrast import multi_view_contrast
        maps = [torch.rand(1, 8, size, size, requires_grad=True) for size in (16, 8, 4, 2)]
        mask = torch.zeros(1, 16, 16, dtype=torch.uint8)
        mask[:, :8] = 1
        losses = multi_view_contrast(maps, maps, mask, generator=torch.Generator().manual_seed(0), form="apart")
        losses["total"].backward()
        assert losses["total"] == losses["within_image"] > 0
        assert maps[0].grad.abs().sum() > 0
        """,
    "A sampler": """
        import torch
        from mpc_model.losses.sampling import Draws, Pixels, RandomKeys
        features = torch.nn.functional.normalize(torch.rand(2, 50, 4), dim=2)
        pixels = Pixels(features, torch.arange(50).expand(2, 50) % 2)
        draws = Draws(SAMPLERS["certain"], {"all": pixels}, RandomKeys(torch.tensor(0)), count=10)
        taken = draws("all", 1)
        chosen = draws.gathered()(taken)
        assert chosen.counts.tolist() == [10, 10]
        assert all(row in features[0, 1::2].tolist() for row in chosen.features[0].tolist())
        """,
    "A stage-2 loss": """
        labels = torch.tensor([[[0, 1, 255, 1]]], dtype=torch.uint8)
        logits = torch.zeros(1, 1, 1, 4, requires_grad=True)
        brier(logits, labels, None).backward()
        assert brier(logits, labels, None) == 0.25
        torch.testing.assert_close(logits.grad[0, 0, 0], torch.tensor([1.0, -1.0, 0.0, -1.0]) / 12)
        assert brier(torch.zeros(1, 2, 1, 4), labels, None) == 0.5
        assert brier(logits, torch.full_like(labels, 255), None) == 0
        """,
    "A supervision": """
        import torch
        from pipelines.config import recipe
        from pipelines.dataset.batch import DeviceBatch
        from pipelines.finetune import Finetuning
        from pipelines.training.stage import Steps
        model = "model={backbone: hrformer_tiny, input_size: 64}"
        settings = "finetune={start: scratch, unfreeze: all, supervision: share}"
        module = Finetuning(recipe.load(None, [model, settings])).module.train()
        masks = torch.zeros(2, 64, 64, dtype=torch.uint8)
        masks[0, :32] = 1
        losses = module(DeviceBatch(torch.rand(2, 3, 64, 64), masks), torch.tensor(0), Steps.at(1, 4))
        losses["total"].backward()
        assert losses["weight"] == 0.25
        assert all(one.grad is not None for one in module.decoder.parameters())
        """,
    "An adaptation": """
        from mpc_model.localizer import Localizer, ModelSpec
        from pipelines.config import recipe
        from pipelines.dataset.batch import DeviceBatch
        from pipelines.training.stage import Steps
        localizer = Localizer(ModelSpec("hrformer_tiny", "mlp4", 64))
        module = ADAPTATIONS["entropy"](localizer, recipe.load(None, ["adapt.method=entropy"]))
        source, target = torch.rand(2, 2, 3, 64, 64)
        inputs = DeviceBatch(source, (source[:, 0] > 0.5).to(torch.uint8), second_images=target)
        losses = module(inputs, torch.tensor(1), Steps.at(5, 10))
        losses["total"].backward()
        assert 0 < losses["entropy"] < 0.7
        assert all(parameter.grad is not None for parameter in module.parameters())
        """,
    "A forgery kind": """
        import numpy as np
        from mpc_model.imaging.forging import ForgeSettings, forge
        photo = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
        forged = forge("blur", photo, photo, np.random.default_rng(1), ForgeSettings())
        assert (forged.image[forged.mask == 0] == photo[forged.mask == 0]).all()
        assert 0.05 <= forged.mask.mean() <= 0.35
        """,
    "A view policy": """
        from mpc_model.imaging.codecs import decode_image
        from mpc_model.imaging.views import render_views
        image = np.full((40, 40, 3), 200, np.uint8)
        mask, rng = np.zeros((40, 40), np.uint8), np.random.default_rng(0)
        original, second = render_views(encode_png(image), image, mask, "darker", 2, rng)
        assert original.ops == []
        assert 100 <= decode_image(second.image_bytes, "x").mean() <= 180
        """,
    "A degradation": """
        from mpc_model.evaluation.robustness import curves
        from mpc_model.imaging.degradations import degradation
        image = np.full((4, 4, 3), 200, np.uint8)
        found, region = degradation("darker0.5")(image, np.random.default_rng(0))
        assert (found == 100).all()
        (curve,) = curves({"darker0.5": 0.4, "darker0.8": 0.8}, 1.0)
        assert curve.strengths == [1, 0.8, 0.5]
        """,
    "A source layout": """
        train = manifest.splits["train"]
        assert (train.samples, train.forged) == (2, 2)
        assert (train.pixels.authentic, train.pixels.forged) == (7680, 512)
        """,
}


def test_every_section_has_an_example_and_a_check() -> None:
    assert list(SECTIONS) == list(CHECKS)
    assert all(SECTIONS.values())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the examples run: two photographs with their masks."""
    random = np.random.default_rng(3)
    (tmp_path / "pictures").mkdir()
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / "pictures" / f"{name}.jpg"), random.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        mask = np.zeros((64, 64), np.uint8)
        mask[8:24, 8:24] = 255
        cv2.imwrite(str(tmp_path / "pictures" / f"{name}.mask.png"), mask)
    return tmp_path


def test_the_examples_run(folder: Path) -> None:
    lines = []
    for title, blocks in SECTIONS.items():
        lines += ["names = {}"]
        lines += [f"exec({block!r}, names)" for block in (*blocks, _unindented(CHECKS[title]))]
        lines += [f"print({title!r}, flush=True)"]
    script = folder / "examples.py"
    script.write_text("\n".join(lines))
    done = subprocess.run([sys.executable, str(script)], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines() == list(SECTIONS), done.stderr


def _unindented(text: str) -> str:
    return "\n".join(line.removeprefix(" " * 8) for line in text.splitlines())
