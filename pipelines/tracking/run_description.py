"""What an MLflow run is called, and the parameters that it shows: those that its command reads."""

from pipelines.commands import COMMANDS
from pipelines.config import renamed
from pipelines.config.root import Config
from pipelines.runtime import uris

_SHARED = ("model", "train")
"""Sections that are parameters of every run whose command reads them, besides the command's own."""


def name_of(config: Config, verb: str) -> str:
    """What people see in lists of runs: `finetune hrformer_tiny mlp4`, `build photos`, `register mpc-localizer`."""
    model = config.model
    if verb == "build":
        return " ".join(["build", *(source.name for source in config.build.sources)])[:250]
    if verb == "register":
        return f"register {config.register_.name}"
    if verb == "pretrain":
        return f"pretrain {model.backbone}"
    if verb in ("finetune", "adapt", "tune"):
        return f"{verb} {model.backbone} {model.head}"
    return verb


def parameters(config: Config, verb: str) -> dict[str, str]:
    """Seed, workspace, and the sections that are the run's, resolved and without secrets, by dotted key."""
    stored = renamed.as_stored(config.dump())
    read = COMMANDS[verb].sections if verb in COMMANDS else _SHARED  # a trial is of no command
    sections = [section for section in _SHARED if section in read]
    values = {"seed": config.seed, "workspace": config.workspace}
    for section in dict.fromkeys([*sections, verb]):
        values |= {f"{section}.{key}": value for key, value in stored.get(section, {}).items()}
    return {key: uris.without_secrets(str(value))[:6000] for key, value in values.items()}
