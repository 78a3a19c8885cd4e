"""torch.compile leaves no trace in the weights, and training goes on where it fails."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_runs import at, training

from pipelines.config.root import Config
from pipelines.dataset.order import Cursor
from pipelines.pretrain import Pretraining
from pipelines.training.compile import compile_encoder


@pytest.mark.slow
def test_a_compiled_run_gives_nearly_the_same_losses(trained: Config, tmp_path: Path) -> None:
    plain, compiled = (
        training(at(trained, tmp_path / str(c), f"train.compile={c}"), Pretraining) for c in ("false", "true")
    )
    assert compiled.stage.localizer.encoder._compiled_call_impl is not None
    batch = next(plain.loader.epoch(Cursor()))
    for name, tensor in plain.optimization.module.state_dict().items():
        assert torch.equal(tensor, compiled.optimization.module.state_dict()[name]), name  # trying it out left no trace
    assert compiled._step([batch])["total"] == pytest.approx(plain._step([batch])["total"], rel=0.05)


def test_where_compiling_fails_training_goes_on_with_a_word(
    trained: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def no_compiler(*_: Any, **__: Any) -> None:
        raise torch._dynamo.exc.BackendCompilerFailed(lambda: None, RuntimeError("no C++ compiler"), None)

    torch._dynamo.reset()
    config = at(trained, tmp_path)
    localizer = Pretraining(config).localizer
    monkeypatch.setattr(localizer.encoder, "compile", lambda: nn.Module.compile(localizer.encoder, backend=no_compiler))
    assert not compile_encoder(localizer, config, torch.device("cpu"))
    assert "torch.compile does not work here, training goes on without it" in capsys.readouterr().err
    assert localizer.encoder(torch.zeros(1, 3, 64, 64))[0].shape == (1, 64, 16, 16)
