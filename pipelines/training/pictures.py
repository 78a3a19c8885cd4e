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

from mpc_model.classes import IGNORED
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
_SHOWN_PIXELS = 2000
"""Pixels of each class in the scatter plot, at most."""
_CLUSTERS = (np.uint8(70), np.uint8(190))
"""Greys of two clusters: which of them is forged is not known."""


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
        points, shares = _principal_components(torch.cat([pixels.flatten(0, 1) for pixels in features]))
        colours = _as_colours(points)
        start = 0
        for row, pixels in zip(rows, features, strict=True):
            count = pixels.shape[0] * pixels.shape[1]
            row.insert(2, colours[start : start + count].reshape(*pixels.shape[:2], 3))
            start += count
        titles = ("image", "mask: white is forged" if len(names) == 2 else "mask", *_titles(outputs[0].logits))
        captions = [f"image {number}: {_share(mask, names)}" for number, (_, mask) in enumerate(self._images, 1)]
        sheet = drawing.sheet(rows, titles, captions)
        classes = np.concatenate([label.ravel() for label in labels])
        plot = _scatter(points[:, :2], classes, names, f"{self._verb}, step {step}", shares)
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
        dataset = validation.validation_dataset(self._config, self._verb)
        batches = validation.fixed_batches(self._config, "validation", 2 * IMAGES, dataset=dataset)  # half are forged
        pairs = [pair for batch in batches for pair in zip(batch.images.numpy(), batch.masks.numpy(), strict=True)]
        return [(image, mask) for image, mask in pairs if ((mask > 0) & (mask != IGNORED)).any()][:IMAGES]


def _finite(values: torch.Tensor) -> torch.Tensor:
    """Values on the CPU, zero where they are not finite: training says of a bad step what there is to say."""
    return torch.nan_to_num(values.cpu(), nan=0.0, posinf=0.0, neginf=0.0)


def _titles(logits: torch.Tensor | None) -> tuple[str, str]:
    """What the pictures of features and of predictions show."""
    features = "features: axes 1 to 3"
    if logits is None:
        return features, "two clusters"
    return features, "forgery probability" if logits.shape[1] == 1 else "class map"


def _share(mask: npt.NDArray[np.uint8], names: Sequence[str]) -> str:
    """What a mask holds, for the caption of its image."""
    if len(names) == 2:
        return f"{(mask == 1).sum() / max(1, (mask != IGNORED).sum()):.0%} of it forged"
    return f"{len(np.setdiff1d(mask, [IGNORED]))} of {len(names)} classes in it"


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
    return np.repeat(np.where(clusters > 0, *_CLUSTERS)[..., None], 3, axis=2)


def _principal_components(rows: torch.Tensor) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Rows (N, C) on their first three principal axes, (N, 3), and the share of the variance that each axis has."""
    centred = rows.double().numpy()
    centred -= centred.mean(0)
    # In float64: in float32, torch's eigh was seen to give NaN for a finite covariance.
    _, axes = np.linalg.eigh(centred.T @ centred)
    projected = centred @ axes[:, :-4:-1]
    shares = np.square(projected).sum(0) / max(float(np.square(centred).sum()), 1e-30)
    return projected.astype(np.float32), shares


def _as_colours(points: npt.NDArray[np.float32]) -> codecs.Image:
    """Each axis from its 1st to its 99th percentile as one of red, green and blue: uint8 (N, 3)."""
    low, high = np.percentile(points, (1, 99), axis=0)
    scaled = np.clip((points - low) / np.maximum(high - low, 1e-9), 0, 1)
    coloured: codecs.Image = np.rint(255 * scaled).astype(np.uint8)
    return coloured


def _scatter(
    points: npt.NDArray[np.float32],
    labels: npt.NDArray[np.uint8],
    names: Sequence[str],
    title: str,
    shares: Sequence[float] | npt.NDArray[np.float64],
) -> codecs.Image:
    """At most _SHOWN_PIXELS pixels of each class on the first two principal axes (N, 2), coloured by class, in random
    order so that none hides the others. `shares` of the variance are written at the axes."""
    left, top = 26, 46
    canvas = np.full((top + PLOT + 54, left + PLOT + 10, 3), 255, np.uint8)
    low, high = np.percentile(points, (0.5, 99.5), axis=0)
    positions = np.clip((points - low) / np.maximum(high - low, 1e-9), 0, 1) * (PLOT - 12) + 6
    generator = np.random.default_rng(0)
    two = len(names) == 2
    colours = (
        (drawing.AUTHENTIC, drawing.FORGED) if two else [tuple(map(int, one)) for one in drawing.class_colours(names)]
    )
    members = [generator.permutation(np.flatnonzero(labels == label))[:_SHOWN_PIXELS] for label in range(len(names))]
    cv2.rectangle(canvas, (left, top), (left + PLOT, top + PLOT), (170, 176, 190), 1)
    for member in generator.permutation(np.concatenate(members)):
        x, y = positions[member]
        centre = (left + round(float(x)), top + PLOT - round(float(y)))
        cv2.circle(canvas, centre, 2, colours[labels[member]], -1, cv2.LINE_AA)
    drawing.write(canvas, title, left, 16)
    drawing.write(canvas, "a dot is a pixel of these images, by its features", left, 36)
    drawing.write(canvas, f"principal axis 1 ({shares[0]:.0%} of the variance)", left + 90, top + PLOT + 18)
    upright = np.full((left - 4, PLOT, 3), 255, np.uint8)
    drawing.write(upright, f"principal axis 2 ({shares[1]:.0%})", 130, left - 10)
    canvas[top : top + PLOT, : left - 4] = cv2.rotate(upright, cv2.ROTATE_90_COUNTERCLOCKWISE)
    if not two:
        return np.concatenate([canvas[:-24], drawing.class_legend(names, canvas.shape[1])])
    for label, name in enumerate(names):
        cv2.circle(canvas, (left + 8 + 110 * label, top + PLOT + 39), 5, colours[label], -1, cv2.LINE_AA)
        drawing.write(canvas, name, left + 20 + 110 * label, top + PLOT + 44)
    return canvas


def _side_by_side(left: codecs.Image, right: codecs.Image) -> codecs.Image:
    """Two pictures side by side on white."""
    height = max(left.shape[0], right.shape[0])
    padded = [
        cv2.copyMakeBorder(picture, 0, height - picture.shape[0], 0, 0, cv2.BORDER_CONSTANT, value=(255, 255, 255))
        for picture in (left, right)
    ]
    return np.concatenate(padded, axis=1)
