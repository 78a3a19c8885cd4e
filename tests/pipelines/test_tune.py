"""What `mpc tune` refuses before it begins, and whom it leaves the output to."""

from pathlib import Path

import pytest
import ray.tune
from ray.tune import ResultGrid
from searches import SPACE
from small_backbone import Pyramid
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mpc_model.errors import MPCError, UserError
from mpc_model.localizer import Localizer, ModelSpec
from mpc_model.nn.backbone import BACKBONES
from pipelines import reuse
from pipelines import tune as command
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.finetune import Finetuning
from pipelines.pretrain import Pretraining
from pipelines.runtime import lease
from pipelines.search import ledger, trial
from pipelines.training.supervision import SUPERVISIONS


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tune.space={}", "tune.space is empty"),
        ("tune.space={pretrain.temprature: [0.1]}", "unknown key 'pretrain.temprature': did you mean 'temperature'"),
        ("tune.space={pretrain.temperature: {least: -1, most: 1}}", r"pretrain\.temperature: .*greater than 0"),
        ("tune.space={pretrain.temperature: {least: 2, most: 1}}", "least must be below most"),
        ("tune.space={pretrain.temperature: {least: 0, most: 1, log: true}}", "must start above 0"),
        ("tune.space={pretrain.sampler: []}", "empty list"),
        ("tune.space={pretrain.sampler: [uniform, uniform]}", "names a value twice"),
        ("tune.space={pretrain: [{temperature: 0.1}]}", "pretrain is a whole section"),
        ("tune.space={build.views: [{count: 1}, {count: 2}]}", "name the keys below it"),
        ("tune.space={pretrain.temperature: {min: 0.5, max: 1.0}}", "unknown key 'tune.space.pretrain.temperature"),
        ("tune.space={pretrain.sampler: [uniform, best]}", "best"),
        ("tune.space={tracking.uri: [a]}", "tracking.uri is nothing a trial trains with"),
        ("tune.space={pretrain.epochs: [1, 2]}", "tune.algorithm=random"),
        ("tune.space={train.workers: [1, 2]}", "train.workers changes nothing that is learnt"),
        ("tune.space={train.cpus_per_worker: [1, 64]}", "train.cpus_per_worker changes nothing that is learnt"),
        ("tune.space={train.dataset: [a, b]}", "train.dataset is set by the search itself"),
        ("tune.space={pretrain.temperature=0.1 x: [0.1]}", "'pretrain.temperature=0.1 x' is no config key"),
        ("tune.space={finetune.supervision: [mask, masks]}", "tune.space: unknown supervision 'masks'"),
        ("tune.space={finetune.momentum: {least: 0.5, most: 1.0}}", r"finetune\.momentum: .*less than 1"),
        ("tune.space={pretrain.initial: [null, /gone.pth]}", "tune.space: .*/gone.pth"),
        ("pretrain.initial=/gone.pth", "/gone.pth"),
        ("tune.space={model.backbone: [hrformer_tiny, hrformer_huge]}", "tune.space: .*hrformer_huge"),
        ("tune.space={model.input_size: [64, null]}", "tune.space: training needs model.input_size"),
        ("tune.space={pretrain.weights: [[1, 0, 0]], pretrain.weights.0: [0.5]}", "set the same value"),
        ("train.workers=1000", "train.workers is 1000, but there are only"),
        ("tune.space={build.views.policy: [light, bogus]}", "tune.space: .*bogus"),
        ("tune.space={build.sources.0.location: [/no/where]}", "tune.space: .*/no/where"),
        ("tune.space={build.views.count: {least: 1, most: 3}}", "give a list of values"),
        ("finetune={start: scratch, unfreeze: all}", "use encoder"),
        ("train.async_validation=true", "turn it off"),
        ("tune.trials=null", "set trials, epochs or hours"),
        ("tune.stages=pretrain tune.space={finetune.alpha: [0.5]}", "tune.stages=pretrain"),
        ("tune.space={adapt.temperature: [0.1]}", "a search of adapt goes with stages=adapt"),
        ("tune.stages=adapt tune.space={pretrain.temperature: [0.1]}", "not used with tune.stages=adapt"),
        (
            "tune.stages=finetune tune.space={pretrain.temperature: [0.1]}",
            "not used with tune.stages=finetune; use both",
        ),
        ("tune.stages=finetune tune.space={adapt.temperature: [0.1]}", "not used with tune.stages=finetune"),
        ("tune.space={finetune.start: [encoder, localizer]}", "tune.space: finetune.start is localizer, but a trial"),
        ("tune.stages=adapt tune.space={adapt.target: [a, b]}", "adapt.target is set by the search itself"),
        ("tune.stages=adapt tune.space={adapt.temperature: [0.1]}", "adapt.target is not set"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(built: Config, tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        command.tune(recipe.revised(built, f"tune.output={tmp_path / 'tune'}", SPACE, *_split(override)))
    assert not (tmp_path / "tune").exists()


@pytest.mark.parametrize(
    ("head", "classes", "words"),
    [
        (None, 1, "is a stage-1 encoder without a head"),
        ("mlp5", 1, "has head mlp5, the config asks for mlp4"),
        ("mlp4", 2, "has classes 2, the config asks for 1"),
    ],
)
def test_a_start_that_no_trial_could_adapt_is_refused_before_the_search(
    built: Config, tmp_path: Path, head: str | None, classes: int, words: str
) -> None:
    Localizer(ModelSpec(built.model.backbone, head, 64, classes=classes)).save(tmp_path / "start")
    config = recipe.revised(
        built,
        f"adapt={{start: {tmp_path}/start, target: {built.train.dataset}}}",
        "tune={stages: adapt, space: {adapt.temperature: [0.1, 0.2]}}",
        f"tune.output={tmp_path / 'tune'}",
    )
    with pytest.raises(UserError, match=words):
        command.tune(config)
    assert not (tmp_path / "tune").exists()


def test_a_search_of_stage_2_alone_needs_what_its_trials_start_from(built: Config) -> None:
    config = recipe.revised(
        built, "tune.stages=finetune", "tune.space={finetune.alpha: [0.4, 0.5]}", "finetune.encoder=/gone"
    )
    with pytest.raises(UserError, match="no model directory at /gone"):
        command._check(config)
    command._check(recipe.revised(config, "finetune.start=scratch", "finetune.unfreeze=all"))


def test_optimizers_schedules_supervisions_and_weights_of_parts_can_be_searched(built: Config) -> None:
    optimizers = "pretrain.optimizer: [adamw, sgd], pretrain.momentum: {least: 0.5, most: 0.99}"
    schedules = "finetune.schedule: [cosine, poly], finetune.power: {least: 0.5, most: 2.0}"
    supervisions = "finetune.supervision: [mask]"
    parts = "finetune.loss: [focal, cross_entropy], finetune.part_weights.coarse: {least: 0.1, most: 1.0}"
    command._check(recipe.revised(built, f"tune.space={{{optimizers}, {schedules}, {supervisions}, {parts}}}"))
    with pytest.raises(UserError, match=r"tune\.space: finetune\.supervision is partial, but .* has no scribbles"):
        command._check(recipe.revised(built, f"tune.space={{finetune.supervision: {sorted(SUPERVISIONS)}}}"))


@pytest.mark.parametrize(
    ("given", "key", "words"),
    [
        (
            "finetune.supervision=mask",
            "finetune.pclmix.mix_share",
            r"where finetune\.supervision is mask; leave it out",
        ),
        ("finetune.supervision=partial", "finetune.alpha", r"where finetune\.supervision is partial"),
        ("finetune.supervision=pclmix", "finetune.loss", r"where finetune\.supervision is pclmix"),
        ("finetune.loss=cross_entropy", "finetune.gamma", r"where finetune\.loss is cross_entropy"),
        ("adapt.method=self_training", "adapt.embedding", r"where adapt\.method is self_training"),
        ("adapt.method=none", "adapt.confidence", r"choose another adapt\.method"),
        ("tune.space={finetune.supervision: [mask, partial]}", "finetune.pclmix.weights.contrast", "mask or partial"),
        ("finetune.supervision=pclmix", "finetune.pclmix.weights.contrast", None),
        ("tune.space={finetune.supervision: [mask, pclmix]}", "finetune.pclmix.queue", None),
        ("adapt.method=self_training", "adapt.confidence", None),
        ("adapt.method=pppc", "adapt.embedding", None),
    ],
)
def test_a_key_that_no_trial_would_look_at_is_refused(given: str, key: str, words: str | None) -> None:
    config = recipe.load(None, [given])
    if words is None:
        command._check_used(config, key)
        return
    with pytest.raises(UserError, match=rf"tune\.space: {key} changes nothing .*{words}"):
        command._check_used(config, key)


def test_what_trials_are_measured_on_is_not_searched() -> None:
    config = recipe.load(None, ["tune={stages: adapt, space: {adapt.validate_on: [source, target]}}"])
    with pytest.raises(UserError, match=r"adapt\.validate_on decides what trials are measured on; set it once"):
        command._check(config)


def test_every_value_that_a_network_refuses_is_tried_before_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the network of another value of the same key was made already."""
    monkeypatch.setitem(BACKBONES._entries, "pyramid", Pyramid)
    monkeypatch.setattr(Finetuning, "check", lambda *_: None)
    made = "model={backbone: pyramid, head: mscc, head_settings: {frequencies: 2}}"
    config = recipe.load(None, [made, "finetune={start: scratch, unfreeze: all}", "tune.stages=finetune"])
    checked, manifest = set[str](), Manifest.model_construct()
    command._check_finetune(config, manifest, checked)
    count = len(checked)
    command._check_finetune(recipe.revised(config, "finetune.learning_rate=0.5"), manifest, checked)
    assert len(checked) == count
    with pytest.raises(UserError, match=r"part_weights\.image is 0"):
        command._check_finetune(recipe.revised(config, "finetune.part_weights.image=0.0"), manifest, checked)
    both = recipe.revised(config, "tune.stages=both", "finetune={part_weights: {image: 0.0}}")
    monkeypatch.setattr(command, "check", lambda *_: None)
    monkeypatch.setattr(Pretraining, "check", lambda *_: None)
    with pytest.raises(UserError, match=r"part_weights\.image is 0"):
        command._check_config(both, manifest, checked)


def _split(override: str) -> list[str]:
    first, _, second = override.partition(" tune.space")
    return [first] + ([f"tune.space{second}"] if second else [])


def test_a_folder_of_other_files_is_no_place_for_a_search(tmp_path: Path, built: Config) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    config = recipe.revised(built, f"tune.output={tmp_path}", "tune.space={pretrain.temperature: [0.1, 0.2]}")
    with pytest.raises(UserError, match=r"holiday\.jpg, which is not of tune; set tune.output to an empty folder"):
        command.tune(config)
    assert [file.name for file in tmp_path.iterdir()] == ["holiday.jpg"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tracking.uri=http://127.0.0.1:9", "MLflow at http://127.0.0.1:9 does not answer"),
        ("train.cpus_per_worker=1000", "a trial needs 1000 CPU, there are .* CPU; lower train.workers"),
    ],
)
def test_a_search_that_cannot_begin_leaves_nothing_that_binds_the_next_one(
    built: Config, tmp_path: Path, override: str, words: str
) -> None:
    output = tmp_path / "tune"
    config = recipe.revised(built, f"tune.output={output}", "tune.space={pretrain.temperature: [0.1]}", override)
    with pytest.raises(MPCError, match=words):
        command.tune(config)
    assert not [file for file in output.rglob("*") if file.is_file()]


def test_two_searches_do_not_share_an_output(tmp_path: Path, built: Config) -> None:
    config = recipe.revised(built, f"tune.output={tmp_path / 'tune'}", "tune.space={pretrain.temperature: [0.1, 0.2]}")
    with lease.held(str(config.tune.output), "tune"), pytest.raises(UserError, match=r"another tune\.output"):
        command.tune(config)


@pytest.fixture(scope="module")
def searched(built: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, ResultGrid]:
    """A search of two calls: a trial that finishes and one that fails, in one process, and then nothing more to do."""
    folder = tmp_path_factory.mktemp("searched")
    config = recipe.revised(
        built,
        "tune={stages: pretrain, searcher: grid, scheduler: fifo, concurrent: 1, trials: 2, tensorboard: true}",
        "tune.space={pretrain.learning_rate: [1.0e-3, 1.0e+30], pretrain.sampler: [uniform]}",
        f"tune.output={folder / 'tune'}",
        f"tracking.uri=sqlite:///{folder / 'mlflow.db'}",
        "pretrain.epochs=2",
        "pretrain.schedule=constant",
    )
    first = command.tuner(config).fit()
    assert [result.config["number"] for result in first] == [0, 1]
    assert len({result.metrics["pid"] for result in first}) == 1
    assert "not finite" in str(first[1].error) or "the loss is" in str(first[1].error)
    again = recipe.revised(config, "tune.keep=1")
    return again, command.tuner(again).fit()


def test_a_tuner_of_ray_tune_gives_every_trial_of_the_search(searched: tuple[Config, ResultGrid]) -> None:
    """Those of an earlier call, too."""
    config, grid = searched
    assert isinstance(command.tuner(config), ray.tune.Tuner)
    trials = ledger.read_all(str(config.tune.output))
    assert [one.state for one in trials] == ["finished", "failed"]
    assert [result.config for result in grid] == [{"number": one.number, **one.parameters} for one in trials]
    assert grid.num_errors == 1
    best = grid.get_best_result()
    assert best.metrics["figure"] == trials[0].curve[-1]["figure"]
    assert best.metrics_dataframe["figure"].tolist()[:2] == [point["figure"] for point in trials[0].curve]


def test_what_ray_tune_stores_is_read_by_its_users_tools(searched: tuple[Config, ResultGrid]) -> None:
    config, grid = searched
    folder = Path(str(config.tune.output), "ray")
    scores = sorted(result.metrics.get("figure", 0) for result in grid)
    analysis = ray.tune.ExperimentAnalysis(folder, default_metric="figure", default_mode="max")
    assert sorted(one.last_result.get("figure", 0) for one in analysis.trials) == scores
    assert analysis.best_config["pretrain.learning_rate"] == 1e-3
    assert len(command.tuner(config).get_results()) == 2
    restored = ray.tune.Tuner.restore(str(folder), trainable=trial.train)
    assert sorted(result.metrics.get("figure", 0) for result in restored.get_results()) == scores
    stored = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    assert b"mlflow.db" not in stored  # nor is any other part of the config, which may hold a password


def test_tensorboard_reads_the_metrics_of_a_trial(searched: tuple[Config, ResultGrid]) -> None:
    config, _ = searched
    events = EventAccumulator(str(Path(str(config.tune.output), "ray", "0000"))).Reload()
    curve = ledger.read(str(config.tune.output), 0).curve
    read = [event.value for event in events.Scalars("ray/tune/figure")]
    assert read[: len(curve)] == pytest.approx([point["figure"] for point in curve])


def test_stage_2_alone_is_searched_and_what_its_trials_warn_of_is_said(
    built: Config, tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of MSCC from scratch. A graph of CUDA, which the CPU has none of, is what both trials warn of."""
    config = recipe.revised(
        built,
        f"tune={{stages: finetune, algorithm: random, searcher: grid, concurrent: 1, output: {tmp_path / 'tune'}}}",
        "tune.space={finetune.part_weights.coarse: [0.25, 1.0]}",
        "model.head=mscc",
        "finetune={start: scratch, unfreeze: all, epochs: 1}",
        "train={workers: 0, batch_size: 4, validation_images: 6, compile: false, cuda_graph: true, accelerator: cpu}",
        f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}",
    )
    results = command.tune(config)
    said = capsys.readouterr().err
    assert said.count(": cuda_graph: ") == 1
    assert "tune: warning: trial 0: cuda_graph: " in said
    assert results["best"]["metric"] == "validation_f1"
    assert {point["stage"] for one in ledger.read_all(str(config.tune.output)) for point in one.curve} == {"finetune"}
    best = recipe.load(results["recipe"])
    assert (best.finetune.start, best.model.head) == ("scratch", "mscc")
    assert "pretrain:" not in Path(results["recipe"]).read_text()
    assert reuse.finished_tune(config) == results
    printed = capsys.readouterr().err
    assert "trial  state     epochs  validation_f1  parameters" in printed
    assert printed.count("finetune.part_weights.coarse") == 2
