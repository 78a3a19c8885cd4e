"""The manifests fit the schemas of what reads them, and say what the code, the lock file and the config say."""

import copy
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

import mpc_model.localizer  # noqa: F401 -- registers the backbones and heads
from mpc_model.imaging.views import VIEW_POLICIES
from mpc_model.nn.backbone import BACKBONES
from mpc_model.nn.heads import HEADS
from pipelines import cli
from pipelines.config.recipe import load
from pipelines.config.root import Config
from pipelines.ingest.listing import LAYOUTS

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
KUBERAY = INFRA / "kuberay"
SCHEMA = json.loads(Path(__file__).with_name("kuberay_schema.json").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERBS = ("build", "tune", "pretrain", "finetune", "evaluate", "register", "promote", "predict")
OLDEST_KUBERNETES = "1.30"

Manifest = dict[str, Any]


def read(name: str) -> Manifest:
    found: Manifest = yaml.safe_load((KUBERAY / name).read_text())
    return found


def job(verb: str) -> Manifest:
    """A job with its cluster, as kustomization.yaml puts them together."""
    found = read(f"jobs/{verb}.yaml")
    found["spec"]["rayClusterSpec"] = copy.deepcopy(read("cluster.yaml")["spec"])
    return found


def groups(cluster_spec: Manifest) -> dict[str, Manifest]:
    """The head and the worker groups by name."""
    return {"head": cluster_spec["headGroupSpec"]} | {one["groupName"]: one for one in cluster_spec["workerGroupSpecs"]}


def container(group: Manifest) -> Manifest:
    (only,) = group["template"]["spec"]["containers"]
    return dict(only)


def check_ray(manifest: Manifest) -> None:
    jsonschema.validate(manifest, {**SCHEMA, "$ref": f"#/$defs/{manifest['kind']}"})


def check_pod(template: Manifest, version: str) -> None:
    metadata = {"name": "pod", **template.get("metadata", {})}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
    kubernetes_validate.validate(pod, version, strict=True)


def misspelt(node: Any, free: tuple[str, ...]) -> Iterator[str]:
    """Misspell one field after another in place, each for one step of the iteration; maps in `free` have no fields."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        if isinstance(node, dict):
            node[f"{key}x"] = node.pop(key)
            yield str(key)
            node[key] = node.pop(f"{key}x")
        if isinstance(node[key], dict | list) and key not in free:
            yield from misspelt(node[key], free)


def entrypoint(verb: str) -> Any:
    """The arguments of a job, read by the real command line."""
    program, *arguments = shlex.split(read(f"jobs/{verb}.yaml")["spec"]["entrypoint"])
    assert program in PROJECT["project"]["scripts"]
    return cli.parser().parse_args(arguments)


def config_of(verb: str) -> Config:
    return load(str(KUBERAY / "config.yaml"), entrypoint(verb).overrides)


def values(node: Any) -> Iterator[Any]:
    for item in node.values() if isinstance(node, dict) else node:
        yield from values(item) if isinstance(item, dict | list) else [item]


# What KubeRay and Kubernetes read


@pytest.mark.parametrize("manifest", [read("cluster.yaml"), *map(job, VERBS)], ids=["cluster", *VERBS])
def test_ray_manifest_fits_the_schema_of_kuberay(manifest: Manifest) -> None:
    check_ray(manifest)


def test_every_misspelt_field_of_a_ray_manifest_is_refused() -> None:
    manifest = job("pretrain")
    tried = []
    for field in misspelt(manifest, free=("template", "labels", "rayStartParams")):
        tried.append(field)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(manifest, {**SCHEMA, "$ref": "#/$defs/RayJob"})
    assert {"backoffLimit", "rayVersion", "minReplicas", "mode", "name"} <= set(tried)
    check_ray(manifest)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("backoffLimit", -1),
        ("backoffLimit", "2"),
        ("shutdownAfterJobFinishes", False),  # KubeRay refuses a time to live without it
        ("entrypoint", ""),
    ],
)
def test_wrong_value_in_a_job_is_refused(field: str, value: object) -> None:
    manifest = job("build")
    manifest["spec"][field] = value
    with pytest.raises(jsonschema.ValidationError):
        check_ray(manifest)


def test_start_parameter_that_is_not_a_string_is_refused() -> None:
    manifest = read("cluster.yaml")
    manifest["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    with pytest.raises(jsonschema.ValidationError):
        check_ray(manifest)


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("name", ["head", "cpu", "gpu"])
def test_pod_template_fits_the_schema_of_kubernetes(name: str, version: str) -> None:
    check_pod(groups(read("cluster.yaml")["spec"])[name]["template"], version)


def test_misspelt_field_of_a_pod_is_refused() -> None:
    template = groups(read("cluster.yaml")["spec"])["gpu"]["template"]
    template["spec"]["containers"][0]["envForm"] = template["spec"]["containers"][0].pop("envFrom")
    with pytest.raises(kubernetes_validate.ValidationError):
        check_pod(template, OLDEST_KUBERNETES)


# Kustomize


def test_kustomization_names_files_that_exist_and_every_job() -> None:
    kustomization = read("kustomization.yaml")
    assert kustomization["resources"] == ["cluster.yaml", *(f"jobs/{verb}.yaml" for verb in VERBS)]
    assert sorted(path.stem for path in (KUBERAY / "jobs").iterdir()) == sorted(VERBS)
    files = [file for one in kustomization["configMapGenerator"] for file in one.get("files", [])]
    assert all((KUBERAY / file).is_file() for file in [*kustomization["resources"], *files])


def test_label_selects_one_verb() -> None:
    found = {verb: read(f"jobs/{verb}.yaml")["metadata"]["labels"]["app.kubernetes.io/component"] for verb in VERBS}
    assert found == {verb: verb for verb in VERBS}


def test_config_maps_that_pods_name_are_generated_and_the_secret_is_explained() -> None:
    generated = {one["name"] for one in read("kustomization.yaml")["configMapGenerator"]}
    named, secrets = set(), set()
    for group in groups(read("cluster.yaml")["spec"]).values():
        for source in container(group)["envFrom"]:
            named |= {source["configMapRef"]["name"]} if "configMapRef" in source else set()
            secrets |= {source["secretRef"]["name"]} if "secretRef" in source else set()
        named |= {volume["configMap"]["name"] for volume in group["template"]["spec"].get("volumes", [])}
    assert named == generated
    (secret,) = secrets
    assert f"create secret generic {secret} " in (INFRA / "README.md").read_text()


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_really_renders_what_the_other_tests_check() -> None:
    rendered = subprocess.run(["kubectl", "kustomize", str(KUBERAY)], check=True, capture_output=True, text=True).stdout
    found = {one["metadata"]["name"]: one for one in yaml.safe_load_all(rendered)}
    kustomization = read("kustomization.yaml")
    for verb in VERBS:
        check_ray(found[f"mpc-{verb}"])
        expected = job(verb)
        for group in groups(expected["spec"]["rayClusterSpec"]).values():
            image = group["template"]["spec"]["containers"][0]
            name, tag = image["image"].split(":")
            (new_name,) = [one["newName"] for one in kustomization["images"] if one["name"] == name]
            image["image"] = f"{new_name}:{tag}"
        assert found[f"mpc-{verb}"]["spec"] == expected["spec"]
        assert found[f"mpc-{verb}"]["metadata"]["namespace"] == kustomization["namespace"]
    assert found["mpc-config"]["data"]["config.yaml"] == (KUBERAY / "config.yaml").read_text()


# What the jobs run


@pytest.mark.parametrize("verb", VERBS)
def test_entrypoint_is_a_command_of_ours_with_a_valid_config(verb: str) -> None:
    assert entrypoint(verb).verb == verb
    config = config_of(verb)
    assert config.model.backbone in BACKBONES
    assert config.model.head in HEADS
    assert config.build.views.policy in VIEW_POLICIES
    assert all(source.layout in LAYOUTS for source in config.build.sources)


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_is_kept_on_the_disk_of_a_pod(verb: str) -> None:
    config = config_of(verb)
    assert str(config.tracking.uri).startswith(("http://", "https://"))
    local = [value for value in values(config.dump()) if isinstance(value, str) and value.startswith(("/", "sqlite:"))]
    assert local == []
    assert config.workspace.startswith("s3://")


def test_jobs_share_one_workspace_so_that_each_finds_what_the_last_one_left() -> None:
    configs = {verb: config_of(verb) for verb in VERBS}
    assert {config.workspace for config in configs.values()} == {configs["build"].workspace}
    assert configs["pretrain"].train.dataset == configs["build"].build.output
    assert configs["finetune"].finetune.encoder == f"{configs['pretrain'].pretrain.output}/model"
    assert configs["evaluate"].evaluate.model == f"{configs['finetune'].finetune.output}/model"
    assert configs["register"].register_.evaluation == configs["evaluate"].evaluate.output
    registered = configs["register"].register_
    assert configs["promote"].promote.name == registered.name
    assert configs["promote"].promote.source == registered.alias
    assert configs["predict"].predict.model == f"models:/{registered.name}@{configs['promote'].promote.target}"


def test_config_is_mounted_where_the_entrypoints_read_it() -> None:
    head = read("cluster.yaml")["spec"]["headGroupSpec"]
    (mount,) = container(head)["volumeMounts"]
    (volume,) = [one for one in head["template"]["spec"]["volumes"] if one["name"] == mount["name"]]
    generators = {one["name"]: one for one in read("kustomization.yaml")["configMapGenerator"]}
    (file,) = generators[volume["configMap"]["name"]]["files"]
    assert {entrypoint(verb).config for verb in VERBS} == {f"{mount['mountPath']}/{file}"}


@pytest.mark.parametrize("verb", ["tune", "pretrain", "finetune"])
def test_training_fits_the_gpu_workers(verb: str) -> None:
    config, group = config_of(verb), groups(read("cluster.yaml")["spec"])["gpu"]
    train, trials = config.train, (config.tune.concurrent or 1) if verb == "tune" else 1
    limits = container(group)["resources"]["limits"]
    assert train.accelerator == "gpu", "auto counts the GPUs that are there, and at the start there are none"
    assert 1 <= trials * train.workers <= group["maxReplicas"] * int(limits["nvidia.com/gpu"])
    assert train.cpus_per_worker <= int(limits["cpu"])


# What the cluster is


def test_versions_are_those_of_the_lock_file_and_of_the_package() -> None:
    spec = read("cluster.yaml")["spec"]
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert spec["rayVersion"] == locked["ray"]
    images = {container(group)["image"] for group in groups(spec).values()}
    version = PROJECT["project"]["version"]
    assert images == {f"mpc-localizer:{version}", f"mpc-localizer-gpu:{version}"}
    readme = (INFRA / "README.md").read_text()
    assert all(image in readme for image in images)


def test_head_takes_no_tasks_and_workers_scale_within_bounds() -> None:
    spec = read("cluster.yaml")["spec"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["enableInTreeAutoscaling"]
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert groups(spec)["cpu"]["maxReplicas"] > 0


@pytest.mark.parametrize(
    ("labels", "allowed"),
    [
        ({}, True),
        ({"karpenter.sh/capacity-type": "on-demand"}, True),
        ({"eks.amazonaws.com/capacityType": "ON_DEMAND"}, True),
        ({"karpenter.sh/capacity-type": "spot"}, False),
        ({"eks.amazonaws.com/capacityType": "SPOT"}, False),
        ({"cloud.google.com/gke-spot": "true"}, False),
        ({"kubernetes.azure.com/scalesetpriority": "spot"}, False),
    ],
)
def test_head_stays_off_spot_nodes(labels: dict[str, str], allowed: bool) -> None:
    affinity = read("cluster.yaml")["spec"]["headGroupSpec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]

    def holds(rule: Manifest) -> bool:
        """A node without the label satisfies NotIn, as Kubernetes defines it."""
        if rule["operator"] == "DoesNotExist":
            return rule["key"] not in labels
        assert rule["operator"] == "NotIn"
        return labels.get(rule["key"]) not in rule["values"]

    assert any(all(holds(rule) for rule in term["matchExpressions"]) for term in terms) == allowed


@pytest.mark.parametrize("name", ["head", "cpu", "gpu"])
def test_pod_asks_for_what_it_may_use(name: str) -> None:
    resources = container(groups(read("cluster.yaml")["spec"])[name])["resources"]
    assert resources["requests"] == resources["limits"]
    assert {"cpu", "memory"} <= resources["limits"].keys()
