"""Model directories: loaded and identified at any location, and named in errors as the user named them."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import tiny

from mpc_model.errors import UserError
from pipelines.artifacts.model_directory import is_model_directory, load_model, model_digest, require_head
from pipelines.runtime import storage


def test_a_model_is_loaded_from_a_path_and_a_file_uri(tmp_path: Path) -> None:
    model = tiny()
    model.save(tmp_path)
    for uri in (str(tmp_path), f"file://{tmp_path}"):
        loaded = load_model(uri).state_dict()
        assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


def test_a_model_without_its_document_is_none(tmp_path: Path) -> None:
    tiny().save(tmp_path)
    digest = hashlib.sha256((tmp_path / "model.json").read_bytes()).hexdigest()
    assert is_model_directory(str(tmp_path))
    assert model_digest(str(tmp_path)) == digest
    (tmp_path / "model.json").unlink()
    assert not is_model_directory(str(tmp_path))
    with pytest.raises(UserError, match=r"no model directory at models:/name@alias; make it by"):
        model_digest(str(tmp_path), name="models:/name@alias")
    with pytest.raises(UserError, match=r"^the one in the registry: .*lacks model.json"):
        load_model(str(tmp_path), name="the one in the registry")


def test_files_that_are_too_large_are_not_read(tmp_path: Path, s3: str) -> None:
    tiny().save(tmp_path)
    for uri in (str(tmp_path), f"{s3}/large"):
        for name in ("model.safetensors", "model.json"):
            storage.write_bytes(f"{uri}/{name}", (tmp_path / name).read_bytes())
        storage.write_bytes(f"{uri}/model.json", bytes(2**20 + 1))
        with pytest.raises(UserError, match=rf"^{uri}/model.json: {2**20 + 1} bytes, a file of a model directory has"):
            model_digest(uri)
        with pytest.raises(UserError, match=rf"^{uri}/model.json: {2**20 + 1} bytes, a "):
            load_model(uri)


def test_an_encoder_makes_no_maps() -> None:
    require_head(tiny(), "somewhere")
    with pytest.raises(UserError, match=r"somewhere is a stage-1 encoder without a head"):
        require_head(tiny(head=None), "somewhere")


def test_a_digest_needs_no_torch(tmp_path: Path) -> None:
    tiny().save(tmp_path)
    script = "import sys; from pipelines.artifacts.model_directory import model_digest; model_digest(sys.argv[1])"
    script += "; print('torch' in sys.modules)"
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr
