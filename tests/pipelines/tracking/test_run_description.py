"""Runs are called what they are, and show the parameters that their commands read."""

import pytest

from pipelines.config import recipe
from pipelines.tracking import run_description

CONFIG = recipe.load(
    None,
    [
        "build.sources=[{name: casia, layout: pairs, location: a}, {name: coverage, layout: pairs, location: b}]",
        "model={backbone: hrformer_tiny, head: mlp4}",
        "tracking.uri=http://ann:secret@127.0.0.1:9",
    ],
)


@pytest.mark.parametrize(
    ("verb", "name", "sections"),
    [
        ("build", "build casia coverage", {"build"}),
        ("pretrain", "pretrain hrformer_tiny", {"model", "train", "pretrain"}),
        ("finetune", "finetune hrformer_tiny mlp4", {"model", "train", "finetune"}),
        ("tune", "tune hrformer_tiny mlp4", {"model", "train", "tune"}),
        ("evaluate", "evaluate", {"evaluate"}),
        ("register", "register mpc-localizer", {"register"}),
        ("trial", "trial", {"model", "train"}),
    ],
)
def test_a_run_has_a_name_and_the_parameters_of_its_command(verb: str, name: str, sections: set[str]) -> None:
    assert run_description.name_of(CONFIG, verb) == name
    values = run_description.parameters(CONFIG, verb)
    assert {key.partition(".")[0] for key in values} == {"seed", "workspace"} | sections
    assert "secret" not in str(values)
