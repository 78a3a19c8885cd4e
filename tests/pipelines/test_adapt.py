"""`mpc adapt`: what it starts from and leaves, what it resumes, and that labels of the target change nothing."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from training_runs import at, run, weights

from mpc_model.errors import DataError, UserError
from mpc_model.imaging.class_mix import MIXES
from mpc_model.imaging.codecs import encode_mask
from mpc_model.localizer import Localizer, ModelSpec
from pipelines import adapt as adapting
from pipelines import reuse
from pipelines.adapt import Adapting, adapt
from pipelines.artifacts import checkpoint
from pipelines.artifacts.model_directory import model_digest
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest, SplitCounts
from pipelines.dataset.reader import DrawnView, ShardReader
from pipelines.evaluate import evaluate
from pipelines.model_registry import lineage
from pipelines.runtime import layout
from pipelines.tracking import client, runs
from pipelines.training import loop
from pipelines.training.worker_context import WorkerContext

FAST = ("adapt.embedding=8", "adapt.crop=48", "adapt.epochs=1", "adapt.contrast_from=0", "adapt.temperature=0.1")


def adapted_at(config: Config, target: str, folder: Path, *more: str) -> Config:
    return at(config, folder, f"adapt.target={target}", *FAST, *more, verb="adapt")


@pytest.fixture(scope="module")
def adapted(trained: Config, target: str, tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = adapted_at(trained, target, tmp_path_factory.mktemp("adapted"))
    adapt(config)
    return config


def test_it_leaves_a_localizer_like_any_other(adapted: Config, trained: Config, target: str) -> None:
    """Without teacher, prototypes and auxiliary head; its card names both datasets."""
    start = Localizer.load(Path(str(trained.finetune.output), "model"))
    model = Localizer.load(Path(str(adapted.adapt.output), "model"))
    assert model.spec == start.spec
    assert model.state_dict().keys() == start.state_dict().keys()
    assert any(not torch.equal(model.state_dict()[name], tensor) for name, tensor in start.state_dict().items())
    assert model.card["stage"] == "adapt"
    expected = [str(trained.train.dataset), target]
    assert model.card["trained_on"] == [{"uri": uri, "fingerprint": Manifest.read(uri).fingerprint} for uri in expected]


def test_its_run_names_what_it_read(adapted: Config, target: str) -> None:
    record = json.loads(Path(str(adapted.adapt.output), "record.json").read_text())
    found = client.client(adapted).get_run(record["results"]["run_id"])
    fingerprints = [Manifest.read(uri).fingerprint for uri in (str(adapted.train.dataset), target)]
    assert sorted(one.dataset.digest for one in found.inputs.dataset_inputs) == sorted(one[:32] for one in fingerprints)
    assert found.data.tags["mpc.target"] == fingerprints[1]
    assert found.data.tags["mpc.finetune_run"]


def test_its_lineage_leads_back_to_stage_1_and_leakage_looks_at_the_target(
    adapted: Config, target: str, tmp_path: Path, capsys: Any
) -> None:
    directory = layout.model_of(str(adapted.adapt.output))
    links, status = lineage.trace(directory, model_digest(directory))
    assert [link.name for link in links] == ["adapt", "finetune", "pretrain"]
    assert status == lineage.COMPLETE
    on_validation = at(
        adapted,
        tmp_path,
        f"evaluate={{model: {directory}, dataset: {target}, split: validation, output: {tmp_path / 'evaluate'}}}",
        verb="adapt",
    )
    results = evaluate(on_validation)
    assert any("of this very dataset" in warning for warning in results["warnings"])


def test_a_finished_adaptation_is_reused_and_other_settings_are_refused(
    adapted: Config, trained: Config, target: str, capsys: Any
) -> None:
    assert reuse.finished_adapt(adapted) is not None
    assert "adapt: reusing the finished run" in capsys.readouterr().err
    folder = Path(str(adapted.adapt.output)).parent
    other_target = adapted_at(trained, str(trained.train.dataset), folder)
    for other, words in (
        (adapted_at(trained, target, folder, "adapt.temperature=0.2"), r"adapt\.temperature differs"),
        (other_target, "target differs"),
    ):
        assert reuse.finished_adapt(other) is None
        with pytest.raises(UserError, match=words):
            adapt(other)


def test_a_killed_and_resumed_run_ends_as_an_uninterrupted_one_bit_by_bit(
    trained: Config, target: str, tmp_path: Path
) -> None:
    """Student, teacher, auxiliary head, prototypes, and the optimizer's state."""
    more = ("train.checkpoint_every=4", "adapt.epochs=2", "adapt.schedule=poly")
    whole, broken = (adapted_at(trained, target, tmp_path / name, *more) for name in ("whole", "broken"))
    uninterrupted = run(whole, Adapting)
    run_id = runs.start_run(broken, "adapt")
    loop.run(broken, Adapting, run_id, WorkerContext(), stop_after=5)
    assert checkpoint.steps(str(broken.adapt.output))[-1] == 4
    assert loop.run(broken, Adapting, run_id, WorkerContext()) == uninterrupted
    one, other = (checkpoint.latest(str(config.adapt.output)) for config in (whole, broken))
    assert one is not None
    assert other is not None
    names = one.state["module"].keys()
    assert {name.partition(".")[0] for name in names} >= {"teacher", "auxiliary", "counts", "precisions", "last_step"}
    for name in names:
        assert torch.equal(one.state["module"][name], other.state["module"][name]), name
    found = weights(broken.adapt.output)
    for name, tensor in weights(whole.adapt.output).items():
        assert torch.equal(tensor, found[name]), name


