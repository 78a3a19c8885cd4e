"""How a localizer is adapted to images without labels: a module for each method, chosen by `adapt.method`."""

from collections.abc import Callable

from torch import nn

from mpc_model.localizer import Localizer
from mpc_model.registry import Registry
from pipelines.config.root import Config

ADAPTATIONS: Registry[Callable[[Localizer, Config], nn.Module]] = Registry("adaptation")
"""Each makes the module of a stage (pipelines/training/stage.py), with `parameter_groups`, as a supervision does."""
