"""What is finished is found without torch and Ray, by the rule by which the commands themselves find it."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mpc_model.localizer import ModelSpec
from pipelines import reuse
from pipelines.artifacts import record
from pipelines.commands import COMMANDS
from pipelines.config.recipe import load, revised
from pipelines.config.root import Config, PredictConfig
from pipelines.dataset.manifest import Manifest
from pipelines.runtime import canonical
from pipelines.runtime.stamp import Stamp

HEAVY = "torch", "ray"
SCRIPT = """
import sys
from pipelines import cli
code = cli.main(sys.argv[1:])
names = "torch", "ray", "mlflow", "boto3", "s3fs", "aiobotocore", "matplotlib", "cv2"
print(code, *(name for name in names if name in sys.modules))
"""


def run(*arguments: str) -> tuple[str, str]:
    """(standard output, standard error) of a command in a fresh process, which prints its code and what it imported."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.strip(), done.stderr


@pytest.fixture(scope="module")
def finished(trained: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The resolved config of a pipeline in which everything but the registry is done."""
    from pipelines.evaluate import evaluate
    from pipelines.predict import predict
    from pipelines.tracking import results

    folder = tmp_path_factory.mktemp("reuse")
    config = revised(
        trained,
        f"evaluate.output={folder}/evaluate",
        "evaluate.robustness=[]",
        f"predict.input={trained.build.sources[0].location}",
        f"predict.output={folder}/predict",
        f"predict.model={trained.evaluate.model}",
    )
    results.record(config, COMMANDS["evaluate"], evaluate(config))
    results.record(config, COMMANDS["build"], Manifest.read(str(config.build.output)))
    predict(config)
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config.dump()))
    return file


@pytest.mark.parametrize(
    ("verb", "line"),
    [
        ("pretrain", "pretrain: reusing the finished run at "),
        ("finetune", "finetune: reusing the finished run at "),
        ("predict", "predict: reusing the finished maps at "),
    ],
)
def test_a_finished_output_is_said_without_torch_ray_and_mlflow(finished: Path, verb: str, line: str) -> None:
    output, said = run(verb, "--config", str(finished))
    assert output == "0 cv2"
    assert said.count("\n") == 1
    assert said.startswith(line)


def test_finished_maps_of_a_registered_model_need_neither_torch_nor_ray(finished: Path, tmp_path: Path) -> None:
    from pipelines.predict import predict
    from pipelines.register import register

    overrides = [f"predict.output={tmp_path}/maps", "predict.model=models:/mpc-localizer@candidate"]
    config = load(str(finished), overrides)
    register(config)
    predict(config)
    output, said = run("predict", "--config", str(finished), *overrides)
    code, *imported = output.split()
    assert code == "0"
    assert not {*HEAVY} & {*imported}
    assert "predict: reusing the finished maps at " in said


@pytest.mark.parametrize("verb", ["build", "evaluate"])
def test_a_finished_result_that_is_recorded_needs_neither_torch_nor_ray(finished: Path, verb: str) -> None:
    output, said = run(verb, "--config", str(finished))
    code, *imported = output.split()
    assert code == "0"
    assert not {*HEAVY} & {*imported}
    assert f"{verb}: reusing the finished" in said


def test_a_wrong_key_is_refused_before_anything_large_is_imported() -> None:
    output, said = run("finetune", "--config", "demo", "train.batch_sise=8")
    assert output == "2"
    assert said == "mpc finetune: unknown key 'train.batch_sise': did you mean 'batch_size'?\n"


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_the_identity_of_a_training_names_the_model_as_its_record_does(trained: Config, verb: str) -> None:
    manifest = Manifest.read(str(trained.train.dataset))
    identity = reuse.training_identity(trained, verb, manifest)
    model = trained.model
    head = None if verb == "pretrain" else model.head
    assert identity["model"] == ModelSpec(model.backbone, head, model.input_size).to_json()
    assert record.finished(str(getattr(trained, verb).output), verb, lambda: identity)
    assert not {"momentum", "power", "supervision"} & identity[verb].keys()  # earlier versions had no such keys


@pytest.mark.parametrize(
    ("verb", "override"),
    [
        ("pretrain", "seed=7"),
        ("pretrain", "pretrain.temperature=0.2"),
        ("finetune", "finetune.alpha=0.4"),
        ("finetune", "finetune.momentum=0.8"),
        ("finetune", "train.batch_size=3"),
        ("evaluate", "evaluate.split=validation"),
        ("evaluate", "evaluate.precision=bf16"),
        ("predict", "predict.overlays=false"),
        ("predict", "predict.tile=256"),
        ("predict", "predict.precision=bf16"),
        ("tune", "tune.trials=3"),
    ],
)
def test_what_changes_the_result_is_not_finished(finished: Path, verb: str, override: str) -> None:
    from pipelines.config.recipe import load

    assert getattr(reuse, COMMANDS[verb].finished)(load(str(finished), [override])) is None


def test_what_does_not_change_the_result_is_finished(finished: Path) -> None:
    from pipelines.config.recipe import load

    config = load(str(finished), ["train.loader_threads=1", "train.max_failures=0"])
    results = reuse.finished_pretrain(config)
    assert results
    assert results["step"] > 0
    assert reuse.finished_evaluate(load(str(finished), ["evaluate.batch_size=4", "evaluate.precision=fp32"]))
    assert reuse.finished_predict(load(str(finished), ["predict.batch_size=4", "predict.precision=fp32"]))


def test_outputs_of_earlier_versions_which_name_no_precision_are_finished() -> None:
    settings, files = PredictConfig(), {"/in/a.png": Stamp(10, 20)}
    assert reuse.prediction_request(files, settings) == canonical.digest([sorted(files.items()), True, None])


def test_reports_that_wait_for_mlflow_or_a_lost_model_are_something_to_do(finished: Path, tmp_path: Path) -> None:
    import shutil

    from pipelines.config.recipe import load

    config = load(str(finished))
    copied = tmp_path / "pretrain"
    shutil.copytree(str(config.pretrain.output), copied)
    there = load(str(finished), [f"pretrain.output={copied}"])
    assert reuse.finished_pretrain(there)
    (copied / "tracking").mkdir(exist_ok=True)
    (copied / "tracking" / "unsent.json").write_text("[]")
    assert reuse.finished_pretrain(there) is None
    (copied / "tracking" / "unsent.json").unlink()
    (copied / "model" / "model.json").unlink()
    assert reuse.finished_pretrain(there) is None


def test_the_registry_is_asked_for_a_registered_model(finished: Path) -> None:
    from pipelines.config.recipe import load

    assert reuse.finished_predict(load(str(finished), ["predict.model=models:/mpc-localizer@candidate"])) is None
