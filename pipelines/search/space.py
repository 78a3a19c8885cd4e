"""Where a search looks next, and what it has seen: parameters drawn by Optuna's samplers, and a ledger of trials.

    <tune.output>/trials/0007/trial.json    parameters, state, figures after each epoch, reason of a failure

A trial's parameters are a pure function of the seed, its number and (for TPE) the ledger, so that a search that was
killed goes on as if it had not been: unfinished trials first, from their own checkpoints.
"""

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import optuna
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from pydantic import ConfigDict, TypeAdapter
from typing_extensions import TypedDict

from mpc_model.errors import UserError
from pipelines.config.search import Range, TuneConfig
from pipelines.runtime import storage

optuna.logging.set_verbosity(optuna.logging.WARNING)
State = Literal["open", "finished", "stopped", "failed"]


class Point(TypedDict):
    """The figures of an epoch of a stage; `figure` is what is maximised."""

    stage: Literal["pretrain", "finetune"]
    epoch: int
    figure: float
    train_loss: float


@dataclass
class Trial:
    """One point of the search. `curve` holds the figures of each epoch trained so far, of both stages in turn."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    number: int
    parameters: dict[str, Any]
    state: State = "open"
    reason: str = ""
    run_id: str = ""
    seconds: float = 0.0
    told: int = 0  # epochs that MLflow knows of
    closed: bool = False  # whether its MLflow runs were ended
    curve: list[Point] = field(default_factory=list)

    @property
    def figure(self) -> float | None:
        """The best figure of the last stage that was reached; None before the first epoch."""
        last = [point["figure"] for point in self.curve if point["stage"] == self.curve[-1]["stage"]]
        return max(last, default=None)

    def folder(self, output: str) -> str:
        """Where everything of this trial is."""
        return storage.join(output, "trials", f"{self.number:04d}")

    def save(self, output: str) -> None:
        """Write it to the ledger."""
        document = json.dumps(asdict(self), indent=1).encode() + b"\n"
        storage.write_bytes(storage.join(self.folder(output), "trial.json"), document)


def ledger(output: str) -> list[Trial]:
    """The trials of a search so far, by number."""
    root = storage.join(output, "trials")
    if not storage.folder_exists(root):
        return []
    pattern = re.compile(re.escape(root) + r"/(\d{4,})/trial\.json")
    found = (pattern.fullmatch(file) for file in storage.list_files(root, (".json",)))
    return [read(output, number) for number in sorted(int(match[1]) for match in found if match)]


def read(output: str, number: int) -> Trial:
    """One trial of the ledger. UserError when its record is damaged."""
    folder = Trial(number, {}).folder(output)
    file = storage.join(folder, "trial.json")
    try:
        found = TypeAdapter(Trial).validate_json(storage.read_bytes(file))
        if found.number != number:
            raise ValueError
        return found
    except ValueError:  # pydantic's are
        raise UserError(f"{file} is damaged; delete {folder}, and the same command begins that trial anew") from None


def free(trials: Sequence[Trial]) -> int:
    """The number of the next trial: the first that none has."""
    taken = {trial.number for trial in trials}
    return next(number for number in itertools.count() if number not in taken)


def draw(settings: TuneConfig, seed: int, number: int, before: list[Trial]) -> dict[str, Any]:
    """The parameters of trial `number` (from 0), by config key."""
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    kinds = {"optuna": optuna.samplers.TPESampler}
    study = optuna.create_study(
        direction="maximize", sampler=kinds.get(settings.algorithm, optuna.samplers.RandomSampler)(seed=own)
    )
    if settings.algorithm == "optuna":
        study.add_trials([frozen(settings, trial, trial.figure) for trial in before if trial.figure is not None])
    asked = study.ask(distributions(settings))
    return {key: _value(settings.space[key], drawn) for key, drawn in asked.params.items()}


def distributions(settings: TuneConfig) -> dict[str, BaseDistribution]:
    """The space in Optuna's words. Values of a list are named by their YAML: Optuna's choices are plain values."""
    return {key: _distribution(values) for key, values in settings.space.items()}


def frozen(settings: TuneConfig, trial: Trial, figure: float) -> FrozenTrial:
    """A trial in Optuna's words."""
    said = {
        key: _named(value) if isinstance(settings.space[key], list) else value
        for key, value in trial.parameters.items()
    }
    return optuna.trial.create_trial(
        params=said, distributions=distributions(settings), value=figure, state=TrialState.COMPLETE
    )


def overrides(parameters: dict[str, Any]) -> list[str]:
    """Parameters as the command line would give them."""
    return [f"{key}={_named(value)}" for key, value in parameters.items()]


def corners(settings: TuneConfig) -> Iterator[str]:
    """An override for every value of a list and both ends of every range: a key that is wrong is wrong at one."""
    for key, values in settings.space.items():
        for value in [values.least, values.most] if isinstance(values, Range) else values:
            yield f"{key}={_named(value)}"


def _distribution(values: Range | list[Any]) -> BaseDistribution:
    if isinstance(values, list):
        return CategoricalDistribution([_named(value) for value in values])
    if values.whole:
        return IntDistribution(int(values.least), int(values.most), log=values.log)
    return FloatDistribution(float(values.least), float(values.most), log=values.log)


def _value(values: Range | list[Any], drawn: Any) -> Any:
    return yaml.safe_load(drawn) if isinstance(values, list) else drawn


def _named(value: Any) -> str:
    """A value on one line of YAML, as an override takes it."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).strip().removesuffix("...").strip()
