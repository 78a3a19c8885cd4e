"""What a registered version says of itself: card, lineage, figures of several test sets, licence; and its promotion."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import mpc_model
from mpc_model.errors import UserError
from mpc_model.evaluation.metrics import pixel_scores
from mpc_model.imaging import codecs
from mpc_model.imaging.degradations import degradation
from mpc_model.localizer import Localizer, ModelSpec
from pipelines.artifacts import record
from pipelines.artifacts.model_directory import model_digest
from pipelines.commands import COMMANDS
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader
from pipelines.evaluate import evaluate
from pipelines.model_registry import lineage, model_card, version_metrics
from pipelines.model_registry.audit_trail import Refused
from pipelines.promote import promote
from pipelines.register import register
from pipelines.tracking import client

DEGRADED = ("half_size", "noise")


@pytest.fixture(scope="module")
def config(trained: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The trained pipeline with a registry of its own, and evaluations on two splits."""
    root = tmp_path_factory.mktemp("registry")
    return recipe.revised(
        trained,
        f"tracking.uri=sqlite:///{root}/mlflow.db",
        f"workspace={root}",
        f"evaluate.output={root}/test",
        f"evaluate.robustness=[{', '.join(DEGRADED)}]",
        "evaluate.pictures=1",
        f"register.evaluation=[{root}/test, {root}/validation]",
    )


@pytest.fixture(scope="module")
def figures(config: Config) -> dict[str, dict[str, Any]]:
    second = recipe.revised(
        config,
        "evaluate.split=validation",
        "evaluate.robustness=[]",
        f"evaluate.output={config.workspace}/validation",
    )
    return {"test": evaluate(config), "validation": evaluate(second)}


@pytest.fixture(scope="module")
def version(config: Config, figures: dict[str, Any]) -> Any:
    done = register(config)
    return client.client(config).get_model_version(done["name"], done["version"])


