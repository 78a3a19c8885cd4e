"""The work of `mpc evaluate`: the model and its untrained baseline score the images of row groups."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mpc_model.errors import InfrastructureError, MPCError
from mpc_model.evaluation.metrics import Scores, image_score, pixel_scores
from mpc_model.imaging import codecs
from mpc_model.imaging.decoding import read_header
from mpc_model.imaging.degradations import DEGRADATIONS
from mpc_model.localizer import Localizer, ModelSpec, to_probabilities
from pipelines.artifacts.model_directory import load_model
from pipelines.config.model_registry import EvaluateConfig
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader, decode_view
from pipelines.dataset.schema import Row
from pipelines.inference import score_store
from pipelines.inference.job import Result, Work
from pipelines.inference.network import Network
from pipelines.inference.score_store import SCHEMA
from pipelines.inference.stages import in_stages
from pipelines.runtime import device, storage
from pipelines.runtime.device import Accelerator

METHODS = ("model", "untrained", "everything_forged")
"""What is scored on every image: the model, and two baselines."""


@dataclass(frozen=True)
class Difference:
    """How far the probabilities of a map are from those of fp32, and the scores of the fp32 map."""

    largest: float
    mean: float
    scores: Scores


@dataclass(frozen=True)
class ScoredImage:
    """The scores of one sample, which is row `row` of row group `group` of the split.

    `scores` has those of each of METHODS that were asked for, `degraded` the model's under each degradation (forged
    images only); `image_score` is the model's score of the image as a whole, as `mpc predict` gives it. `difference` is
    there where it was asked for.
    """

    id: str
    key: str
    kind: str
    group: int
    row: int
    image_score: float
    scores: dict[str, Scores]
    degraded: dict[str, Scores]
    difference: Difference | None = None

    @property
    def is_forged(self) -> bool:
        """Whether the sample is of the class forged."""
        return self.kind != "authentic"

    @property
    def has_f1(self) -> bool:
        """Whether F1 and IoU are defined: not on authentic images, nor where all that is forged is ignored."""
        return self.scores["model"].forged_fraction > 0


@dataclass(frozen=True)
class Scope:
    """What is scored besides the model: the untrained baseline or not, and the row groups whose first forged image (or
    first image) is compared with fp32."""

    untrained: bool = True
    compared: frozenset[int] = frozenset()


@dataclass(frozen=True)
class _Source:
    """A row, and where it is from."""

    row: Row
    group: int
    index: int
    is_compared: bool


@dataclass(frozen=True)
class _Decoded:
    """A sample's images, the stored one first and then its degraded ones, and its mask."""

    source: _Source
    images: list[codecs.Image]
    mask: codecs.Mask


@dataclass(frozen=True)
class _Answers:
    """The logits of each image of a sample, those of the untrained network, and those of fp32."""

    model: list[Tensor]
    untrained: Tensor | None
    fp32: Tensor | None


@dataclass(frozen=True)
class ScoreJob:
    """The scores of images: numbers of row groups in (`group`), rows of SCHEMA out, and stored (score_store.py)."""

    manifest: Manifest
    settings: EvaluateConfig
    seed: int
    scope: Scope
    key: str
    """That of the stored scores."""
    verb = "evaluate"
    schema = SCHEMA

    def start(self, accelerator: Accelerator, cores: int) -> Work:
        """A Scorer on the device of this process."""
        own_device = device.worker_device(accelerator, self.verb)
        threads = device.use_cores(cores)
        scorer = Scorer(self.manifest, self.settings, self.seed, self.scope, own_device, threads)

        def work(task: pa.Table) -> Result:
            groups = task["group"].to_pylist()
            try:
                images = list(scorer.score(groups))
            except MPCError as error:  # no metric is right without one of the images
                return Result(SCHEMA.empty_table(), error)
            rows = packed(images)
            score_store.add(str(self.settings.output), self.key, groups, rows)
            return Result(rows)

        return work

    def lost(self, row: pa.Table, times: int) -> pa.Table:
        """No metric is right without the images of a row group: InfrastructureError."""
        raise InfrastructureError(
            f"workers ended {times} times while they scored row group {row['group'][0]} of split {self.settings.split}"
            f" of {self.settings.dataset}, killed or crashed; give them more memory, or a smaller evaluate.batch_size"
        )


