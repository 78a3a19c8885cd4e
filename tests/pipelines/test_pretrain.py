"""Stage 1: its passes, a learned temperature, and settings that do not fit the dataset."""

from pathlib import Path

import pytest
import torch
from training_runs import at, run, step_metrics, training, weights

from mpc_model.errors import UserError
from pipelines.artifacts import checkpoint
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.order import Cursor
from pipelines.pretrain import Pretraining, pretrain


@pytest.mark.parametrize(("weights", "passes"), [("[1.0, 1.0, 1.0]", 2), ("[1.0, 1.0, 0.0]", 1)])
def test_there_is_no_second_pass_for_a_loss_that_weighs_nothing(
    trained: Config, tmp_path: Path, weights: str, passes: int
) -> None:
    state = training(at(trained, tmp_path, f"pretrain.weights={weights}"), Pretraining)
    batch = next(state.loader.epoch(Cursor()))
    seen: list[int] = []
    state.stage.localizer.encoder.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    values = step_metrics(state, [batch])
    assert seen == [passes * len(batch.ids)]
    assert values["total"] == pytest.approx(
        values["within_image"] + values["cross_scale"] + (values["cross_modality"] if passes == 2 else 0), rel=1e-5
    )


def test_a_learned_temperature_moves_and_survives_an_interruption(trained: Config, tmp_path: Path) -> None:
    more = ["pretrain.learn_temperature=true", "train.checkpoint_every=2"]
    config = at(trained, tmp_path, *more)
    run(config, Pretraining, stop_after=3)
    found = checkpoint.latest(str(config.pretrain.output))
    assert found is not None
    stored = found[1]["module"]["log_temperature"]
    assert stored.exp().item() != pytest.approx(0.1, rel=1e-6)
    assert torch.equal(training(config, Pretraining).optimization.module.log_temperature, stored)
    assert "log_temperature" not in weights(config.pretrain.output)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("pretrain.negatives=ranks", r"negatives is ranks, but train\.workers is at most one"),
        ("pretrain.second_pass=view", r"second_pass is view, but the dataset stores one view.*build\.views\.count"),
        ("pretrain.second_pass=view pretrain.weights=[1.0,1.0,0.0]", r"second_pass is view.*(one view|weight 0)"),
        ("pretrain.sampler=borderline", r"unknown sampler 'borderline'.*boundary"),
    ],
)
def test_settings_that_do_not_fit_the_dataset_are_refused(
    built: Config, trained: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: str, words: str
) -> None:
    manifest = Manifest.read(str(trained.train.dataset)).model_copy(update={"views": 1})
    monkeypatch.setattr(Manifest, "read", lambda uri: manifest)
    with pytest.raises(UserError, match=words):
        pretrain(at(trained, tmp_path, *overrides.split()))
    assert not (tmp_path / "pretrain").exists()


def test_a_folder_is_no_published_checkpoint(trained: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pretrain\.initial .* is a folder"):
        pretrain(at(trained, tmp_path, f"pretrain.initial={tmp_path}", verb="pretrain"))
