"""Multi-view pixel contrast: the science, without Ray or MLflow (torch, numpy, OpenCV and safetensors only).

from mpc_model import Localizer
"""

from typing import TYPE_CHECKING, Any

from mpc_model import moved

if TYPE_CHECKING:
    from mpc_model.localizer import Localizer

__all__ = ["Localizer"]

moved.install()


def __getattr__(name: str) -> Any:
    """`Localizer`, imported when it is first asked for: errors and help texts need not wait for torch."""
    if name == "Localizer":
        from mpc_model.localizer import Localizer

        return Localizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
