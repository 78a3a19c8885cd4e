"""Three stages at once: the results in order, what runs beside what, how much is held, and failures."""

import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from pipelines.inference import stages
from pipelines.inference.stages import chunks, in_stages
from pipelines.runtime import device


def run(
    sources: list[int],
    images: int = 2,
    decode: Callable[[int], int] = lambda source: source,
    infer: Callable[[list[int]], list[int]] = lambda decoded: [10 * each for each in decoded],
    finish: Callable[[int, int], tuple[int, int]] = lambda decoded, answer: (decoded, answer),
    pixels: Callable[[int], int] = lambda source: 1,
) -> Iterator[tuple[int, int]]:
    return in_stages(sources, images, pixels=pixels, decode=decode, infer=infer, finish=finish, threads=2)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("images", [1, 2, 4])
def test_results_come_in_order_whatever_the_chunk(count: int, images: int) -> None:
    assert list(run(list(range(count)), images)) == [(each, 10 * each) for each in range(count)]


def test_while_the_network_has_a_chunk_the_next_is_decoded_and_the_one_before_encoded() -> None:
    """Each stage waits for the other two of its neighbours: one after the other they would wait for ever."""
    seen = {stage: [threading.Event() for _ in range(5)] for stage in ("decoded", "mapped", "finished")}

    def wait(stage: str, index: int) -> None:
        assert seen[stage][index].wait(20), f"{stage} {index} is not reached"

    def decode(source: int) -> int:
        seen["decoded"][source].set()
        return source

    def infer(decoded: list[int]) -> list[int]:
        (index,) = decoded
        if index < 4:
            wait("decoded", index + 1)
        if index:
            wait("finished", index - 1)
        seen["mapped"][index].set()
        return decoded

    def finish(decoded: int, answer: int) -> tuple[int, int]:
        if decoded < 4:
            wait("decoded", decoded + 1)
        seen["finished"][decoded].set()
        return decoded, answer

    assert len(list(run(list(range(5)), 1, decode, infer, finish))) == 5


def test_a_failure_comes_after_the_results_before_it_and_ends_the_stages() -> None:
    def decode(source: int) -> int:
        if source == 3:
            raise OSError("storage failed")
        return source

    def finish(decoded: int, answer: int) -> tuple[int, int]:
        if decoded == 4:
            raise OSError("no room")
        return decoded, answer

    for functions, expected in (({"decode": decode}, 3), ({"finish": finish}, 4)):
        results = run(list(range(50)), 2, **functions)
        assert [next(results)[0] for _ in range(expected)] == list(range(expected))
        with pytest.raises(OSError, match=r"storage failed|no room"):
            next(results)
    assert [thread for thread in threading.enumerate() if thread.name.startswith("stage")] == []


def test_large_images_are_held_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "CHUNK_PIXELS", 100)
    monkeypatch.setattr(stages, "IMAGE_PIXELS", 1)
    held, most, lock = 0, 0, threading.Lock()

    def decode(source: int) -> int:
        nonlocal held, most
        with lock:
            held += source
            most = max(most, held)
        return source

    def finish(decoded: int, answer: int) -> tuple[int, int]:
        nonlocal held
        with lock:
            held -= decoded
        return decoded, answer

    sizes = [250, 90, 90, 400, 90, 30, 30, 30, 5, 250, 250]
    assert [size for size, _ in run(sizes, 3, decode, finish=finish, pixels=lambda source: source)] == sizes
    assert most == 400  # alone, though it is more than the stages may hold
    assert held == 0
    assert list(chunks(sizes, 3, lambda size: size)) == [
        [250],
        [90],
        [90],
        [400],
        [90],
        [30, 30, 30],
        [5],
        [250],
        [250],
    ]


def test_threads_of_a_stage_leave_the_cores_of_torch_to_the_network() -> None:
    cores = {"decode": set[int](), "infer": set[int](), "finish": set[int]()}

    def decode(source: int) -> int:
        cores["decode"].add(torch.get_num_threads())
        return source

    def infer(decoded: list[int]) -> list[int]:
        cores["infer"].add(torch.get_num_threads())
        return decoded

    def finish(decoded: int, answer: int) -> tuple[int, int]:
        cores["finish"].add(torch.get_num_threads())
        return decoded, answer

    with device.threads(2):
        assert len(list(run(list(range(6)), 1, decode, infer, finish))) == 6
    assert cores == {"decode": {1}, "infer": {2}, "finish": {1}}
