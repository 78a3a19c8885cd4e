"""The Dockerfile, as far as it can be checked without building it."""

import json
import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile: comments out, continued lines joined."""
    lines = [line for line in (INFRA / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def last(word: str) -> str:
    return [rest for name, rest in instructions() if name == word][-1]


def test_copied_paths_exist_and_pass_the_dockerignore() -> None:
    sources = [path for word, rest in instructions() if word == "COPY" for path in rest.split()[:-1]]
    rules = (INFRA / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in rules, "the context is what is named, and nothing else"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == set(sources)
    assert [path for path in sources if not (ROOT / path).exists()] == []
    project = PROJECT["project"]
    packages = [name.removesuffix("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]
    needed = [*packages, project["readme"], *project["license-files"]]
    assert set(needed) <= set(sources)


def test_image_has_the_python_that_the_project_is_checked_with() -> None:
    python = PROJECT["tool"]["mypy"]["python_version"]
    assert last("FROM") == f"python:{python}-slim"
    assert f"PYTHON ?= python{python}\n" in (ROOT / "Makefile").read_text()


def test_image_installs_the_lock_file_without_a_cache_and_starts_mpc_as_a_plain_user() -> None:
    runs = " && ".join(rest for word, rest in instructions() if word == "RUN")
    assert "pip install --requirement requirements.lock" in runs
    assert "PIP_NO_CACHE_DIR=1" in last("ENV")
    assert "rm -rf /var/lib/apt/lists/*" in runs
    assert re.search(r"apt-get install .*\bwget\b", runs), "some versions of KubeRay probe Ray with wget"
    assert json.loads(last("ENTRYPOINT")) == [*PROJECT["project"]["scripts"]]
    assert int(last("USER")) > 0
    assert f"useradd --uid {last('USER')} " in runs


def test_pods_run_as_the_user_of_the_image() -> None:
    spec = yaml.safe_load((INFRA / "kuberay" / "cluster.yaml").read_text())["spec"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        security = group["template"]["spec"]["securityContext"]
        assert security["runAsNonRoot"]
        assert security["runAsUser"] == int(last("USER"))
