"""What a version shows on MLflow's pages that compare: the settings that led to it, and metrics under names it takes.

That they are written, and once, is in tests/pipelines/test_register.py.
"""

import dataclasses

import yaml
from support import tiny
from versions import CLASSES, METRICS

from pipelines.model_registry import version_run
from pipelines.model_registry.lineage import Link
from pipelines.model_registry.version_metrics import as_numbers

CONFIG = {
    "seed": 3,
    "train": {"batch_size": 8, "dataset": "/data", "workers": 2},
    "pretrain": {"temperature": 0.1, "output": "/out", "epochs": 5},
    "finetune": {"learning_rate": 0.01, "encoder": "/model", "part_weights": {"mask": 1.0}},
}


def test_hyperparameters_are_of_the_network_and_of_each_stage_without_locations() -> None:
    links = [Link(name, "run", "gone", 7, yaml.safe_dump(CONFIG).encode()) for name in ("finetune-2", "pretrain")]
    found = version_run.hyperparameters(tiny(), links)
    assert found.pop("model.parameters").isdigit()
    assert found == {
        "model.backbone": "hrformer_tiny",
        "model.head": "mlp4",
        "model.input_size": "64",
        "model.classes": "1",
        "finetune-2.learning_rate": "0.01",
        "finetune-2.batch_size": "8",
        "finetune-2.workers": "2",
        "finetune-2.seed": "3",
        "pretrain.temperature": "0.1",
        "pretrain.epochs": "5",
        "pretrain.batch_size": "8",
        "pretrain.workers": "2",
        "pretrain.seed": "3",
    }


def test_metrics_have_names_of_their_set_and_what_is_not_defined_is_left_out() -> None:
    interval = {"f1": {"low": 0.4, "high": 0.6}}
    metrics = dataclasses.replace(METRICS, intervals=interval, robustness={"jpeg70": 0.3, "blur": None})  # type: ignore[arg-type]
    numbers = as_numbers(metrics)
    assert (numbers["f1"], numbers["f1.low"], numbers["f1.high"], numbers["robustness.jpeg70"]) == (0.5, 0.4, 0.6, 0.3)
    assert not {"robustness.blur", "constant_map.f1"} & numbers.keys()
    classes = as_numbers(dataclasses.replace(CLASSES, by_class={"left": 0.7}))
    assert (classes["foreground_dice"], classes["untrained.dice"], classes["by_class.left.iou"]) == (0.5, 0.1, 0.7)
    assert version_run._allowed("a+b/test") == "a_b/test"
