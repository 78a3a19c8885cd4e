"""The speed of `mpc evaluate`: a whole evaluation against the bare forward passes that it needs, on the same cores.

The bare side has all images in memory, and sends each of them, with its degraded renderings and once more for the
untrained network, through the network as a worker does. The evaluation reads and decodes the dataset, degrades, maps,
scores, makes the small pictures, bootstraps, and writes its files.

Both sides are measured with few images and with more: the difference is what an image costs, the rest what it costs to
begin and to end. From these follows the ratio for IMAGES images, which would take a quarter of an hour to measure.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from mpc_model.imaging.codecs import Image, decode_image
from mpc_model.imaging.degradations import degradation
from mpc_model.localizer import Localizer, ModelSpec
from pipelines.benchmarks import timing
from pipelines.build import build
from pipelines.config.recipe import load
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader
from pipelines.evaluate import evaluate
from pipelines.inference.network import Network
from pipelines.inference.split_scorer import untrained_network
from pipelines.runtime import device

_ROBUSTNESS = ["jpeg70"]
_CORES = 2


IMAGES = 1000
"""Of the evaluation whose ratio is computed."""


def measure_evaluate(quick: bool) -> dict[str, Any]:
    """Seconds of both sides for each number of images, medians over rounds; what an image costs, and the start and the
    end; and the ratio for IMAGES images."""
    sizes, rounds, backbone, side = ((4, 8), 1, "hrformer_tiny", 64) if quick else ((16, 64), 2, "hrformer_small", 256)
    with tempfile.TemporaryDirectory() as folder:
        configs = [_dataset(Path(folder, str(images)), images, backbone, side) for images in sizes]
        passes = [_passes(config) for config in configs]
        _bare(configs[0], (passes[0][0][:1], passes[0][1][:1]))  # libraries set themselves up
        sides: dict[str, Callable[[int], float]] = {}
        for images, config, of_networks in zip(sizes, configs, passes, strict=True):
            sides[f"passes_{images}"] = partial(_seconds_of_passes, config, of_networks)
            sides[f"evaluation_{images}"] = partial(_seconds_of_evaluation, config)
        medians = {name: float(np.median(seconds)) for name, seconds in timing.each_round(rounds, sides).items()}
    few, many = sizes
    bare, whole = (
        (medians[f"{name}_{many}"] - medians[f"{name}_{few}"]) / (many - few) for name in ("passes", "evaluation")
    )
    begin = medians[f"evaluation_{few}"] - few * whole
    return {
        "evaluate": {
            "forward_passes": sum(len(of_network) for of_network in passes[-1]),
            **{f"{name}_seconds": seconds for name, seconds in medians.items()},
            "passes_seconds_an_image": bare,
            "evaluation_seconds_an_image": whole,
            "evaluation_seconds_to_begin_and_end": begin,
            "ratio_an_image": whole / bare,
            f"ratio_of_{IMAGES}": (begin + IMAGES * whole) / (IMAGES * bare),
        }
    }


def _seconds_of_passes(config: Config, passes: tuple[list[Image], list[Image]], number: int) -> float:
    return timing.seconds(lambda: _bare(config, passes))


def _seconds_of_evaluation(config: Config, number: int) -> float:
    return timing.seconds(lambda: evaluate(_fresh(config, number)))


def _dataset(folder: Path, images: int, backbone: str, side: int) -> Config:
    """A test split of as many samples of one size, half of them forged, and an untrained model."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks", "authentic"):
        (folder / "pairs" / name).mkdir(parents=True)
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : side // 2, side // 4 : side // 2] = 255
    for number in range(images):
        image = cv2.resize(rng.integers(0, 255, (side // 8, side // 8, 3), np.uint8), (side, side))
        kind = "images" if number % 2 else "authentic"
        cv2.imwrite(str(folder / "pairs" / kind / f"{number}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        if number % 2:
            cv2.imwrite(str(folder / "pairs" / "masks" / f"{number}.png"), mask)
    torch.manual_seed(1)
    Localizer(ModelSpec(backbone, "mlp4", side)).save(folder / "model")
    source = f"{{name: pairs, layout: pairs, location: {folder}/pairs, split: test}}"
    config = load(
        None,
        [
            f"workspace={folder}",
            f"build.sources=[{source}]",
            "build.views={policy: light, count: 0}",
            f"evaluate.model={folder}/model",
            f"evaluate.robustness=[{', '.join(_ROBUSTNESS)}]",
            "evaluate.workers=0",
            f"evaluate.cpus_per_worker={_CORES}",
        ],
    )
    build(config)
    return config


def _fresh(config: Config, number: int) -> Config:
    """The config of an evaluation that finds nothing of an earlier one, the scores of the untrained network neither."""
    update = {"output": f"{config.workspace}/out-{number}"}
    settings = config.evaluate.model_copy(update=update)
    return config.model_copy(update={"evaluate": settings, "workspace": f"{config.workspace}/round-{number}"})


def _passes(config: Config) -> tuple[list[Image], list[Image]]:
    """What goes through the model, and through the untrained network, in an evaluation."""
    dataset = str(config.evaluate.dataset)
    reader = ShardReader(dataset, Manifest.read(dataset), "test")
    of_model, of_untrained = list[Image](), list[Image]()
    for group in range(len(reader.sizes)):
        for row in reader.read(group, ("id", "key", "kind", "views")):
            image = decode_image(row["views"][0]["image"], row["key"])
            of_untrained.append(image)
            of_model.append(image)
            if row["kind"] != "authentic":
                rng = np.random.default_rng(list(row["id"].encode()))
                of_model += [degradation(name)(image, rng).image for name in _ROBUSTNESS]
    return of_model, of_untrained


def _bare(config: Config, passes: tuple[list[Image], list[Image]]) -> None:
    """All forward passes, one image at a time, as a worker with _CORES cores does them."""
    model = Localizer.load(str(config.evaluate.model))
    networks = model, untrained_network(model.spec, config.seed).eval()
    with device.threads(_CORES):
        for network, images in zip(networks, passes, strict=True):
            of_network = Network(network, config.evaluate.batch_size)
            for number, image in enumerate(images):
                of_network.answers([image], [f"image {number}"])
