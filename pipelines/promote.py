"""`mpc promote`: an alias (`champion`) moves to the version of another (`candidate`) if the gates hold; or back.

Every move, and every refusal, is written to the alias's audit trail (model_registry/audit_trail.py). Gates do not
apply to a rollback: going back must always be possible.
"""

from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel

from mpc_model.errors import MPCError, UserError
from pipelines.config.model_registry import PromoteConfig
from pipelines.config.root import Config
from pipelines.dataset import leakage
from pipelines.dataset.manifest import Manifest
from pipelines.model_registry import (
    audit_trail,
    baseline_gates,
    gates,
    lineage,
    lock,
    lookup,
    scored_images,
    version_metrics,
)
from pipelines.model_registry.audit_trail import PROMOTE, REFUSE, ROLLBACK, Entry, Refused
from pipelines.model_registry.gates import Answer
from pipelines.model_registry.version_metrics import AnyMetrics, VersionMetrics
from pipelines.runtime import console, tracking_uri
from pipelines.tracking import client, runs

_OFF = "not asked: the config turned it off"
"""What the trail has of a gate that was not asked."""


def promote(config: Config, *, rollback: bool = False, dry_run: bool = False) -> dict[str, Any]:
    """Move `promote.target` and return name, alias, version, and the version before; a second call changes nothing.

    `rollback` moves it to the version before, `dry_run` only says what would happen. Raises Refused (exit code 1) where
    a gate does not hold or another promotion came first, UserError where there is nothing to promote or to go back to.
    """
    settings, registry = config.promote, _registry(config)
    with client.translate_errors(config):
        model = lookup.registered_model(registry, str(settings.name), "promote.name")
        move = _back(config, model) if rollback else _forward(registry, config, model)
        if isinstance(move, str):
            console.say(f"promote: {settings.target} of {settings.name} is already version {move}; nothing to do")
            return _result(settings, move, move)
        entry, answers = move
        for answer in answers:
            console.say(f"promote: {answer.gate}: {'holds' if answer.holds else 'REFUSES'}, {answer.words}")
        if not dry_run:
            _write(registry, settings, entry, answers)
    if entry.action == REFUSE:
        against = "; ".join(f"{answer.gate}: {answer.words}" for answer in answers if not answer.holds)
        raise Refused(f"version {entry.after} of {settings.name} is not promoted to {settings.target}: {against}")
    done = "would move" if dry_run else "moved"
    came = f"from version {entry.before}" if entry.before else "which pointed nowhere,"
    console.say(f"promote: {settings.target} of {settings.name}, {came} {done} to version {entry.after} ({entry.who})")
    return _result(settings, entry.after, entry.before)


def _result(settings: PromoteConfig, version: str, before: str | None) -> dict[str, Any]:
    return {"name": settings.name, "alias": settings.target, "version": version, "before": before}


def _registry(config: Config) -> MlflowClient:
    """A client of the store. A missing database is not created, since it would have nothing to promote: UserError."""
    if database := tracking_uri.absent_database(str(config.tracking.uri)):
        raise UserError(f"nothing to promote: there is no MLflow database at {database}; run `mpc register` first")
    return client.client(config)


def _forward(registry: MlflowClient, config: Config, model: RegisteredModel) -> tuple[Entry, list[Answer]] | str:
    """The requested move, or its refusal, with the gates' answers; the version alone if the alias is already there."""
    settings = config.promote
    new, old = (_at(model, alias) for alias in (settings.source, settings.target))
    if new is None:
        raise UserError(
            f"no version of {settings.name} has the alias {settings.source}; run `mpc register`, or set promote.source"
        )
    if new == old:
        return new
    if not runs.entry_is_there(config, str(settings.name), new):
        raise UserError(
            f"the files of version {new} of {settings.name} are gone; run `mpc register`, which makes a new version"
        )
    candidate = registry.get_model_version(settings.name, new)
    console.say(f"promote: {settings.source} of {settings.name} is version {new}")
    for line in lineage.walk(candidate.tags):
        console.say(f"promote:   {line}")
    champion = registry.get_model_version(settings.name, old) if old else None
    answers = _answers(config, candidate, champion)
    gone = audit_trail.rolled_back(list(audit_trail.trail(model.tags, settings.target).values()), new)
    if gone and not settings.reason:
        words = f"version {new} was rolled back by {gone.who} at {gone.when} ({gone.why}); to promote it all the same,"
        answers.append(Answer("history", False, f"{words} say why in promote.reason"))
    refusing = list(dict.fromkeys(answer.gate for answer in answers if not answer.holds))
    action = REFUSE if refusing else PROMOTE
    why = settings.reason or (f"refused by {', '.join(refusing)}" if refusing else _held(answers))
    return Entry(action, old, new, audit_trail.who(), audit_trail.now(), why), answers


def _held(answers: list[Answer]) -> str:
    """Why an alias moved, without a reason of the user's: gates that the config turned off are named."""
    off = [answer.gate for answer in answers if answer.words == _OFF]
    return f"the gates hold, but {' and '.join(off)}, which the config turned off" if off else "the gates hold"


