"""The section of PCLMix: its keys can be given, refused and searched, and defaults leave earlier runs what they are."""

import re
from pathlib import Path

import pytest

from mpc_model.errors import UserError
from pipelines.config import recipe
from pipelines.config.pclmix import PCLMixConfig, PCLMixWeights

PAGE = Path(__file__).parents[3] / "docs" / "pclmix.md"


def test_keys_are_given_by_dotted_names():
    config = recipe.load(None, ["finetune.pclmix.weights.contrast=0.2", "finetune.pclmix.certainty_scale=0.5"])
    assert config.finetune.pclmix.weights.contrast == 0.2
    assert config.finetune.pclmix.weights.second == 0.4
    assert config.finetune.pclmix.certainty_scale == 0.5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mix_share=1.0", "mix_share"),
        ("mix_labels=guess", "mix_labels"),
        ("weights.contrst=1", "did you mean 'contrast'"),
        ("certainty_scale=class", "certainty_scale"),
    ],
)
def test_wrong_values_are_refused_by_name(override, message):
    with pytest.raises(UserError, match=message):
        recipe.load(None, [f"finetune.pclmix.{override}"])


def test_defaults_do_not_change_what_tells_runs_apart():
    plain, other = (recipe.load(None, more) for more in ([], ["finetune.pclmix.queue=7"]))
    assert "pclmix" not in plain.finetune.identity()
    assert other.finetune.identity()["pclmix"]["queue"] == 7


def test_every_key_is_on_its_page():
    documented = set(re.findall(r"`(\w+)`", PAGE.read_text()))
    assert [name for name in (*PCLMixConfig.model_fields, *PCLMixWeights.model_fields) if name not in documented] == []
