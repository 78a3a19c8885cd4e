"""One shard: planned samples rendered to rows, written as Parquet with a done-marker beside it, and read back.

A row is a sample with its views. Everything in a shard is a pure function of its plan, the build's config and the
input files; only the done-marker holds a time.
"""

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mpc_model import forging, images, views
from mpc_model.errors import DataError
from pipelines import storage
from pipelines.config import ForgeConfig, ViewsConfig
from pipelines.manifest import canonical_json
from pipelines.sources import PlannedSample, sample_seed

SURROUNDINGS = 1.5
"""Side of what is forged, in sides of the crop that is then cut from it."""
CUTS = 50
"""Places tried for that crop."""
_VIEW = pa.struct([("image", pa.binary()), ("mask", pa.binary()), ("done", pa.string())])
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("key", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("kind", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("perceptual_hash", pa.uint64()),
        ("jpeg_quality", pa.int32()),
        ("forged_fraction", pa.float64()),
        ("forged_pixels", pa.int64()),
        ("views", pa.list_(_VIEW)),
    ]
)


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """What one task writes: a shard's name, its samples, and how they are rendered."""

    name: str
    samples: tuple[PlannedSample, ...]
    seed: int
    forge: ForgeConfig
    views: ViewsConfig
    row_group: int

    def to_json(self) -> str:
        """The plan as text, for digests and for sending to workers."""
        described = {
            "name": self.name,
            "samples": [dataclasses.asdict(sample) for sample in self.samples],
            "seed": self.seed,
            "forge": self.forge.model_dump(mode="json"),
            "views": self.views.model_dump(mode="json"),
            "row_group": self.row_group,
        }
        return canonical_json(described).decode()

    @staticmethod
    def from_json(text: str) -> "ShardPlan":
        """The inverse of `to_json`."""
        found = json.loads(text)
        return ShardPlan(
            name=found["name"],
            samples=tuple(PlannedSample(**sample) for sample in found["samples"]),
            seed=found["seed"],
            forge=ForgeConfig.model_validate_json(json.dumps(found["forge"])),
            views=ViewsConfig.model_validate(found["views"]),
            row_group=found["row_group"],
        )

    def digest(self) -> str:
        """Tells whether a finished shard is the one this plan asks for."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def write(plan: ShardPlan, uri: str) -> dict[str, Any]:
    """Render and store one shard, then its done-marker, which is returned.

    A marker that is already there, for this very plan, is returned as it is. Samples that raise DataError become rows
    of the marker's `rejects`.
    """
    done = storage.join(uri, "shards", f"{plan.name}.json")
    wanted = plan.digest()
    if storage.exists(done):
        marker = json.loads(storage.read_bytes(done))
        if marker["plan"] == wanted:
            return {**marker, "reused": True}
    started = time.monotonic()
    rows, rejects = [], []
    for sample in plan.samples:
        try:
            rows.append(render(sample, plan))
        except DataError as error:
            rejects.append(
                {
                    "sample": sample.key,
                    "source": sample.source,
                    "stage": "render",
                    "reason": error.reason,
                    "message": str(error),
                }
            )
    data = _encode(rows, plan.row_group)
    storage.write_bytes(storage.join(uri, "shards", f"{plan.name}.parquet"), data)
    marker = {
        "name": plan.name,
        "plan": wanted,
        "source": plan.samples[0].source,
        "split": plan.samples[0].split,
        "rows": len(rows),
        "forged": sum(row["forged_pixels"] > 0 for row in rows),
        "pixels": {
            "authentic": sum(row["height"] * row["width"] - row["forged_pixels"] for row in rows),
            "forged": sum(row["forged_pixels"] for row in rows),
        },
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "rejects": rejects,
        "seconds": round(time.monotonic() - started, 3),
    }
    storage.write_bytes(done, json.dumps(marker, indent=1).encode())
    return {**marker, "reused": False}


def _encode(rows: list[dict[str, Any]], row_group: int) -> bytes:
    """Rows as Parquet. Not compressed: the bytes inside are compressed images."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, SCHEMA, compression="none", use_dictionary=False) as writer:
        for start in range(0, len(rows), row_group):
            writer.write_table(pa.Table.from_pylist(rows[start : start + row_group], schema=SCHEMA))
    return bytes(sink.getvalue())


def render(sample: PlannedSample, plan: ShardPlan) -> dict[str, Any]:
    """One row of a shard. Raises DataError for what cannot be used."""
    generator = sample_seed(plan.seed, sample.key)
    data = storage.read_bytes(sample.image)
    image = images.decode_image(data, sample.image)
    kind, mask = sample.kind, np.zeros(image.shape[:2], np.uint8)
    if sample.mask is not None:
        mask = images.decode_mask(storage.read_bytes(sample.mask), sample.mask)
        kind = "forged"
        _check_pair(image, mask, sample)
    elif kind != "authentic":
        image, mask = _forge(image, sample, plan.forge, generator)
    elif sample.crop is not None:
        (image,) = _cut(sample.crop, generator, image)
        mask = np.zeros(image.shape[:2], np.uint8)
    unchanged = sample.crop is None and kind in ("authentic", "forged")
    original = data if unchanged else images.encode_png(image)
    rendered = views.render_views(original, sample.key, mask, plan.views.policy, plan.views.count + 1, generator)
    canonical = rendered[0]
    return {
        "id": hashlib.sha256(canonical.image_bytes + canonical.mask_bytes).hexdigest()[:32],
        "key": sample.key,
        "source": sample.source,
        "split": sample.split,
        "kind": kind,
        "height": image.shape[0],
        "width": image.shape[1],
        "perceptual_hash": images.difference_hash(image),
        "jpeg_quality": images.jpeg_quality(data),
        "forged_fraction": float(mask.mean()),
        "forged_pixels": int(mask.sum()),
        "views": [
            {"image": view.image_bytes, "mask": view.mask_bytes, "done": json.dumps(view.ops, sort_keys=True)}
            for view in rendered
        ],
    }


