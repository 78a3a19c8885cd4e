"""A split through the network: rows are read, decoded and mapped ahead of what is made of each map.

What is made of the maps of a sample is another matter: pipelines/inference/scorer.py scores maps of one class by the
published protocol, pipelines/inference/class_scorer.py counts those of several classes.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import torch

from mpc_model.errors import InfrastructureError, MPCError
from mpc_model.imaging import codecs
from mpc_model.imaging.decoding import read_header
from mpc_model.imaging.degradations import WHOLE, Region, degradation
from mpc_model.localizer import Localizer, ModelSpec
from mpc_model.nn.heads import HeadParts
from pipelines.artifacts.model_directory import load_model
from pipelines.config.model_registry import EvaluateConfig
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader, decode_view
from pipelines.dataset.schema import Row
from pipelines.inference import score_store
from pipelines.inference.job import Result, Work
from pipelines.inference.network import Network
from pipelines.inference.score_store import DONE, GROUP
from pipelines.inference.stages import in_stages
from pipelines.runtime import device, storage
from pipelines.runtime.device import Accelerator


class OfGroup(Protocol):
    """What is known of every sample that was scored."""

    @property
    def group(self) -> int:
        """The row group that it is from."""


S = TypeVar("S", bound=OfGroup)
"""What is stored of a sample: a dataclass."""
SCHEMA = pa.schema([GROUP, ("scores", pa.string())])
"""Scores as JSON."""


@dataclass(frozen=True)
class Scope:
    """What is scored besides the model: the untrained baseline or not, and the row groups whose first forged image (or
    first image) is compared with fp32."""

    untrained: bool = True
    compared: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Source:
    """A row, and where it is from."""

    row: Row
    group: int
    index: int
    is_compared: bool


@dataclass(frozen=True)
class Decoded:
    """A sample's images, the stored one first and then its degraded ones, the part of the stored one that each shows,
    and its mask."""

    source: Source
    images: list[codecs.Image]
    regions: list[Region]
    mask: codecs.Mask


@dataclass(frozen=True)
class Answers:
    """The logits of each image of a sample, those of the untrained network, and those of fp32."""

    model: list[HeadParts]
    untrained: HeadParts | None
    fp32: HeadParts | None


class SplitScorer(Generic[S]):
    """Scores row groups, with as many threads that decode and score as it is given. `finish` scores a sample."""

    robust_kinds: ClassVar[str]
    """The samples whose degraded renderings are scored, too: "forged" or "all"."""
    schema: ClassVar[pa.Schema] = SCHEMA
    """Of the rows that are stored."""

    def __init__(
        self,
        manifest: Manifest,
        settings: EvaluateConfig,
        seed: int,
        scope: Scope = Scope(),
        own_device: torch.device | str = "cpu",
        threads: int = 2,
    ) -> None:
        self.threads, self.settings = threads, settings
        self.model = load_model(str(settings.model), str(own_device))
        self.network = Network(self.model, settings.batch_size, precision=settings.precision)
        self.exact = Network(self.model, 1)
        self.untrained = None
        if scope.untrained:
            untrained = untrained_network(self.model.spec, seed).to(own_device).eval()
            self.untrained = Network(untrained, settings.batch_size, precision=settings.precision)
        self.indexed = manifest.indexed
        self.reader = ShardReader(str(settings.dataset), manifest, settings.split)
        self.robustness, self.compared = settings.robustness, scope.compared
        self.degradations = [degradation(name) for name in settings.robustness]

    def finish(self, decoded: Decoded, answers: Answers) -> S:
        """The scores of a sample. Called by several threads."""
        raise NotImplementedError

    def packed(self, images: Iterable[S]) -> pa.Table:
        """Scores of whole row groups as rows of `schema`."""
        return packed(images)

    def score(self, groups: Sequence[int]) -> Iterator[S]:
        """The scores of all images of row groups, in order."""
        chunk = max(self.network.images, self.threads)
        renderings = math.ceil(1 + sum(each.pixels for each in self.degradations))
        return in_stages(
            self._sources(groups),
            chunk,
            pixels=lambda source: _pixels(source.row) * renderings,
            decode=self._decode,
            infer=self._infer,
            finish=self.finish,
            threads=self.threads,
        )

    def _sources(self, groups: Sequence[int]) -> Iterator[Source]:
        def read(group: int) -> list[Row]:
            return self.reader.read(group, ("id", "key", "kind", "source", "views"))

        for group, rows in storage.prefetch(read, groups, 1):
            forged = [index for index, row in enumerate(rows) if row["kind"] != "authentic"]
            chosen = (forged or [0])[0] if group in self.compared else None
            yield from (Source(row, group, index, index == chosen) for index, row in enumerate(rows))

    def _decode(self, source: Source) -> Decoded:
        """The pixels of a sample. What is random in a degradation is drawn from the sample's id alone, so that
        evaluations can be compared."""
        row = source.row
        image, mask = decode_row(row, self.indexed)
        asked = [] if self.robust_kinds == "forged" and row["kind"] == "authentic" else self.degradations
        seed = list(row["id"].encode())
        degraded = [each(image, np.random.default_rng(seed)) for each in asked]
        images, regions = [image, *(each.image for each in degraded)], [WHOLE, *(each.region for each in degraded)]
        return Decoded(source, images, regions, mask)

    def _infer(self, decoded: list[Decoded]) -> list[Answers]:
        of_model = iter(_answers(self.network, [(image, each) for each in decoded for image in each.images]))
        first = [(each.images[0], each) for each in decoded]
        untrained = _answers(self.untrained, first) if self.untrained else [None] * len(decoded)
        compared = [pair for pair in first if pair[1].source.is_compared]
        exact = iter(_answers(self.exact, compared))
        return [
            Answers([next(of_model) for _ in each.images], baseline, next(exact) if each.source.is_compared else None)
            for each, baseline in zip(decoded, untrained, strict=True)
        ]


@dataclass(frozen=True)
class ScoreJob:
    """The scores of images: numbers of row groups in (`group`); scores are stored (score_store.py), DONE comes out."""

    scorer: type[SplitScorer[Any]]
    manifest: Manifest
    settings: EvaluateConfig
    seed: int
    scope: Scope
    key: str
    """That of the stored scores."""
    verb = "evaluate"
    schema = DONE

    def start(self, accelerator: Accelerator, cores: int) -> Work:
        """A scorer on the device of this process."""
        own_device = device.worker_device(accelerator, self.verb)
        threads = device.use_cores(cores)
        scorer = self.scorer(self.manifest, self.settings, self.seed, self.scope, own_device, threads)

        def work(task: pa.Table) -> Result:
            groups = task["group"].to_pylist()
            try:
                rows = scorer.packed(list(scorer.score(groups)))
            except MPCError as error:  # no metric is right without one of the images
                return Result(DONE.empty_table(), error)
            return Result(score_store.add(str(self.settings.output), self.key, groups, rows))

        return work

    def lost(self, row: pa.Table, times: int) -> pa.Table:
        """No metric is right without the images of a row group: InfrastructureError."""
        raise InfrastructureError(
            f"workers ended {times} times while they scored row group {row['group'][0]} of split {self.settings.split}"
            f" of {self.settings.dataset}, killed or crashed; give them more memory, or a smaller evaluate.batch_size"
        )


def untrained_network(spec: ModelSpec, seed: int) -> Localizer:
    """The same network with fresh weights, drawn from the seed."""
    torch.manual_seed(seed)
    return Localizer(spec)


def _answers(network: Network, images: list[tuple[codecs.Image, Decoded]]) -> list[HeadParts]:
    """The logits of images. Raises what the first one without any has instead."""
    answers = network.answers([image for image, _ in images], [each.source.row["key"] for _, each in images])
    for each in answers:
        if isinstance(each, Exception):
            raise each
    return [each for each in answers if isinstance(each, HeadParts)]


def _pixels(row: Row) -> int:
    """Pixels of a row's canonical view, by its header."""
    header = read_header(row["views"][0]["image"], row["key"])
    return header.height * header.width


def packed(images: Iterable[Any]) -> pa.Table:
    """Scores, dataclasses of plain values, as rows of SCHEMA."""
    scored = list(images)
    columns = [[image.group for image in scored], [json.dumps(asdict(image)) for image in scored]]
    return pa.table(columns, schema=SCHEMA)


def decode_row(row: Row, indexed: bool = False) -> tuple[codecs.Image, codecs.Mask]:
    """Pixels of the canonical view of a row: uint8 RGB (H, W, 3) and mask (H, W), of a dataset with or without index
    masks."""
    return decode_view(row["views"][0], row["key"], indexed)
