"""Two of a command on one output at once: the second is refused in one line, and the first is not disturbed."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_backbone import Pyramid
from torch import Tensor

from mpc_model.errors import UserError
from mpc_model.localizer import Localizer, ModelSpec
from mpc_model.nn.backbone import BACKBONES
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.evaluate import evaluate
from pipelines.predict import predict
from pipelines.runtime import lease

COMMANDS: dict[str, Callable[[Config], Any]] = {"evaluate": evaluate, "predict": predict}


class Waiting(Pyramid):
    """A backbone that says when it is asked, and answers when it may."""

    asked, may_answer = threading.Event(), threading.Event()

    def forward(self, images: Tensor, frame: object = None) -> list[Tensor]:
        self.asked.set()
        assert self.may_answer.wait(60)
        return super().forward(images)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model directory of that backbone."""
    monkeypatch.setitem(BACKBONES._entries, "waiting", Waiting)
    monkeypatch.setattr(Waiting, "asked", threading.Event())
    monkeypatch.setattr(Waiting, "may_answer", threading.Event())
    torch.manual_seed(0)
    Localizer(ModelSpec("waiting", "mlp4", 64)).save(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_second_is_refused_and_a_finished_output_needs_no_lease(
    built: Config, photos: Path, model: str, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.06)
    output = tmp_path / "out"
    settings = [f"{verb}.model={model}", f"{verb}.output={output}", f"{verb}.workers=0", f"workspace={tmp_path}"]
    of_verb = {
        "evaluate": [f"evaluate.dataset={built.build.output}", "evaluate.robustness=[]", "evaluate.pictures=0"],
        "predict": [f"predict.input={photos}", "predict.overlays=false"],
    }
    config = recipe.load(None, [*settings, *of_verb[verb]])
    results = list[Any]()
    first = threading.Thread(target=lambda: results.append(COMMANDS[verb](config)))
    first.start()
    try:
        assert Waiting.asked.wait(60)
        words = rf", process \d+, is writing {output} at this moment; .* or name another {verb}\.output"
        with pytest.raises(UserError, match=words):
            COMMANDS[verb](config)
    finally:
        Waiting.may_answer.set()
        first.join(60)
    assert len(results) == 1
    assert not (output / "lease").exists()
    capsys.readouterr()
    with lease.held(str(output), "build"):
        assert COMMANDS[verb](config) == results[0]
    assert f"{verb}: reusing the finished" in capsys.readouterr().err
