"""The names that the modules of version 0.1.0 had: `import mpc_model.images` gives `mpc_model.imaging.codecs`.

A registered model runs its own `registry_model.py`, which imports `mpc_model` by the names of the version that
registered it. In a fresh process those are the names of the copy that lies in the entry. In a process that has already
imported a newer `mpc_model`, Python takes the modules from that one; this table lets it find them.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "mpc_model.batchnorm": "mpc_model.nn.batchnorm",
    "mpc_model.blocked": "mpc_model.losses.logsumexp",
    "mpc_model.degradations": "mpc_model.imaging.degradations",
    "mpc_model.focal": "mpc_model.losses.focal",
    "mpc_model.forging": "mpc_model.imaging.forging",
    "mpc_model.frame": "mpc_model.nn.tile_frame",
    "mpc_model.gather": "mpc_model.losses.all_gather",
    "mpc_model.headers": "mpc_model.imaging.decoding",
    "mpc_model.heads": "mpc_model.nn.heads",
    "mpc_model.hrformer": "mpc_model.nn.hrformer",
    "mpc_model.images": "mpc_model.imaging.codecs",
    "mpc_model.metrics": "mpc_model.evaluation.metrics",
    "mpc_model.readings": "mpc_model.evaluation.probes",
    "mpc_model.sampling": "mpc_model.losses.sampling",
    "mpc_model.tiling": "mpc_model.nn.tiling",
    "mpc_model.views": "mpc_model.imaging.views",
}
"""Old name -> new name."""


class _Finder(MetaPathFinder, Loader):
    """Answers imports of old names. It stands last in `sys.meta_path`: a module that has the name comes first."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Put the moved module itself in the place of the new, empty one: both names give one module."""
        sys.modules[module.__name__] = importlib.import_module(MOVED[module.__name__])


def install() -> None:
    """Make the old names importable in this process; the second time nothing happens."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