@pytest.fixture(scope="module")
def entry(config: Config, version: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the entry, fetched as a consumer does."""
    where = f"models:/{version.name}/{version.version}"
    with client.fluent(config):
        return Path(mlflow.artifacts.download_artifacts(where, dst_path=str(tmp_path_factory.mktemp("entry"))))


def test_robustness_is_the_f1_of_degraded_images(config: Config, figures: dict[str, Any]) -> None:
    dataset = str(config.build.output)
    reader = ShardReader(dataset, Manifest.read(dataset), "test")
    model = Localizer.load(Path(str(config.finetune.output), "model"))
    found = figures["test"]["robustness"]
    assert set(found) == set(DEGRADED)
    for name in DEGRADED:
        slow = []
        for row in (row for group in range(len(reader.sizes)) for row in reader.read(group)):
            if row["kind"] != "authentic":
                view = row["views"][0]
                image = codecs.decode_image(view["image"], "row")
                worse = degradation(name)(image, np.random.default_rng(list(row["id"].encode()))).image
                slow.append(pixel_scores(model.predict([worse])[0], codecs.decode_mask(view["mask"], "row")).f1)
        assert found[name]["f1"] == pytest.approx(np.mean(slow), abs=1e-6)
        assert found[name]["forged_images"] == len(slow)
    assert figures["validation"]["robustness"] == {}


def test_f1_of_all_pixels_together_is_another_number_under_another_name(
    config: Config, figures: dict[str, dict[str, Any]]
) -> None:
    """By hand, of the scores of each image: a mean over images, and one F1 of the sums over the split."""
    rows = pq.read_table(Path(str(config.evaluate.output), "images.parquet")).to_pylist()
    of_images = [row["f1"] for row in rows if row["f1"] is not None]
    forged, called = (sum(row[f"{which}_fraction"] * row["pixels"] for row in rows) for which in ("forged", "called"))
    hits = sum((row["recall"] or 0) * row["forged_fraction"] * row["pixels"] for row in rows)
    metrics = figures["test"]
    assert metrics["model"]["f1"] == pytest.approx(np.mean(of_images))
    assert metrics["by_class"]["forged"]["dice"] == pytest.approx(2 * hits / (forged + called))
    assert abs(metrics["model"]["f1"] - metrics["by_class"]["forged"]["dice"]) > 0.01
    assert "f1" not in metrics["dataset_level"]
    named = COMMANDS["evaluate"].metrics
    assert named
    assert named(metrics)["f1"] == metrics["model"]["f1"]
    assert named(metrics)["by_class.forged.dice"] == metrics["by_class"]["forged"]["dice"]


def test_an_evaluation_with_other_degradations_is_another(config: Config, figures: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="robustness differs"):
        evaluate(recipe.revised(config, "evaluate.robustness=[blur]"))
    with pytest.raises(UserError, match="unknown degradation 'blurr'"):
        evaluate(recipe.revised(config, "evaluate.robustness=[blurr]"))


def test_from_a_version_one_walks_back_to_runs_checkpoints_data_and_configs(
    config: Config, version: Any, entry: Path
) -> None:
    tags = version.tags
    assert tags["mpc.lineage"] == "complete"
    for stage in ("finetune", "pretrain"):
        output = str(getattr(config, stage).output)
        stage_record = record.read(output)
        assert tags[f"mpc.{stage}.run_id"] == stage_record.results["run_id"]
        # The run is known to the store that the training wrote to.
        run = client.client(recipe.revised(config, f"tracking.uri=sqlite:///{Path(output).parent}/mlflow.db"))
        assert run.get_run(stage_record.results["run_id"]).data.tags["mpc.verb"] == stage
        assert int(tags[f"mpc.{stage}.step"]) == stage_record.results["best"][0]
        assert model_digest(tags[f"mpc.{stage}.checkpoint"]) == model_digest(f"{output}/model")
        kept = (entry / "lineage" / f"{stage}.yaml").read_bytes()
        assert hashlib.sha256(kept).hexdigest() == tags[f"mpc.{stage}.config_sha256"]
        assert yaml.safe_load(kept)[stage]["learning_rate"] == getattr(config, stage).learning_rate
    fingerprint = Manifest.read(str(config.build.output)).fingerprint
    seen = {"uri": str(config.build.output), "fingerprint": fingerprint}
    assert lineage.trained_on(tags) == [seen]
    told = "\n".join(lineage.walk(tags))
    for fact in (tags["mpc.finetune.run_id"], tags["mpc.pretrain.checkpoint"], seen["fingerprint"], "lineage complete"):
        assert fact in told


def test_figures_are_tags_by_dataset_and_split(config: Config, version: Any, figures: Any, entry: Path) -> None:
    fingerprint = Manifest.read(str(config.build.output)).fingerprint
    found = version_metrics.from_tags(version.tags)
    assert set(found) == {(fingerprint, "test", "fp32"), (fingerprint, "validation", "fp32")}
    one = found[fingerprint, "test", "fp32"]
    assert (one.f1, one.iou) == (figures["test"]["model"]["f1"], figures["test"]["model"]["iou"])
    assert one.robustness == {name: figures["test"]["robustness"][name]["f1"] for name in DEGRADED}
    assert one.model == version.tags["mpc.model_sha256"]
    assert "chosen by split 'validation'" in found[fingerprint, "validation", "fp32"].warnings[0]
    kept = json.loads((entry / "evaluations" / f"{fingerprint[:12]}.test.json").read_text())
    assert kept["model"] == figures["test"]["model"]


def test_the_run_and_the_logged_model_of_a_version_have_what_mlflow_compares(
    config: Config, version: Any, figures: Any
) -> None:
    store = client.client(config)
    run, logged = store.get_run(version.run_id), store.get_logged_model(version.source.removeprefix("models:/"))
    assert run.info.run_name == f"register {version.name} v{version.version}"
    sets = {metrics.split: metrics.short_name for metrics in version_metrics.from_tags(version.tags).values()}
    for split, of in figures.items():
        assert run.data.metrics[f"{sets[split]}/f1"] == of["model"]["f1"]
        assert run.data.metrics[f"{sets[split]}/untrained.f1"] == of["untrained"]["f1"]
    assert {metric.key: metric.value for metric in logged.metrics} == run.data.metrics
    wanted = {"model.backbone": "hrformer_tiny", "finetune.learning_rate": "0.001", "pretrain.epochs": "1"}
    assert run.data.params | wanted == run.data.params
    assert logged.params | wanted == logged.params
    register(config)  # again: nothing twice
    points = store.get_metric_history(version.run_id, f"{sets['test']}/f1")
    assert len(points) == 1


def test_a_version_whose_run_was_deleted_is_described_all_the_same(
    config: Config, figures: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = recipe.revised(config, f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", f"workspace={tmp_path}")
    store = client.client(own)
    made = register(recipe.revised(own, f"register.evaluation={tmp_path}/none"))
    store.delete_run(store.get_model_version(made["name"], made["version"]).run_id)
    assert register(own)["version"] == made["version"]
    assert "the run of version 1 was deleted in MLflow" in capsys.readouterr().err
    assert len(version_metrics.from_tags(store.get_model_version(made["name"], "1").tags)) == 2


def test_the_card_says_what_is_known(config: Config, version: Any, figures: Any, entry: Path) -> None:
    card = (entry / model_card.FILE).read_text()
    assert version.description == model_card.description(card)
    fingerprint = Manifest.read(str(config.build.output)).fingerprint
    for fact in (
        f"- data: {config.build.output} (fingerprint `{fingerprint}`)",
        f"| {figures['test']['model']['f1']:.3f} ({figures['test']['intervals']['f1']['low']:.3f} to ",
        f") | {figures['test']['untrained']['f1']:.3f} | {figures['test']['everything_forged']['f1']:.3f} | ",
        "with 95% confidence NOT better than",
        "paths, file:// and s3:// URIs, or base64",
        "averaged over the forged images alone",
        f"half_size {figures['test']['robustness']['half_size']['f1']:.3f}",
        "doubt: the model was chosen by split 'validation'",
        "never proof of forgery",
        "not stated: ask whoever trained it",
        "`hrformer_tiny` with head `mlp4`",
    ):
        assert fact in card, fact


def test_no_file_of_the_entry_names_a_place_on_the_machine_that_made_it(config: Config, entry: Path) -> None:
    places = (config.workspace, str(Path.home()), str(Path(mpc_model.__file__).parents[1]), "python_model_artifacts")
    texts = {file: file.read_bytes().decode(errors="replace") for file in entry.rglob("*") if file.is_file()}
    assert len(texts) > 20
    assert [(str(file), place) for file, text in texts.items() for place in places if place in text] == []
    described = yaml.safe_load((entry / "MLmodel").read_text())
    assert described["flavors"]["python_function"]["artifacts"]["model"]["uri"] == "artifacts/model"
    assert "$WORKSPACE" not in (entry / "requirements.txt").read_text()


def test_a_long_card_is_cut_at_a_line_and_says_where_the_rest_is() -> None:
    card = "\n".join(f"line {number}" for number in range(2000))
    cut = model_card.description(card)
    assert len(cut) <= 5000
    assert cut.endswith("The rest is in MODEL_CARD.md of the entry.\n")
    assert card.startswith(cut.rpartition("\n\nThe rest")[0] + "\n")
    assert model_card.description("short") == "short"


def test_it_is_promoted_on_its_test_split_and_not_on_what_chose_it(config: Config, version: Any) -> None:
    """The leakage gate with real datasets: both figures are of the dataset that trained the model."""
    with pytest.raises(Refused, match=r"baselines: .*/test.*images: on .*/test.*at least 20 are asked for"):
        promote(config)
    unasked = ("promote.robustness_floor=null", "promote.baselines=[]", "promote.min_images=1")
    with pytest.raises(Refused, match=r"leakage: on .*/validation.*: the model was chosen by split 'validation'"):
        promote(recipe.revised(config, *unasked))
    mlflow_client = client.client(config)
    fingerprint = Manifest.read(str(config.build.output)).fingerprint
    mlflow_client.delete_model_version_tag(version.name, version.version, f"mpc.figures.{fingerprint[:12]}.validation")
    assert promote(recipe.revised(config, *unasked))["version"] == str(version.version)
    register(config)  # which brings the figures back


def test_leakage_is_looked_for_again(config: Config, version: Any, tmp_path: Path) -> None:
    """Metrics whose warnings were lost: the datasets themselves still say that the model was chosen by them."""
    mlflow_client = client.client(config)
    for key, value in version.tags.items():
        if key.endswith(".validation"):
            told = json.dumps({**json.loads(value), "warnings": []})
            mlflow_client.set_model_version_tag(version.name, version.version, key, told)
    with pytest.raises(Refused, match=r"leakage: on .*/validation.*: the model was chosen by"):
        promote(recipe.revised(config, "promote.robustness_floor=null", "promote.target=other"))
    register(config)


def test_a_bare_copy_registers_with_what_it_knows(config: Config, tmp_path: Path) -> None:
    shutil.copytree(f"{config.finetune.output}/model", tmp_path / "downloaded")
    bare = recipe.revised(
        config, f"register.model={tmp_path}/downloaded", "register.name=bare", f"register.evaluation={tmp_path}/none"
    )
    done = register(bare)
    tags = client.client(bare).get_model_version("bare", done["version"]).tags
    assert tags["mpc.lineage"].startswith(f"unknown: no record of a training run lies beside {tmp_path}/downloaded")
    assert not [key for key in tags if key.endswith("run_id")]
    assert lineage.trained_on(tags) is not None  # its card says so
    whole = register(recipe.revised(config, "register.name=bare"))
    assert whole["version"] == done["version"]
    register(bare)  # what is known meanwhile is not forgotten
    assert client.client(bare).get_model_version("bare", done["version"]).tags["mpc.lineage"] == "complete"


def test_of_two_who_register_the_same_weights_at_once_the_second_finds_the_first_s_version(
    trained: Config, tmp_path: Path
) -> None:
    file = tmp_path / "recipe.yaml"
    where = f"tracking: {{uri: 'sqlite:///{tmp_path}/mlflow.db'}}\nworkspace: {tmp_path}\n"
    file.write_text(f"{where}register: {{model: {trained.finetune.output}/model, name: twice}}\n")
    command = [sys.executable, "-m", "pipelines.cli", "register", "--config", str(file)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=200)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    mlflow_client = client.client(recipe.load(str(file)))
    assert [version.version for version in mlflow_client.search_model_versions("name = 'twice'")] == [1], said
    assert mlflow_client.get_registered_model("twice").aliases == {"candidate": 1}
    assert [model.name for model in mlflow_client.search_registered_models()] == ["twice"]
    runs = mlflow_client.search_runs([one.experiment_id for one in mlflow_client.search_experiments()])
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_weights_whose_entry_was_deleted_are_registered_anew(config: Config, tmp_path: Path) -> None:
    own = recipe.revised(config, f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", f"workspace={tmp_path}")
    assert register(own)["version"] == "1"
    shutil.rmtree(tmp_path / "mlflow-artifacts")
    assert register(own)["version"] == "2"
    assert register(own)["version"] == "2"


def test_a_run_whose_model_was_replaced_is_no_lineage(config: Config, tmp_path: Path) -> None:
    shutil.copytree(str(config.finetune.output), tmp_path / "run")
    other = Localizer(ModelSpec("hrformer_tiny", "mlp4", 64))
    other.save(tmp_path / "run" / "model")
    links, status = lineage.trace(f"{tmp_path}/run/model", model_digest(f"{tmp_path}/run/model"))
    assert (links, status) == ([], f"unknown: {tmp_path}/run/model is not the model of the run at {tmp_path}/run")
    links, status = lineage.trace(f"{config.finetune.output}/model", "0" * 64)
    assert links == []
    assert "no longer at" in status


def test_a_checkpoint_can_be_registered_itself_and_a_lost_encoder_is_said(config: Config, tmp_path: Path) -> None:
    best = record.read(str(config.finetune.output)).results["best"][0]
    place = f"{config.finetune.output}/checkpoints/step-{best:09d}"
    links, status = lineage.trace(place, model_digest(place))
    assert [link.name for link in links] == ["finetune", "pretrain"]
    assert (links[0].step, links[0].checkpoint, status) == (best, place, "complete")
    run = tmp_path / "run"
    shutil.copytree(str(config.finetune.output), run)
    told = yaml.safe_load((run / "config.yaml").read_text())
    told["finetune"]["encoder"] = f"{tmp_path}/gone"
    (run / "config.yaml").write_text(yaml.safe_dump(told))
    shutil.rmtree(run / "checkpoints")
    links, status = lineage.trace(f"{run}/model", model_digest(f"{run}/model"))
    assert [(link.name, link.checkpoint) for link in links] == [("finetune", "gone")]
    assert status == f"unknown: the model that finetune began with is no longer at {tmp_path}/gone"


@pytest.mark.parametrize(
    ("kind", "stated", "expected"),
    [
        (None, None, "not stated: ask whoever trained it"),
        (None, "Apache-2.0", "Apache-2.0"),
        ("stage-2", None, "CC BY-NC (the public MPC checkpoint"),
        ("stage-1", "ours", "ours; and CC BY-NC (the public MPC checkpoint"),
        ("imagenet", None, "that of the public HRFormer ImageNet checkpoint"),
    ],
)
def test_the_licence_is_never_assumed_and_that_of_public_weights_always_said(
    kind: str | None, stated: str | None, expected: str
) -> None:
    published = {"file": "x.pth", "sha256": "0" * 64, "kind": kind}
    model = Localizer(ModelSpec("hrformer_tiny", "mlp4", 64), {"published": published} if kind else {})
    assert model_card.licence(model, stated).startswith(expected)


def test_what_training_began_with_stays_in_the_card_of_the_model(trained: Config, tmp_path: Path) -> None:
    """Through stage 1 and stage 2, and to the licence."""
    from pipelines.finetune import finetune
    from pipelines.pretrain import pretrain

    start = Localizer(ModelSpec("hrformer_tiny", None, 64))
    torch.save(dict(start.encoder.state_dict()), tmp_path / "public.pth")
    config = recipe.revised(
        trained,
        f"pretrain.initial={tmp_path}/public.pth",
        f"pretrain.output={tmp_path}/pretrain",
        f"finetune.output={tmp_path}/finetune",
        f"finetune.encoder={tmp_path}/pretrain/model",
        f"tracking.uri=sqlite:///{tmp_path}/mlflow.db",
    )
    pretrain(config)
    finetune(config)
    model = Localizer.load(tmp_path / "finetune" / "model")
    assert model.card["published"]["file"] == "public.pth"
    assert model.card["published"]["kind"] == "stage-1"
    assert model_card.licence(model, None).startswith("CC BY-NC")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("twice", "is a second one on .*/test .*; leave one of them out"),
        ("unfinished", "is not finished; run `mpc evaluate` again"),
        ("other", "evaluates another model; run `mpc evaluate` for this one first"),
        ("old", "is of an earlier version"),
    ],
)
def test_evaluations_that_say_nothing_of_this_model_are_refused(
    config: Config, figures: Any, tmp_path: Path, change: str, words: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(str(config.evaluate.output), copy)
    evaluations = [str(copy)]
    copied_record = record.read(str(copy))
    if change == "twice":
        evaluations.append(str(config.evaluate.output))
    elif change == "unfinished":
        copied_record.finished = False
        copied_record.save()
    elif change == "other":
        copied_record.identity["model"] = "0" * 64
        copied_record.save()
    else:
        metrics = json.loads((copy / "metrics.json").read_text())
        del metrics["robustness"]
        (copy / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(UserError, match=words):
        register(recipe.revised(config, f"register.evaluation=[{', '.join(evaluations)}]"))
