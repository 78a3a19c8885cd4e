"""One rule for image files: build, predict and the served model take the same ones, refuse the others for the same
reason, and make the same pixels of them. A table of all kinds of files and all ways in."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from image_files import FOREIGN, PHOTO, PICTURE, SEVERAL, SOUND, UNSUPPORTED, saved
from support import tiny

from mpc_model.errors import DataError
from mpc_model.imaging import codecs
from mpc_model.imaging.decoding import FIRST_OF_SEVERAL
from pipelines.config.root import PredictConfig
from pipelines.dataset.rejects import REASONS
from pipelines.inference.mapper import Mapper
from pipelines.ingest import survey, validation
from pipelines.ingest.listing import ListedItem
from pipelines.model_registry import pyfunc_model

FILES: dict[str, Callable[[], bytes]] = {
    **SOUND,
    **SEVERAL,
    **UNSUPPORTED,
    **{kind: (lambda data=data: data) for kind, data in FOREIGN.items()},
    "empty": lambda: b"",
    "half a jpeg": lambda: saved(PICTURE, "JPEG")[:2000],
    "half a gif": lambda: saved(PICTURE, "GIF")[:3000],
    "half a tiff": lambda: saved(PICTURE, "TIFF", compression="tiff_lzw")[:3000],
}


@pytest.fixture(scope="module")
def mapper(tmp_path_factory: pytest.TempPathFactory) -> Mapper:
    return Mapper(tiny(), PredictConfig(output=str(tmp_path_factory.mktemp("maps")), overlays=False))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All files, under a suffix that most of them should not have."""
    folder = tmp_path_factory.mktemp("files")
    paths = {kind: folder / f"{number}.jpg" for number, kind in enumerate(FILES)}
    for kind, path in paths.items():
        path.write_bytes(FILES[kind]())
    return paths


@pytest.fixture(scope="module")
def predicted(mapper: Mapper, files: dict[str, Path]) -> dict[str, dict[str, object]]:
    """The row of each kind of file."""
    names = [path.name for path in files.values()]
    made = mapper(pa.table({"image": [str(path) for path in files.values()], "name": names, "key": names}))
    assert made.failure is None
    return dict(zip(files, made.rows.to_pylist(), strict=True))


def surveyed(path: Path) -> survey.SurveyRow:
    item: ListedItem = dict.fromkeys(ListedItem.__annotations__)  # type: ignore[assignment]
    item.update(image=str(path), kind="photo", mask_rule="bright")
    return survey.examine(item, survey.read_files(item), 10**8)


def without_name(message: str, name: str) -> str:
    assert name in message
    return message[message.index(name) + len(name) :].lstrip("):")


@pytest.mark.parametrize("kind", FILES)
def test_every_way_in_decides_alike(kind: str, files: dict[str, Path], predicted: dict[str, dict[str, object]]) -> None:
    path = files[kind]
    name, data = str(path), path.read_bytes()
    built, mapped = surveyed(path), predicted[kind]
    try:
        served: np.ndarray | None = pyfunc_model.read_image(data, name)
        refusal = None
    except DataError as error:
        served, refusal = None, error
    assert (served is not None) == (kind in SOUND or kind in SEVERAL)
    if refusal is not None:
        assert built["reason"] == refusal.reason
        assert refusal.reason in REASONS
        messages = {without_name(text, name) for text in (str(built["message"]), str(mapped["error"]), str(refusal))}
        assert len(messages) == 1
        with pytest.raises(DataError) as caught:  # the same file as a mask
            validation.examine(
                saved(PICTURE, "PNG"),
                [data],
                name="image",
                mask_names=[name],
                mask_rule="bright",
                forged=True,
                max_pixels=10**8,
            )
        assert (caught.value.reason, str(caught.value)) == (refusal.reason, str(built["message"]))
        return
    assert served is not None
    assert built["reason"] is None
    assert mapped["error"] is None
    assert (mapped["height"], mapped["width"]) == served.shape[:2]
    assert built["photo_hash"] == codecs.difference_hash(served)
    rendered, _ = validation.read_pair(data, [], name=name, mask_names=[], mask_rule="bright")
    assert np.array_equal(rendered, served)
    assert np.array_equal(codecs.decode_image(data, name), served)  # a stored view
    several = kind in SEVERAL
    assert built["message"] == (f"{name} {FIRST_OF_SEVERAL}" if several else None)
    assert (mapped["note"] == FIRST_OF_SEVERAL) is several


def test_the_served_model_says_that_it_took_the_first_picture(caplog: pytest.LogCaptureFixture) -> None:
    pyfunc_model.read_image(SEVERAL["gif, animated"](), "image 3")
    assert caplog.messages == [f"image 3 {FIRST_OF_SEVERAL}"]


def test_an_original_in_a_shard_stays_readable_whatever_is_refused_today() -> None:
    """An earlier version took some files that are refused now; their datasets are read as before."""
    assert codecs.decode_image(UNSUPPORTED["png with alpha"](), "view").shape == PHOTO.shape
    high = saved(PICTURE, "JPEG")
    frame = high.index(b"\xff\xc0")
    assert codecs.decode_image(high[: frame + 5] + b"\0\x70" + high[frame + 7 :], "view").shape == (112, 160, 3)
