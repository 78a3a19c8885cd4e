"""What an entry says to its consumers."""

import pytest
import yaml

from pipelines.model_registry import entry


@pytest.mark.parametrize(
    ("artifacts", "package"),
    [
        ("s3://bucket/1/2/artifacts", "boto3=="),
        ("gs://bucket/1", "google-cloud-storage"),
        ("mlflow-artifacts:/1/2/artifacts", None),
        ("/data/mlflow-artifacts/1", None),
    ],
)
def test_a_consumer_is_told_what_reads_the_store_of_the_artifacts(artifacts: str, package: str | None) -> None:
    first, *lines = entry.requirements(artifacts)
    assert first == f"--extra-index-url {entry.TORCH_INDEX}"
    assert [line.partition("=")[0] for line in lines[:6]] == [
        *("mlflow", "numpy", "opencv-python-headless", "pillow", "safetensors", "torch")
    ]
    assert not any("+" in line for line in lines)
    assert [line.startswith(str(package)) for line in lines[6:]] == ([True] if package else [])


def test_folders_of_the_machine_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    text = (
        "workspace: /home/anna/runs/a\nat: /home/anna/runs/a/dataset, /home/anna/photos, /home/anna/runs/ab, s3://b\n"
    )
    assert entry.portable(text, "/home/anna/runs/a") == (
        "workspace: $WORKSPACE\nat: $WORKSPACE/dataset, ~/photos, ~/runs/ab, s3://b\n"
    )
    assert yaml.safe_load(entry.portable("output: /home/anna/runs/a/x", "/home/anna/runs/a")) == {
        "output": "$WORKSPACE/x"
    }
    assert entry.portable(text, "s3://b") == text.replace("/home/anna", "~")


def test_mlflows_description_names_places_in_the_entry() -> None:
    flavor = {
        "artifacts": {"model": {"path": "artifacts/model", "uri": "/tmp/abc/model"}},
        "model_code_path": "/home/anna/code/pyfunc_model.py",
    }
    described = {"artifact_path": "/home/anna/store/m-1", "flavors": {"python_function": flavor}, "model_id": "m-1"}
    made = yaml.safe_load(entry.portable_mlmodel(yaml.safe_dump(described)))
    assert made == {
        "artifact_path": "models:/m-1",
        "flavors": {
            "python_function": {
                "artifacts": {"model": {"path": "artifacts/model", "uri": "artifacts/model"}},
                "model_code_path": "pyfunc_model.py",
            }
        },
        "model_id": "m-1",
    }
    remote = yaml.safe_dump({**described, "artifact_path": "s3://bucket/m-1"})
    assert yaml.safe_load(entry.portable_mlmodel(remote))["artifact_path"] == "s3://bucket/m-1"
