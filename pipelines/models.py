"""`mpc models`: the versions of a registered model, their aliases and metrics, and the audit trail, on the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from json import dumps
from typing import Any

from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from typing_extensions import TypedDict

from mpc_model.errors import UserError
from pipelines.config.root import Config
from pipelines.model_registry import audit_trail, lookup, version_metrics
from pipelines.model_registry.audit_trail import Entry
from pipelines.model_registry.version_metrics import AnyMetrics, ClassVersionMetrics, VersionMetrics
from pipelines.runtime import tracking_uri, uris
from pipelines.tracking import client

SHOWN = 20
"""Entries of the audit trail that are printed; with --json all are there."""


class Version(TypedDict):
    """A version as `--json` prints it; `registered` is in UTC, `metrics` has a test set each."""

    version: str
    aliases: list[str]
    registered: str
    run_id: str | None
    licence: str | None
    metrics: dict[str, dict[str, float]]


class Models(TypedDict):
    """What `--json` prints: the versions, newest first, and for each alias its entries, oldest first."""

    name: str
    uri: str
    versions: list[Version]
    audit_trail: dict[str, list[dict[str, Any]]]


def models(config: Config, *, json: bool = False) -> Models:
    """Print the registered model `register.name`: a table for people, or JSON. Nothing is written.

    Raises UserError where there is no such model, or no store.
    """
    uri, name = str(config.tracking.uri), str(config.register_.name)
    if database := tracking_uri.absent_database(uri):
        raise UserError(f"there is no MLflow database at {database}; run `mpc register`, or set tracking.uri")
    registry = client.client(config)
    with client.translate_errors(config):
        model = lookup.registered_model(registry, name, "register.name")
        versions = lookup.versions(registry, name)
    trails = {alias: list(audit_trail.trail(model.tags, alias).values()) for alias in audit_trail.aliases(model.tags)}
    found = Models(
        name=name,
        uri=uris.without_secrets(uri),
        versions=[_version(model, version) for version in versions],
        audit_trail={alias: [asdict(entry) for entry in entries] for alias, entries in trails.items()},
    )
    if json:
        print(dumps(found, indent=1), flush=True)
    else:
        measured = {str(version.version): version_metrics.from_tags(version.tags) for version in versions}
        print("\n".join(_lines(found, measured, trails)), flush=True)
    return found


def _version(model: RegisteredModel, version: ModelVersion) -> Version:
    number = str(version.version)
    return Version(
        version=number,
        aliases=sorted(alias for alias, at in model.aliases.items() if str(at) == number),
        registered=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
        run_id=version.run_id,
        licence=version.tags.get("mpc.licence"),
        metrics={
            metrics.name: version_metrics.as_numbers(metrics)
            for metrics in version_metrics.from_tags(version.tags).values()
        },
    )


def _lines(
    found: Models,
    measured: Mapping[str, Mapping[version_metrics.Key, AnyMetrics]],
    trails: Mapping[str, Sequence[Entry]],
) -> list[str]:
    lines = [f"{found['name']} at {found['uri']}", ""]
    if not found["versions"]:
        lines.append("it has no version")
    for version in found["versions"]:
        aliases = ", ".join(version["aliases"])
        day = version["registered"].replace("T", " ").removesuffix("+00:00")
        lines.append(f"version {version['version']}{f' ({aliases})' if aliases else ''}, registered {day} UTC")
        lines += [f"  {line}" for line in _of_sets(measured[version["version"]])]
    for alias, entries in trails.items():
        lines += ["", f"audit trail of {alias}, newest first"]
        lines += [f"  {audit_trail.in_words(entry)}" for entry in reversed(entries[-SHOWN:])]
        if len(entries) > SHOWN:
            lines.append(f"  and {len(entries) - SHOWN} earlier ones; --json has all")
    return lines


def _of_sets(measured: Mapping[version_metrics.Key, AnyMetrics]) -> list[str]:
    if not measured:
        return ["not evaluated"]
    names = {key: metrics.name for key, metrics in measured.items()}
    width = max(map(len, names.values()))
    return [f"{names[key]:<{width}}  {_of_set(metrics)}" for key, metrics in measured.items()]


def _of_set(metrics: AnyMetrics) -> str:
    """The main metrics of a test set in one line."""
    if isinstance(metrics, ClassVersionMetrics):
        shown = {"Dice": metrics.foreground_dice, "untrained": metrics.untrained, "mean IoU": metrics.mean_iou}
        return ", ".join(f"{name} {_shown(value)}" for name, value in shown.items())
    return ", ".join(_of_forgeries(metrics))


def _of_forgeries(metrics: VersionMetrics) -> list[str]:
    interval = metrics.intervals.get("f1")
    spread = f" ({interval['low']:.3f} to {interval['high']:.3f})" if interval else ""
    parts = [f"F1 {_shown(metrics.f1)}{spread} of {metrics.forged_images} forged images"]
    baselines = {
        "untrained": metrics.untrained,
        "everything forged": metrics.everything_forged,
        "constant map": metrics.constant_map,
    }
    parts += [f"{name} {value:.3f}" for name, value in baselines.items() if value is not None]
    others = {"image AUC": metrics.image_auc, "false alarms": metrics.false_alarm_rate}
    parts += [f"{name} {value:.3f}" for name, value in others.items() if value is not None]
    doubts = len(metrics.warnings) + len(metrics.shortcuts or [])
    return [*parts, f"{doubts} doubts"] if doubts else parts


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