def test_labels_of_the_target_change_no_weight(
    trained: Config, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are replaced by noise where the target's shards are read."""
    plain, noisy = (adapted_at(trained, target, tmp_path / name) for name in ("plain", "noisy"))
    run(plain, Adapting)
    read, replaced = ShardReader.read_views, list[str]()
    generator = np.random.default_rng(0)

    def with_noise(self: ShardReader, *arguments: Any, **options: Any) -> Iterator[DrawnView] | Sequence[DrawnView]:
        views = read(self, *arguments, **options)
        if self.uri != target:
            return views
        noise = encode_mask(generator.integers(0, 2, (64, 64)).astype(np.uint8))
        replaced.extend(view.id for view in views)
        return [view._replace(files=view.files | {"mask": noise}) for view in views]

    monkeypatch.setattr(ShardReader, "read_views", with_noise)
    run(noisy, Adapting)
    assert replaced
    found = weights(noisy.adapt.output)
    for name, tensor in weights(plain.adapt.output).items():
        assert torch.equal(tensor, found[name]), name


@pytest.mark.parametrize("method", ["none", "self_training"])
def test_the_methods_that_it_is_compared_with_run_on_the_same_pairs(
    trained: Config, target: str, tmp_path: Path, method: str, capsys: Any
) -> None:
    """With the published warm-up, which is longer than so short a training."""
    more = (f"adapt.method={method}", "adapt.rare_classes=0.5", "adapt.warmup_steps=1500")
    result = run(adapted_at(trained, target, tmp_path, *more), Adapting)
    assert result["step"] > 0
    warning = f"adapt.warmup_steps is 1500, but the training has {result['step']} steps"
    assert capsys.readouterr().err.count(warning) == 1
    assert all(np.isfinite(loss) for loss in result["losses"])


def test_the_best_epoch_may_be_chosen_by_the_target(trained: Config, target: str, tmp_path: Path) -> None:
    config = adapted_at(trained, target, tmp_path, "adapt.method=none", "adapt.validate_on=target")
    run(config, Adapting)
    card = Localizer.load(
        checkpoint.folder(str(config.adapt.output), checkpoint.steps(str(config.adapt.output))[-1])
    ).card
    assert card["validated_on"]["uri"] == target


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("adapt.target=null", "adapt.target is not set"),
        ("adapt.start={folder}/nothing", "no model directory at"),
        ("adapt.method=pppcc", "unknown adaptation 'pppcc'"),
        ("adapt.similarity=elc", "did you mean 'elk'"),
        ("adapt.prototypes=mean", "unknown prototype rule"),
        ("adapt.mix=cutmix", "unknown mix 'cutmix'"),
        ("adapt.mix=classes", r"adapt\.mix is classes.*splice"),
        ("adapt.crop=96", r"adapt\.crop is 96, but model\.input_size is 64"),
        ("model.head=mlp5", "has head mlp4, the config asks for mlp5"),
        ("model.head_settings={{frequencies: 2}}", r"has head_settings \{\}, the config asks for .*frequencies"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_written(
    trained: Config, target: str, tmp_path: Path, override: str, words: str
) -> None:
    config = adapted_at(trained, target, tmp_path, override.format(folder=tmp_path))
    with pytest.raises((UserError, DataError), match=words):
        adapt(config)
    assert not (tmp_path / "adapt").exists()


@pytest.mark.parametrize(
    ("spec", "overrides", "words"),
    [
        ({"head": "mscc"}, ["model.head=mscc"], "the head mscc, which has more than a map"),
        (
            {"classes": 2, "class_names": ("forged", "authentic")},
            ["model.classes=2"],
            "has 2 classes .authentic, forged., but those of .* are forged, authentic",
        ),
    ],
)
def test_a_start_that_would_be_trained_wrongly_is_refused(
    trained: Config,
    target: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spec: dict[str, Any],
    overrides: list[str],
    words: str,
) -> None:
    """Other parts than the map would get stale, and classes would change their names."""
    start = Localizer(ModelSpec(**{"backbone": trained.model.backbone, "head": "mlp4", "input_size": 64} | spec))
    monkeypatch.setattr(adapting, "load_model", lambda uri: start)
    with pytest.raises(UserError, match=words):
        Adapting(adapted_at(trained, target, tmp_path, *overrides))


@pytest.mark.parametrize(
    ("overrides", "names", "words"),
    [
        (["model.classes=2", "adapt.mix=classes"], ["authentic", "forged"], r"adapt\.mix is classes.*splice"),
        (["model.classes=3", "adapt.mix=forged"], ["sky", "road", "car"], "forgeries, but the classes are sky, road"),
        (["model.classes=3", "adapt.mix=ignored"], ["sky", "road", "car"], r"adapt\.mix is ignored.*use classes"),
    ],
)
def test_a_mix_goes_with_the_classes_of_the_source(overrides: list[str], names: list[str], words: str) -> None:
    """Two classes may be those of forgeries, too; of others a rule for forgeries would paste the second alone."""
    source = cast(Manifest, SimpleNamespace(class_names=names))
    with pytest.raises(UserError, match=words):
        adapting._check_mix(recipe.load(None, overrides), source)
    adapting._check_mix(recipe.load(None, [overrides[0]]), source)


def test_a_start_whose_classes_have_no_names_takes_those_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """By which what is pasted is decided."""
    start = Localizer(ModelSpec("hrformer_tiny", "mlp4", 64, classes=2))
    monkeypatch.setattr(Adapting, "load_start", staticmethod(lambda _: start))
    names = ("authentic", "forged")
    monkeypatch.setattr(Manifest, "read", staticmethod(lambda _: SimpleNamespace(class_names=list(names))))
    model = "model={backbone: hrformer_tiny, input_size: 64, classes: 2}"
    stage = Adapting(recipe.load(None, [model, "adapt.method=self_training"]))
    assert stage.localizer.spec.class_names == names
    assert cast(Any, stage.module).mix is MIXES["forged"]


def test_a_target_without_forged_validation_samples_chooses_no_epoch() -> None:
    """No epoch would have an F1, and the first one would be taken as the best."""
    target = Manifest.model_construct(splits={"validation": SplitCounts.model_construct(forged=0, unlabelled=0)})
    with pytest.raises(DataError, match=r"'validation' of adapt\.target at has no forged samples.*validate_on=source"):
        adapting._check_validation("at", target, None)
    adapting._check_validation("at", target.model_copy(update={"classes": ["sky", "road"]}), None)


def test_the_weight_of_forged_pixels_is_refused_with_several_classes(
    trained: Config, target: str, tmp_path: Path
) -> None:
    config = adapted_at(trained, target, tmp_path, "model.classes=2", "adapt.forged_weight=3")
    with pytest.raises(UserError, match=r"adapt\.forged_weight is for .* model\.classes is 2; leave it out"):
        Adapting.check(config, None)
