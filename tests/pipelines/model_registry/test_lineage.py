"""The stages that led to a model are found from the files of their outputs, also from those of earlier releases."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml
from support import tiny

from mpc_model.errors import UserError
from pipelines.artifacts import checkpoint
from pipelines.artifacts.model_directory import model_digest
from pipelines.model_registry import lineage

FACTS = {
    "config": {},
    "fingerprint": "0" * 64,
    "window": {"sums": {}, "steps": 0},
    "cursor": {"epoch": 0, "segments": []},
    "history": [],
    "assessed": 0,
    "epoch_steps": [],
    "unsaved": [],
    "epoch_loss": [0.0, 0],
}
RUN_IDS = {"pretrain": "a" * 32, "finetune": "f" * 32}


def run(output: Path, verb: str, seed: int, identity: dict[str, str], settings: dict[str, str], step: int = 120) -> str:
    """The output of a finished training run, in the format of earlier releases; the digest of its model."""
    model = tiny(seed=seed)
    checkpoint.save(str(output), step, model.packed(), {}, FACTS | {"verb": verb})
    checkpoint.export(str(output), step, f"{output}/model")
    record = {
        "verb": verb,
        "identity": identity,
        "finished": True,
        "results": {"run_id": RUN_IDS[verb], "step": step, "best": [step], "losses": [0.5], "history": []},
    }
    (output / "record.json").write_text(json.dumps(record))
    (output / "config.yaml").write_text(yaml.safe_dump({"seed": 0, "finetune": settings}))
    return model_digest(f"{output}/model")


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Stage 1, and stage 2 that began with it; nothing in the names of the folders says so."""
    first = run(tmp_path / "a", "pretrain", 0, {}, {})
    run(tmp_path / "b", "finetune", 1, {"encoder": first}, {"start": "encoder", "encoder": f"{tmp_path}/a/model"}, 7)
    return tmp_path


def test_a_model_is_traced_back_to_the_first_stage(chain: Path) -> None:
    links, status = lineage.trace(f"{chain}/b/model", model_digest(f"{chain}/b/model"))
    assert status == lineage.COMPLETE
    assert [(link.name, link.run_id, link.step) for link in links] == [
        ("finetune", RUN_IDS["finetune"], 7),
        ("pretrain", RUN_IDS["pretrain"], 120),
    ]
    assert [link.checkpoint for link in links] == [
        f"{chain}/b/checkpoints/step-000000007",
        f"{chain}/a/checkpoints/step-000000120",
    ]
    assert links[1].config == (chain / "a" / "config.yaml").read_bytes()


def test_a_checkpoint_is_traced_as_the_model_that_it_is(chain: Path) -> None:
    location = f"{chain}/b/checkpoints/step-000000007"
    links, status = lineage.trace(location, model_digest(location))
    assert (status, [link.step for link in links]) == (lineage.COMPLETE, [7, 120])


def test_a_copy_of_a_checkpoint_elsewhere_is_not_of_the_run_that_it_names(chain: Path) -> None:
    copy = chain / "c" / "downloaded"
    copy.mkdir(parents=True)
    for file in (chain / "b" / "checkpoints" / "step-000000007").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    links, status = lineage.trace(str(copy), model_digest(str(copy)))
    assert links == []
    assert status == f"unknown: no record of a training run lies beside {copy}"


def test_a_run_whose_checkpoint_was_deleted_is_still_a_link(chain: Path) -> None:
    for file in (chain / "a" / "checkpoints" / "step-000000120").iterdir():
        file.unlink()
    links, status = lineage.trace(f"{chain}/b/model", model_digest(f"{chain}/b/model"))
    assert (status, links[1].checkpoint) == (lineage.COMPLETE, "gone")


def test_a_stage_from_scratch_has_none_before_it_and_a_stage_that_came_twice_is_numbered(tmp_path: Path) -> None:
    first = run(tmp_path / "a", "finetune", 0, {}, {"start": "scratch"})
    run(tmp_path / "b", "finetune", 1, {"encoder": first}, {"start": "encoder", "encoder": f"{tmp_path}/a/model"})
    links, status = lineage.trace(f"{tmp_path}/b/model", model_digest(f"{tmp_path}/b/model"))
    assert (status, [link.name for link in links]) == (lineage.COMPLETE, ["finetune", "finetune-2"])


def test_an_encoder_that_was_trained_anew_is_no_link(chain: Path) -> None:
    run(chain / "a", "pretrain", 5, {}, {})
    links, status = lineage.trace(f"{chain}/b/model", model_digest(f"{chain}/b/model"))
    assert [link.name for link in links] == ["finetune"]
    assert status == f"unknown: the model that finetune began with is no longer at {chain}/a/model"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"verb": "build"}, "is no record of a training run"),
        ({"finished": False}, "is not finished"),
        (None, "no record of a training run lies beside"),
        ({"results": {}}, "record.json is damaged (results."),
    ],
)
def test_what_is_not_known_is_said(chain: Path, change: dict[str, object] | None, words: str) -> None:
    file = chain / "b" / "record.json"
    file.unlink() if change is None else file.write_text(json.dumps(json.loads(file.read_text()) | change))
    links, status = lineage.trace(f"{chain}/b/model", model_digest(f"{chain}/b/model"))
    assert links == []
    assert status.startswith("unknown: ")
    assert words in status


def test_tags_hold_the_lineage_and_are_walked_back(chain: Path) -> None:
    directory, model = f"{chain}/b/model", tiny()
    digest = model_digest(directory)
    model.card["trained_on"] = [{"uri": "/data/a", "fingerprint": "ab" * 32}]
    tags = lineage.tags(directory, digest, model, *lineage.trace(directory, digest))
    assert tags["mpc.model_sha256"] == hashlib.sha256(Path(directory, "model.json").read_bytes()).hexdigest()
    assert tags["mpc.finetune.config_sha256"] == hashlib.sha256((chain / "b" / "config.yaml").read_bytes()).hexdigest()
    assert lineage.trained_on(tags) == [{"uri": "/data/a", "fingerprint": "ab" * 32}]
    lines = lineage.walk(tags)
    assert lines[0] == f"model from {directory}, sha256 {digest}"
    assert lines[1].startswith(f"finetune: step 7, checkpoint {chain}/b/checkpoints/step-000000007, config lineage/")
    assert f"run {'f' * 32}, sha256 of the config {tags['mpc.finetune.config_sha256']}" in lines[1]
    assert lines[2].startswith("pretrain: step 120,")
    assert f"run {RUN_IDS['pretrain']}," in lines[2]
    assert lines[3:] == [f"trained on /data/a, fingerprint {'ab' * 32}", "lineage complete"]


@pytest.mark.parametrize("value", ["", "{}", '[{"uri": "/a"}]', '[{"uri": 1, "fingerprint": []}]'])
def test_a_damaged_tag_is_named(value: str) -> None:
    with pytest.raises(UserError, match=r"the tag mpc\.trained_on names no datasets"):
        lineage.trained_on({"mpc.trained_on": value})
    assert lineage.trained_on({}) is None
    assert lineage.walk({})[-2:] == ["trained on: unknown", "lineage unknown"]
