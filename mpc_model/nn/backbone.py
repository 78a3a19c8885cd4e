"""What a backbone is, and the registry of those there are.

A new backbone is one file that registers a constructor, and one line in mpc_model/localizer.py that imports the file.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, Self

from torch import Tensor, nn

from mpc_model.nn.tile_frame import Frame
from mpc_model.registry import Registry

STRIDES = (4, 8, 16, 32)
"""Pixels of the image per pixel of each feature map, the finest map first."""
STRIDE = STRIDES[0]


class Backbone(Protocol):
    """The interface of a backbone: an nn.Module that turns images into four feature maps of the same width.

    Images are (B, 3, H, W), float in [0, 1], H and W at least 32. The maps are (B, projection_width, ceil(H/s),
    ceil(W/s)) for s in STRIDES, the finest first, and not L2-normalised: losses and probes normalise them.

    In train mode two passes over one image must differ (stochastic depth, dropout): the cross-modality loss contrasts
    them. All randomness must come from torch's global generator, which the training loop seeds before each pass. In
    eval mode nothing may be random, and no image of a batch may depend on another.

    Prediction in tiles gives each tile its `frame`: where it lies in the whole image, in pixels, its origin a multiple
    of 32. A step whose result depends on the position in the image (windows, position embeddings, resizing with aligned
    corners) must use it, so that a tile's maps are those of the whole image; a purely local network may ignore it.

    With `train.compile: blocks`, the modules whose class says `alike = True` are compiled, and those of the same sizes
    share their code; a backbone that has none is compiled as a whole.
    """

    projection_width: int
    """Channels of each feature map."""

    @property
    def spec(self) -> Any:
        """A dataclass of the sizes that the network was built from; model.json lists it for the reader."""

    def __call__(self, images: Tensor, frame: Frame | None = None) -> list[Tensor]:
        """The four feature maps of images."""

    # The methods of nn.Module that its users call.

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any: ...
    def eval(self) -> Self: ...
    def requires_grad_(self, requires_grad: bool = True) -> Self: ...


BACKBONES: Registry[Callable[[], Backbone]] = Registry("backbone")
"""Constructors by the name that `model.backbone` gives; initial weights are drawn from torch's global generator."""
