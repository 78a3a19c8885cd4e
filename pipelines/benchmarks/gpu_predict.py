"""Prediction on a device: uint8 images in the host's memory to probability maps there, ours and the bare network."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from pipelines.benchmarks import device_timing, floors
from pipelines.benchmarks.device_timing import Setting
from pipelines.benchmarks.gpu_table import Row, WrongValueError
from pipelines.benchmarks.reference_hrformer import load_plain

if TYPE_CHECKING:
    import numpy.typing as npt

TOLERANCE = 2e-3
"""Largest difference of a probability, in float32."""


def measure(setting: Setting, backbone: str, pixels: int, images: int) -> Iterator[Row]:
    """One row: `Localizer.predict` on images that are not yet of the network's size, beside the plain network.

    The plain side resizes and uploads an image at a time, runs the plain network on each, and brings each map back.
    Raises WrongValueError where the maps differ, and ModuleNotFoundError where the package safetensors is missing.
    """
    from mpc_model.localizer import Localizer, ModelSpec  # needs safetensors
    from mpc_model.nn.hrformer import HRFormer

    torch.manual_seed(0)
    with setting.device:
        localizer = Localizer(ModelSpec(backbone, "mlp4", pixels)).eval()
    encoder, head = localizer.encoder, localizer.decoder
    assert isinstance(encoder, HRFormer)
    assert head is not None
    network = load_plain(encoder.spec, encoder.state_dict()).to(setting.device).eval()
    drawn = np.random.default_rng(0)
    pictures = [drawn.integers(0, 256, (pixels * 3 // 4, pixels, 3), dtype=np.uint8) for _ in range(images)]

    @torch.inference_mode()
    def plain() -> list["npt.NDArray[np.float32]"]:
        maps = []
        for picture in pictures:
            resized = torch.from_numpy(cv2.resize(picture, (pixels, pixels))).to(setting.device)
            logits = head(network(resized.permute(2, 0, 1)[None].float() / 255))
            size = (picture.shape[0], picture.shape[1])
            maps.append(F.interpolate(logits, size, mode="bilinear", align_corners=False).sigmoid()[0, 0].cpu().numpy())
        return maps

    difference = max(float(np.abs(a - b).max()) for a, b in zip(localizer.predict(pictures), plain(), strict=True))
    if not difference <= TOLERANCE:
        raise WrongValueError(f"predict on {setting.device}: maps differ from the plain network's by {difference:.1e}")
    steps = {"ours": lambda: localizer.predict(pictures), "plain": plain}
    seconds = device_timing.rounds_of(setting, steps)
    cells = images * (pixels // 4) ** 2
    work = floors.encoder(encoder.spec, pixels, images, bits=32, backward=False) + floors.head(
        head, cells, bits=32, backward=False
    )
    yield Row(
        f"predict, {backbone} {pixels} px x {images}, fp32",
        seconds["ours"],
        seconds["plain"],
        work.seconds(setting.peaks),
        images,
        more={"difference": difference, "peak_gib": device_timing.peak_gib(setting.device, steps["ours"])},
    )
