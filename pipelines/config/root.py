"""The config: a section for what is shared, one for each command, and their defaults.

Every section is a pydantic model that refuses unknown and ill-typed keys. `resolve_locations` fills locations that are
left open from `workspace`. The sections of training are in pipelines/config/training.py, those of the registry in
pipelines/config/model_registry.py; pipelines/config/recipe.py reads a config from a YAML file and dotted overrides.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from mpc_model.errors import UserError
from pipelines.config.base import BatchSize, Location, ModelLocation, OutputLocation, PoolConfig, Precision, Section
from pipelines.config.build import BuildConfig
from pipelines.config.model_registry import CompareConfig, EvaluateConfig, PromoteConfig, RegisterConfig
from pipelines.config.search import TuneConfig
from pipelines.config.training import AdaptConfig, FinetuneConfig, ModelConfig, PretrainConfig, TrainConfig
from pipelines.runtime import layout, tracking_uri, uris


class PredictConfig(PoolConfig):
    """A folder or prefix of images to probability maps."""

    input: Location | None = None
    """One image, a folder or s3:// prefix of images, or a listing: CSV, TSV or Parquet with a column image, or a .txt
    file with one location a line. It must be given."""
    model: ModelLocation | None = None
    """A model directory, or a registered model such as models:/mpc-localizer@candidate; left out, the champion: what
    `promote.target` names of `register.name`."""
    output: OutputLocation | None = None
    """Where maps, overlays and scores go; left out, `<workspace>/predict`."""
    overlays: bool = True
    """Also draw each map over its image."""
    tile: Annotated[int, Field(ge=256)] | Literal[0] | None = None
    """Images at their own size, in tiles of about so many pixels a side where they are large; 0 never. Left out: tiles
    for a model that takes images at their own size, none for one that resizes them."""
    batch_size: BatchSize = "auto"
    """Images that go through the network at once; auto: what half of a GPU's free memory holds, 64 at most, and one on
    a CPU."""
    precision: Precision = "fp32"
    """bf16 runs the network under autocast; `mpc evaluate` says how far its maps are from those of fp32."""


class TrackingConfig(Section):
    """Where MLflow keeps runs and models."""

    uri: Annotated[str, AfterValidator(tracking_uri.checked)] | None = None
    """A server (http://...), or an SQLite file (sqlite:///path); left out, MLFLOW_TRACKING_URI, or a file in the
    workspace."""
    experiment: Annotated[str, Field(min_length=1, max_length=200)] = "mpc"
    """Name of the MLflow experiment."""


class DemoConfig(Section):
    """The photographs of `mpc demo`: a folder or s3:// prefix; left out, those that installed packages ship."""

    photos: Location | None = None
    """A folder or s3:// prefix of photographs; left out, those that installed packages ship."""


class Config(Section):
    """All sections, and the keys that every command reads."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """What every draw follows from: splits, forgeries, initial weights, order of samples, search."""
    workspace: OutputLocation = "runs/mpc"
    """Folder or s3:// prefix. Every location that is left out becomes a folder in it."""
    build: BuildConfig = BuildConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    pretrain: PretrainConfig = PretrainConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    adapt: AdaptConfig = AdaptConfig()
    tune: TuneConfig = TuneConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    compare: CompareConfig = CompareConfig()
    register_: RegisterConfig = Field(default=RegisterConfig(), alias="register")
    promote: PromoteConfig = PromoteConfig()
    predict: PredictConfig = PredictConfig()
    tracking: TrackingConfig = TrackingConfig()
    demo: DemoConfig = DemoConfig()

    def dump(self) -> dict[str, Any]:
        """The resolved config as plain values, ready for YAML or JSON, without passwords that a URI may hold."""
        values: dict[str, Any] = json.loads(uris.without_secrets(self.model_dump_json(by_alias=True)))
        return values


def resolve_locations(config: Config) -> Config:
    """The config with every location that was left open in its workspace, or where another section puts it."""

    def at(*parts: str) -> str:
        return uris.join(config.workspace, *parts)

    dataset = config.build.output or at("dataset")
    model = layout.model_of(config.finetune.output or at("finetune"))
    register, evaluate, promote = config.register_, config.evaluate, config.promote
    defaults = {
        "build": {"output": dataset},
        "train": {"dataset": dataset},
        "pretrain": {"output": at("pretrain")},
        "tune": {"output": at("tune")},
        "finetune": {
            "output": at("finetune"),
            "encoder": layout.model_of(config.pretrain.output or at("pretrain")),
        },
        "adapt": {"output": at("adapt"), "start": model},
        "evaluate": {"model": model, "dataset": config.train.dataset or dataset, "output": at("evaluate")},
        "register_": {"model": model, "evaluation": evaluate.output or at("evaluate")},
        "promote": {"name": register.name, "source": register.alias},
        "predict": {"model": f"models:/{register.name}@{promote.target}", "output": at("predict")},
        "tracking": {"uri": config.tracking.uri or _tracking(config.workspace)},
    }
    sections = {name: _filled(getattr(config, name), values) for name, values in defaults.items()}
    return config.model_copy(update=sections)


def _filled(section: Section, defaults: Mapping[str, Any]) -> Section:
    """The section with defaults where it has None."""
    return section.model_copy(update={key: value for key, value in defaults.items() if getattr(section, key) is None})


def _tracking(workspace: str) -> str:
    """What MLFLOW_TRACKING_URI says; else an SQLite file, which is local: in the workspace, or under runs/ when the
    workspace is remote."""
    try:
        given = tracking_uri.default()
    except ValueError as error:
        raise UserError(str(error)) from None
    return given or tracking_uri.of_file(uris.join("runs" if uris.is_remote(workspace) else workspace, "mlflow.db"))
