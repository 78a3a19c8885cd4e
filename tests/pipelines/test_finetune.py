"""Stage 2: what it starts from, and what it leaves as it is."""

from pathlib import Path

import pytest
import torch
from training_runs import at, training

from mpc_model.errors import UserError
from mpc_model.localizer import Localizer
from pipelines.config.root import Config
from pipelines.dataset.order import Cursor
from pipelines.finetune import Finetuning, finetune
from pipelines.runtime import storage


def test_stage_2_starts_from_what_it_is_told(trained: Config, tmp_path: Path) -> None:
    uri = str(Path(str(trained.finetune.output), "model"))
    whole = Finetuning(at(trained, tmp_path, "finetune.start=localizer", f"finetune.encoder={uri}", verb="finetune"))
    for name, tensor in Localizer.load(uri).state_dict().items():
        assert torch.equal(tensor, whole.localizer.state_dict()[name]), name
    missing = [f"finetune.encoder={tmp_path / 'nothing'}", "finetune.start=scratch", "finetune.unfreeze=all"]
    config = at(trained, tmp_path, *missing, verb="finetune")
    finetune(config)
    model = Localizer.load(Path(str(config.finetune.output), "model"))
    assert [one["uri"] for one in model.card["trained_on"]] == [str(config.train.dataset)]


def test_a_stage_1_encoder_is_no_localizer_to_start_from(trained: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stage-1 encoder without a head"):
        finetune(at(trained, tmp_path, "finetune.start=localizer", verb="finetune"))


def test_a_frozen_backbone_has_no_graph_and_no_new_statistics(trained: Config, tmp_path: Path) -> None:
    state = training(at(trained, tmp_path, verb="finetune"), Finetuning)
    before = {name: tensor.clone() for name, tensor in state.stage.localizer.encoder.state_dict().items()}
    saved: list[torch.Size] = []
    batch = next(state.loader.epoch(Cursor()))
    state.optimization.parallel.train()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        maps = state.optimization.module.features(batch.to(torch.device("cpu")))
    assert saved == []
    assert not any(level.requires_grad for level in maps)
    state._step([batch])
    for name, tensor in state.stage.localizer.encoder.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_cache_that_cannot_be_written_is_refused_before_anything_starts(trained: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    config = at(trained, tmp_path, f"finetune.cache={tmp_path / 'file' / 'cache'}", verb="finetune")
    with pytest.raises(UserError, match="file/cache"):
        finetune(config)
    assert not storage.folder_exists(str(config.finetune.output))


def test_stage_2_does_not_change_the_encoder(trained: Config) -> None:
    before = Localizer.load(Path(str(trained.pretrain.output), "model")).encoder.state_dict()
    after = Localizer.load(Path(str(trained.finetune.output), "model")).encoder.state_dict()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name


def test_an_encoder_of_another_architecture_is_refused(trained: Config, tmp_path: Path) -> None:
    config = at(trained, tmp_path, "model.backbone=hrformer_small", verb="finetune")
    with pytest.raises(UserError, match=r"hrformer_tiny.*hrformer_small.*model\.backbone"):
        finetune(config)
    assert not (tmp_path / "finetune").exists()


def test_a_missing_encoder_is_refused(trained: Config, tmp_path: Path) -> None:
    config = at(trained, tmp_path, f"finetune.encoder={tmp_path / 'none'}", verb="finetune")
    with pytest.raises(UserError, match=r"none.*mpc pretrain"):
        finetune(config)
