"""A stage as a trainer of Ray Train; test_launch.py fits one."""

from pathlib import Path

import pytest
from ray.train.torch import TorchTrainer
from training_runs import at

from mpc_model.errors import UserError
from pipelines import finetune, pretrain
from pipelines.config.root import Config


def test_a_trainer_is_set_up_as_the_config_says(trained: Config, tmp_path: Path) -> None:
    more = {
        "workers": "[1, 2]",
        "max_failures": 5,
        "preemption_grace_s": 30.0,
        "relax_collectives_on_preemption": "true",
        "placement_strategy": "SPREAD",
        "label_selector": "{zone: a}",
        "collective_timeout_s": 60,
        "nccl": "{NCCL_IB_DISABLE: 1}",
    }
    trainer = pretrain.trainer(at(trained, tmp_path, *(f"train.{key}={value}" for key, value in more.items())))
    assert isinstance(trainer, TorchTrainer)
    scaling, run = trainer.scaling_config, trainer.run_config
    assert (scaling.num_workers, scaling.placement_strategy, scaling.label_selector) == (
        (1, 2),
        "SPREAD",
        {"zone": "a"},
    )
    assert trainer.backend_config.timeout_s == 60
    failures = run.failure_config
    assert (failures.max_failures, failures.preemption_grace_s) == (5, 30.0)
    assert failures.relax_collectives_on_preemption
    assert run.worker_runtime_env == {"env_vars": {"NCCL_IB_DISABLE": "1"}}
    assert run.storage_context.experiment_fs_path == str(tmp_path / "pretrain" / "checkpoints")
    assert not (tmp_path / "pretrain").exists()  # nothing is written before `fit`


def test_training_in_this_process_has_no_trainer(trained: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.workers is 0: .*call pipelines\.finetune\.finetune\(config\)"):
        finetune.trainer(at(trained, tmp_path, "train.workers=0"))