class Scorer:
    """Scores row groups, with as many threads that decode and score as it is given."""

    def __init__(
        self,
        manifest: Manifest,
        settings: EvaluateConfig,
        seed: int,
        scope: Scope = Scope(),
        own_device: torch.device | str = "cpu",
        threads: int = 2,
    ) -> None:
        self.threads = threads
        self.model = load_model(str(settings.model), str(own_device))
        self.network = Network(self.model, settings.batch_size, precision=settings.precision)
        self.exact = Network(self.model, 1)
        self.untrained = None
        if scope.untrained:
            untrained = untrained_network(self.model.spec, seed).to(own_device).eval()
            self.untrained = Network(untrained, settings.batch_size, precision=settings.precision)
        self.reader = ShardReader(str(settings.dataset), manifest, settings.split)
        self.robustness, self.compared = settings.robustness, scope.compared

    def score(self, groups: Sequence[int]) -> Iterator[ScoredImage]:
        """The scores of all images of row groups, in order."""
        chunk = max(self.network.images, self.threads)
        # Decoded, an image is about as large as its degraded renderings.
        return in_stages(
            self._sources(groups),
            chunk,
            pixels=lambda source: _pixels(source.row) * (1 + len(self.robustness)),
            decode=self._decode,
            infer=self._infer,
            finish=self._finish,
            threads=self.threads,
        )

    def _sources(self, groups: Sequence[int]) -> Iterator[_Source]:
        def read(group: int) -> list[Row]:
            return self.reader.read(group, ("id", "key", "kind", "views"))

        for group, rows in storage.prefetch(read, groups, 1):
            forged = [index for index, row in enumerate(rows) if row["kind"] != "authentic"]
            chosen = (forged or [0])[0] if group in self.compared else None
            yield from (_Source(row, group, index, index == chosen) for index, row in enumerate(rows))

    def _decode(self, source: _Source) -> _Decoded:
        """The pixels of a sample. What is random in a degradation is drawn from the sample's id alone, so that
        evaluations can be compared."""
        row = source.row
        image, mask = decode_row(row)
        names = [] if row["kind"] == "authentic" else self.robustness
        seed = list(row["id"].encode())
        degraded = [DEGRADATIONS[name](image, np.random.default_rng(seed)) for name in names]
        return _Decoded(source, [image, *degraded], mask)

    def _infer(self, decoded: list[_Decoded]) -> list[_Answers]:
        of_model = iter(_logits(self.network, [(image, each) for each in decoded for image in each.images]))
        first = [(each.images[0], each) for each in decoded]
        untrained = _logits(self.untrained, first) if self.untrained else [None] * len(decoded)
        compared = [pair for pair in first if pair[1].source.is_compared]
        exact = iter(_logits(self.exact, compared))
        return [
            _Answers([next(of_model) for _ in each.images], baseline, next(exact) if each.source.is_compared else None)
            for each, baseline in zip(decoded, untrained, strict=True)
        ]

    def _finish(self, decoded: _Decoded, answers: _Answers) -> ScoredImage:
        mask, row, threshold = decoded.mask, decoded.source.row, self.model.spec.threshold
        probability, *degraded = (
            to_probabilities(logits, image.shape[:2])[0].numpy()
            for logits, image in zip(answers.model, decoded.images, strict=True)
        )
        scores = {"model": pixel_scores(probability, mask, threshold=threshold)}
        if answers.untrained is not None:
            baseline = to_probabilities(answers.untrained, mask.shape)[0].numpy()
            scores["untrained"] = pixel_scores(baseline, mask)
        scores["everything_forged"] = pixel_scores(np.ones(mask.shape, np.float32), mask)
        difference = None
        if answers.fp32 is not None:
            exact = to_probabilities(answers.fp32, mask.shape)[0].numpy()
            apart = np.abs(exact - probability)
            difference = Difference(
                float(apart.max()), float(apart.mean()), pixel_scores(exact, mask, threshold=threshold)
            )
        return ScoredImage(
            row["id"],
            row["key"],
            row["kind"],
            decoded.source.group,
            decoded.source.index,
            image_score(probability),
            scores,
            {
                name: pixel_scores(map_, mask, threshold=threshold)
                for name, map_ in zip(self.robustness, degraded, strict=bool(degraded))
            },
            difference,
        )


def untrained_network(spec: ModelSpec, seed: int) -> Localizer:
    """The same network with fresh weights, drawn from the seed."""
    torch.manual_seed(seed)
    return Localizer(spec)


def _logits(network: Network, images: list[tuple[codecs.Image, _Decoded]]) -> list[Tensor]:
    """The logits of images. Raises what the first one without any has instead."""
    answers = network.logits([image for image, _ in images], [each.source.row["key"] for _, each in images])
    for each in answers:
        if isinstance(each, Exception):
            raise each
    return [each for each in answers if isinstance(each, Tensor)]


def _pixels(row: Row) -> int:
    """Pixels of a row's canonical view, by its header."""
    header = read_header(row["views"][0]["image"], row["key"])
    return header.height * header.width


def packed(images: Iterable[ScoredImage]) -> pa.Table:
    """Scores as rows of SCHEMA; `unpacked` is the inverse."""
    return pa.table({"scores": [json.dumps(asdict(image)) for image in images]}, SCHEMA)


def unpacked(rows: pa.Table) -> list[ScoredImage]:
    """The scores in rows of SCHEMA."""
    return [_image(json.loads(text)) for text in rows["scores"].to_pylist()]


def _image(row: dict[str, Any]) -> ScoredImage:
    scores = {method: Scores(**values) for method, values in row["scores"].items()}
    degraded = {name: Scores(**values) for name, values in row["degraded"].items()}
    difference = row["difference"] and _difference(row["difference"])
    return ScoredImage(**{**row, "scores": scores, "degraded": degraded, "difference": difference})


def _difference(values: dict[str, Any]) -> Difference:
    return Difference(values["largest"], values["mean"], Scores(**values["scores"]))


def decode_row(row: Row) -> tuple[codecs.Image, codecs.Mask]:
    """Pixels of the canonical view of a row: uint8 RGB (H, W, 3) and mask (H, W)."""
    return decode_view(row["views"][0], row["key"])
