"""The losses under the path that other code knows: `from mpc_model.contrast import multi_view_contrast`."""

from mpc_model.losses.contrast import multi_view_contrast

__all__ = ["multi_view_contrast"]