def _back(config: Config, model: RegisteredModel) -> tuple[Entry, list[Answer]]:
    """The move back to the last earlier version that can be loaded; also if the alias was deleted with its version."""
    settings = config.promote
    trail = list(audit_trail.trail(model.tags, settings.target).values())
    current = _at(model, settings.target)
    last = current or next((entry.after for entry in reversed(trail) if entry.action != REFUSE), None)
    if last is None:
        raise UserError(f"{settings.target} of {settings.name} points nowhere; there is nothing to roll back")
    known = audit_trail.earlier(trail, last)
    name = str(settings.name)
    earlier = next((version for version in known if runs.entry_is_there(config, name, version)), None)
    if earlier is None:
        gone = f", but {', '.join(known)}, which was deleted" if known else ""
        raise UserError(
            f"the audit trail knows of no version that {settings.target} of {settings.name} pointed to before version"
            f" {last}{gone}; promote another one instead"
        )
    return Entry(
        ROLLBACK, current, earlier, audit_trail.who(), audit_trail.now(), settings.reason or "no reason given"
    ), []


def _at(model: RegisteredModel, alias: str | None) -> str | None:
    """The version that an alias points to."""
    version = model.aliases.get(alias)
    return None if version is None else str(version)


def _answers(config: Config, candidate: ModelVersion, champion: ModelVersion | None) -> list[Answer]:
    """The answers of all gates."""
    settings = config.promote
    own = version_metrics.from_tags(candidate.tags)
    other = None if champion is None else version_metrics.from_tags(champion.tags)
    compared, answers = gates.metrics(own, other, settings.datasets, settings.margin)
    for metrics in compared:
        if metrics.model != candidate.tags.get(lineage.MODEL):
            words = f"on {metrics.name} are of another model; run `mpc evaluate` for this one, and `mpc register` again"
            answers.append(Answer("metrics", False, words))
    if settings.not_worse and champion:
        with_f1 = [metrics for metrics in compared if isinstance(metrics, VersionMetrics) and metrics.f1 is not None]
        answers += [_paired(config, metrics, candidate, champion) for metrics in with_f1]
    answers += baseline_gates.baselines(compared, settings.baselines)
    answers += baseline_gates.images(compared, settings.min_images)
    answers += baseline_gates.floors(compared, settings.min_f1, settings.robustness_area)
    answers += gates.leakage(compared, {metrics.key: _leaks(candidate, metrics) for metrics in compared})
    answers += baseline_gates.shortcuts(compared, settings.refuse_shortcuts)
    answers += gates.robustness(compared, settings.robustness_floor)
    off = {"baselines": not settings.baselines, "robustness": settings.robustness_floor is None}
    return answers + [Answer(gate, True, _OFF) for gate, is_off in off.items() if is_off]


def _paired(config: Config, metrics: VersionMetrics, candidate: ModelVersion, champion: ModelVersion) -> Answer:
    """The answer by the images that both versions were scored on."""
    file = f"evaluations/{metrics.file_name}.parquet"
    scores = [runs.entry_file(config, version.name, str(version.version), file) for version in (candidate, champion)]
    ours, theirs = scores
    apart = None if ours is None or theirs is None else scored_images.difference(ours, theirs)
    return gates.not_worse(metrics.name, apart, config.promote.margin)


def _leaks(candidate: ModelVersion, metrics: AnyMetrics) -> list[str]:
    """Warnings of leakage, from the datasets that can be read from here now."""
    seen = lineage.trained_on(candidate.tags)
    if seen is None:
        return [leakage.UNKNOWN]
    manifest = _reached(metrics.dataset, metrics.fingerprint)
    near = [
        data
        for data in seen
        if metrics.fingerprint == data["fingerprint"] or _reached(data["uri"], data["fingerprint"])
    ]
    if manifest is None or len(near) < len(seen):
        console.say(f"promote: not all data can be read from here; leakage on {metrics.name} is as `evaluate` found it")
    return leakage.warnings({"trained_on": near}, metrics.dataset, manifest, metrics.split) if manifest else []


def _reached(uri: str, fingerprint: str) -> Manifest | None:
    """The manifest of a dataset, if it can be read and is still the same."""
    try:
        manifest = Manifest.read(uri)
    except MPCError:
        return None
    return manifest if manifest.fingerprint == fingerprint else None


def _write(registry: MlflowClient, settings: PromoteConfig, entry: Entry, answers: list[Answer]) -> None:
    """Add the entry and move the alias; Refused if one of the two aliases has moved since the decision."""
    name, target = str(settings.name), settings.target
    with lock.held(registry, f"{name}.{target}", "promote"):
        model = registry.get_registered_model(name)
        trail = audit_trail.trail(model.tags, target)
        if _at(model, target) != entry.before:
            last = next((move for move in reversed(trail.values()) if move.after == _at(model, target)), None)
            by = f" by {last.who} at {last.when}" if last else ""
            raise Refused(f"{target} of {name} was moved to version {_at(model, target)} meanwhile{by}; run this again")
        if entry.action == PROMOTE and _at(model, settings.source) != entry.after:
            raise Refused(f"{settings.source} of {name} was moved to another version meanwhile; run this again")
        lines = [f"{answer.gate}: {'holds' if answer.holds else 'refuses'}, {answer.words}" for answer in answers]
        audit_trail.write(registry, name, target, max(trail, default=0) + 1, entry, lines)
        if entry.action != REFUSE:
            registry.set_registered_model_alias(name, target, entry.after)
        audit_trail.describe(registry, name)
