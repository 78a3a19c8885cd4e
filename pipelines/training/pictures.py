"""Pictures of training: the feature space and the predictions on fixed validation images, one sheet each time.

<output>/pictures/step-000001000.jpg, which is an artifact of the MLflow run, too
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch

from mpc_model.errors import InfrastructureError, UserError
from mpc_model.evaluation.class_metrics import most_probable
from mpc_model.evaluation.probes import kmeans_probe, stack_levels
from mpc_model.imaging import codecs, drawing
from mpc_model.localizer import Localizer, eval_mode, to_probabilities
from pipelines.config.root import Config
from pipelines.dataset.batch import scaled
from pipelines.runtime import console, storage, uris
from pipelines.training import validation

IMAGES = 5
PLOT = 420
"""Side of the scatter plot, in pixels."""
_COLOURS = ((43, 108, 176), (213, 63, 111))  # authentic, forged


class _Output(NamedTuple):
    """What the network makes of one image: its four maps, and the logits where there is a head, on its device."""

    maps: list[torch.Tensor]
    logits: torch.Tensor | None


class Pictures:
    """Draws a localizer on the same few forged validation images each time; they are read when first needed."""

    def __init__(self, config: Config, verb: str, device: torch.device) -> None:
        self._config, self._verb, self._device = config, verb, device
        self._images: list[tuple[codecs.Image, codecs.Mask]] = []

    @torch.no_grad()
    def prepare(self, localizer: Localizer, step: int) -> Callable[[], str | None]:
        """Send the images through the network, in eval mode.

        What is returned waits for that, writes the sheet, and returns its name below the output; None, with a warning,
        where storage fails or refuses. It needs the localizer no more, and any thread may call it.
        """
        self._images = self._images or self._read()
        outputs = list[_Output]()
        with eval_mode(localizer):
            for image, _ in self._images:
                maps = localizer.features(scaled(torch.from_numpy(image)[None], self._device))
                outputs.append(_Output(maps, None if localizer.decoder is None else localizer.decoder(maps)))
        return partial(self._draw, outputs, localizer.spec.labels, step)

    @torch.no_grad()
    def _draw(self, outputs: Sequence[_Output], names: Sequence[str], step: int) -> str | None:
        rows, features, labels = [], list[torch.Tensor](), list[npt.NDArray[np.uint8]]()
        for (image, mask), output in zip(self._images, outputs, strict=True):
            maps = [_finite(level[0]) for level in output.maps]
            stacked = stack_levels(maps)
            features.append(stacked)
            labels.append(cv2.resize(mask, stacked.shape[1::-1], interpolation=cv2.INTER_NEAREST))
            picture = drawing.mask_picture(mask) if len(names) == 2 else drawing.class_picture(mask, names)
            rows.append([image, picture, _prediction(maps, output.logits, names, mask.shape)])
        points = _principal_components(torch.cat([pixels.flatten(0, 1) for pixels in features]))
        colours = _as_colours(points)
        start = 0
        for row, pixels in zip(rows, features, strict=True):
            count = pixels.shape[0] * pixels.shape[1]
            row.insert(2, colours[start : start + count].reshape(*pixels.shape[:2], 3))
            start += count
        prediction = _title(outputs[0].logits)
        sheet = drawing.sheet(rows, ("image", "mask", "features", prediction), [""] * len(rows))
        classes = np.concatenate([label.ravel() for label in labels])
        plot = _scatter(points[:, :2], classes, names, f"{self._verb}, step {step}")
        name = f"pictures/step-{step:09d}.jpg"
        data = codecs.encode_jpeg(_side_by_side(sheet, plot), 90)
        try:
            storage.write_bytes(uris.join(str(getattr(self._config, self._verb).output), name), data)
        except (InfrastructureError, UserError) as error:
            console.warn(
                f"{self._verb}: the pictures of step {step} could not be written: {error}; training goes on without"
                " them; free space or mend the access, or draw none (train.pictures_every=null)"
            )
            return None
        return name

    def _read(self) -> list[tuple[codecs.Image, codecs.Mask]]:
        batches = validation.fixed_batches(self._config, "validation", 2 * IMAGES)  # half of them are forged
        pairs = [pair for batch in batches for pair in zip(batch.images.numpy(), batch.masks.numpy(), strict=True)]
        return [(image, mask) for image, mask in pairs if ((mask > 0) & (mask != codecs.IGNORED)).any()][:IMAGES]


def _finite(values: torch.Tensor) -> torch.Tensor:
    """Values on the CPU, zero where they are not finite: training says of a bad step what there is to say."""
    return torch.nan_to_num(values.cpu(), nan=0.0, posinf=0.0, neginf=0.0)


def _title(logits: torch.Tensor | None) -> str:
    """What the pictures of predictions show."""
    if logits is None:
        return "two clusters"
    return "forgery probability" if logits.shape[1] == 1 else "class map"


def _prediction(
    maps: Sequence[torch.Tensor], logits: torch.Tensor | None, names: Sequence[str], size: tuple[int, int]
) -> codecs.Image:
    """The prediction as a heat map, or in the colours of several classes: the head's, or k-means where there is no head
    yet."""
    if logits is not None:
        probabilities = _finite(to_probabilities(logits, size)[0]).numpy()
        if logits.shape[1] == 1:
            return drawing.heat(probabilities)
        return drawing.class_picture(most_probable(probabilities), names)
    clusters = kmeans_probe(maps, torch.Generator().manual_seed(0))
    return drawing.heat(clusters.astype(np.float32))


def _principal_components(rows: torch.Tensor) -> npt.NDArray[np.float32]:
    """Rows (N, C) on their first three principal axes: (N, 3)."""
    centred = rows.double().numpy()
    centred -= centred.mean(0)
    # In float64: in float32, torch's eigh was seen to give NaN for a finite covariance.
    _, axes = np.linalg.eigh(centred.T @ centred)
    projected: npt.NDArray[np.float32] = (centred @ axes[:, :-4:-1]).astype(np.float32)
    return projected


def _as_colours(points: npt.NDArray[np.float32]) -> codecs.Image:
    """Each axis from its 1st to its 99th percentile as one of red, green and blue: uint8 (N, 3)."""
    low, high = np.percentile(points, (1, 99), axis=0)
    scaled = np.clip((points - low) / np.maximum(high - low, 1e-9), 0, 1)
    coloured: codecs.Image = np.rint(255 * scaled).astype(np.uint8)
    return coloured


def _scatter(
    points: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8], names: Sequence[str], title: str
) -> codecs.Image:
    """At most 2,000 pixels of each class on the first two principal axes, coloured by class."""
    canvas = np.full((PLOT + 60, PLOT, 3), 255, np.uint8)
    low, high = np.percentile(points, (0.5, 99.5), axis=0)
    positions = np.clip((points - low) / np.maximum(high - low, 1e-9), 0, 1) * (PLOT - 20) + 10
    generator = np.random.default_rng(0)
    colours = _COLOURS if len(names) == 2 else tuple(map(tuple, drawing.class_colours(names).tolist()))
    for label, colour in enumerate(colours):
        members = np.flatnonzero(labels == label)
        for member in generator.permutation(members)[:2000]:
            x, y = positions[member]
            cv2.circle(canvas, (round(float(x)), 30 + round(float(y))), 2, colour, -1, cv2.LINE_AA)
    drawing.write(canvas, f"{title}: pixels on their two principal axes", 10, 18)
    if len(names) > 2:
        return np.concatenate([canvas[:-30], drawing.class_legend(names, PLOT)])
    for label, name in enumerate(names):
        cv2.circle(canvas, (16 + 110 * label, PLOT + 45), 5, colours[label], -1, cv2.LINE_AA)
        drawing.write(canvas, name, 28 + 110 * label, PLOT + 50)
    return canvas


def _side_by_side(left: codecs.Image, right: codecs.Image) -> codecs.Image:
    """Two pictures side by side on white."""
    height = max(left.shape[0], right.shape[0])
    padded = [
        cv2.copyMakeBorder(picture, 0, height - picture.shape[0], 0, 0, cv2.BORDER_CONSTANT, value=(255, 255, 255))
        for picture in (left, right)
    ]
    return np.concatenate(padded, axis=1)
