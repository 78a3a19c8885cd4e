"""The pages name every config key, layout, sampler, reason code, column and parameter that users meet."""

import dataclasses
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

import pytest
from support import tiny

from mpc_model.imaging.class_mix import MIXES
from mpc_model.imaging.codecs import MASK_RULES
from mpc_model.imaging.forging import ForgeSettings
from mpc_model.losses.gaussian_similarity import SIMILARITIES
from mpc_model.losses.prototypes import PROTOTYPES
from mpc_model.losses.sampling import SAMPLERS
from pipelines import cli
from pipelines.config.build import ForgeConfig, SourceConfig
from pipelines.config.model_registry import EvaluateConfig, PromoteConfig, RegisterConfig
from pipelines.config.search import Range, TuneConfig
from pipelines.config.training import AdaptConfig, FinetuneConfig, OptimConfig, PretrainConfig, TrainConfig
from pipelines.dataset import rejects
from pipelines.ingest import plan
from pipelines.ingest.listing import LAYOUTS
from pipelines.register import signature
from pipelines.training.adaptation import ADAPTATIONS

DOCS = Path(__file__).parents[2] / "docs"
DATASETS, TRAINING, REGISTRY, SERVING, SEARCH, ADAPTATION = (
    (DOCS / f"{name}.md").read_text() for name in ("datasets", "training", "registry", "serving", "tuning", "pppc")
)


@pytest.mark.parametrize(
    "names",
    [LAYOUTS, MASK_RULES, rejects.REASONS, ForgeConfig.model_fields, SourceConfig.model_fields, plan.KINDS[1:]],
)
def test_every_name_is_documented(names: Iterable[str]) -> None:
    assert [name for name in names if not {f"`{name}`", f"{name}:"} & set(re.findall(r"`\w+`|\w+:", DATASETS))] == []


@pytest.mark.parametrize(
    "names", [TrainConfig.model_fields, PretrainConfig.model_fields, FinetuneConfig.model_fields, SAMPLERS]
)
def test_every_setting_of_training_is_documented(names: Iterable[str]) -> None:
    documented = set(re.findall(r"`(\w+)`", TRAINING))
    assert [name for name in names if name not in documented | {"dataset", "output"}] == []


def test_every_setting_of_adaptation_is_documented() -> None:
    documented = set(re.findall(r"`(\w+)`", ADAPTATION))
    own = AdaptConfig.model_fields.keys() - OptimConfig.model_fields.keys()
    names = [*own, *ADAPTATIONS, *MIXES, *SIMILARITIES, *PROTOTYPES]
    assert [name for name in names if name not in documented] == []


@pytest.mark.parametrize(
    "names",
    [EvaluateConfig.model_fields, RegisterConfig.model_fields, PromoteConfig.model_fields],
)
def test_every_setting_of_the_registry_is_documented(names: Iterable[str]) -> None:
    documented = set(re.findall(r"`(\w+)`", REGISTRY))
    assert [name for name in names if name not in documented | {"dataset", "output"}] == []


def test_every_parameter_and_column_of_the_registered_model_is_documented() -> None:
    model = signature(tiny())
    names = [field.name for field in (*model.params.params, *model.outputs.inputs)]
    assert [name for name in names if name not in set(re.findall(r"`(\w+)`", SERVING))] == []


def test_the_forging_table_states_the_real_defaults_and_bounds() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+ \| [^|]+) \|", DATASETS, re.MULTILINE))
    for setting in dataclasses.fields(ForgeSettings):
        if setting.name == "attempts":
            continue
        default = (
            "{:g} to {:g}".format(*setting.default) if isinstance(setting.default, tuple) else f"{setting.default:g}"
        )
        bounds = f"{setting.metadata['minimum']:g} to {setting.metadata['maximum']:g}"
        assert rows[setting.name] == f"{default} | {bounds}", setting.name


def test_every_setting_of_a_search_is_documented() -> None:
    documented = set(re.findall(r"`(\w+)`", SEARCH)) | {"least", "most", "log"}
    assert [name for name in (*TuneConfig.model_fields, *Range.model_fields) if name not in documented] == []


def test_every_command_of_a_page_is_one_of_the_command_line() -> None:
    root, commands = DOCS.parent, list[str]()
    for page in (*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("infra/**/*.md")):
        text = page.read_text().replace("\\\n", " ")
        blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```|^( {4}\S.*?)$", text, re.MULTILINE | re.DOTALL)
        for line in "\n".join(map("".join, blocks)).splitlines():
            commands += re.findall(r"^\s*(?:\$ )?(?:\w+=\S+ )*(?:\.venv/bin/)?mpc (\w+(?!:)\b.*?)(?: > .*)?$", line)
    assert len(commands) > 30
    for command in commands:
        words = shlex.split(command, comments=True)
        assert cli.parser().parse_args(words).verb == words[0], command