def _cut(side: int, generator: np.random.Generator, *arrays: images.Image) -> list[images.Image]:
    """The same random square of arrays of one height and width, or all of a dimension that is shorter."""
    extents = arrays[0].shape[:2]
    top, left = (int(generator.integers(max(0, extent - side) + 1)) for extent in extents)
    return [np.ascontiguousarray(array[top : top + side, left : left + side]) for array in arrays]


def _forge(
    photo: images.Image, sample: PlannedSample, forge: ForgeConfig, generator: np.random.Generator
) -> tuple[images.Image, images.Mask]:
    """A forged image and its mask.

    A crop is forged with its surroundings and cut afterwards: forged regions then lie anywhere, cut by the border like
    everything else in a crop. Regions that always lay inside would teach a network to look at the middle.
    """
    donor = images.decode_image(storage.read_bytes(sample.donor), sample.donor) if sample.donor else photo
    scene, share = photo, 1.0
    if sample.crop is not None:
        around = round(SURROUNDINGS * sample.crop)
        (scene,), (donor,) = _cut(around, generator, photo), _cut(around, generator, donor)
        share = min(1.0, sample.crop**2 / (scene.shape[0] * scene.shape[1]))
    try:
        least, most = forge.area
        settings = forging.ForgeSettings(
            area=(least * share, most * share),
            gain=forge.gain,
            offset=forge.offset,
            noise_sigma=forge.noise_sigma,
            donor_quality=forge.donor_quality,
        )
        forged = forging.forge(sample.kind, scene, donor, generator, settings)
    except DataError as error:
        raise DataError(f"{sample.key}: {error}", reason="not_forged") from error
    if sample.crop is None:
        return forged.image, forged.mask
    for _ in range(CUTS):
        image, mask = _cut(sample.crop, generator, forged.image, forged.mask)
        if least <= mask.mean() <= most:
            return image, mask
    raise DataError(
        f"{sample.key}: no crop of the forged photograph holds {least:.0%} to {most:.0%} forged pixels;"
        " widen forge.area",
        reason="not_forged",
    )


def _check_pair(image: images.Image, mask: images.Mask, sample: PlannedSample) -> None:
    if mask.shape != image.shape[:2]:
        raise DataError(
            f"mask {sample.mask} is {mask.shape[1]}x{mask.shape[0]}, its image is {image.shape[1]}x{image.shape[0]};"
            " give masks the size of their image",
            reason="size_mismatch",
        )
    if not mask.any():
        raise DataError(f"mask {sample.mask} marks nothing as forged; move the image to authentic/", "empty_mask")


class ShardReader:
    """Row groups of the shards of one split, in the order of the manifest.

    `sizes` (G,) is the number of rows of each row group and `repeats` (G,) how often each is drawn in an epoch.
    """

    def __init__(self, uri: str, manifest: dict[str, Any], split: str) -> None:
        self.uri = uri
        self._bytes = {shard["name"]: shard["bytes"] for shard in manifest["shards"]}
        self._groups: list[tuple[str, int]] = []
        sizes, repeats = [], []
        for shard in manifest["shards"]:
            if shard["split"] != split or not shard["rows"]:
                continue
            for index, start in enumerate(range(0, shard["rows"], manifest["row_group"])):
                self._groups.append((shard["name"], index))
                sizes.append(min(manifest["row_group"], shard["rows"] - start))
                repeats.append(manifest["sources"][shard["source"]]["repeat"])
        if not sizes:
            raise DataError(f"dataset {uri} has no samples in split {split!r}; change build.split and build anew")
        self.sizes = np.array(sizes, np.int64)
        self.repeats = np.array(repeats, np.int64)
        self._footer = functools.lru_cache(maxsize=64)(self._read_footer)

    def _where(self, name: str) -> str:
        return storage.join(self.uri, "shards", f"{name}.parquet")

    def _read_footer(self, name: str) -> pq.FileMetaData:
        filesystem, path = storage.resolve(self._where(name))
        with self._sound(name):
            if storage.stamp(self._where(name)).size != self._bytes[name]:
                raise pa.ArrowInvalid("another size than the manifest says")
            return pq.read_metadata(path, filesystem=filesystem)

    @contextmanager
    def _sound(self, name: str) -> Iterator[None]:
        """Say which shard is damaged, and of which dataset."""
        try:
            with storage.explained(self._where(name)):
                yield
        except pa.ArrowException as error:
            reason = " ".join(str(error).split())
            raise DataError(f"shard {name} of {self.uri} is damaged or lost ({reason}); build it anew") from error

    def read(self, group: int, columns: Sequence[str] = ("id", "kind", "views")) -> list[dict[str, Any]]:
        """The rows of one row group as dictionaries."""
        name, index = self._groups[group]
        filesystem, path = storage.resolve(self._where(name))
        footer = self._footer(name)
        with self._sound(name), filesystem.open_input_file(path) as file:
            table = pq.ParquetFile(file, metadata=footer).read_row_group(index, columns=list(columns))
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows
