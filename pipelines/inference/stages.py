"""Images through three stages at once: decoding ahead in threads, the network in the calling thread, encoding behind.

While the network has one chunk of images, the next one is decoded, and the maps of the one before are encoded and
written. No more than three chunks are held, nor more pixels than three full ones have; a larger image goes alone.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

S = TypeVar("S")
D = TypeVar("D")
M = TypeVar("M")
R = TypeVar("R")
CHUNK_PIXELS, IMAGE_PIXELS = 2**24, 2**20
"""Of the decoded images of a chunk, at most, where that is not more: images of IMAGE_PIXELS always fill their chunk. A
larger image is a chunk of its own."""


def in_stages(
    sources: Iterable[S],
    images: int,
    *,
    pixels: Callable[[S], int],
    decode: Callable[[S], D],
    infer: Callable[[list[D]], list[M]],
    finish: Callable[[D, M], R],
    threads: int,
) -> Iterator[R]:
    """The result of each source, in order. `decode` and `finish` are called in `threads` threads, `infer` in this one.

    A chunk, the argument of `infer`, has `images` at most; `pixels` says how large a source will be. What `decode` or
    `finish` raises is raised here after the results before it, what `infer` raises at once.
    """
    decoding, finishing = deque[tuple[int, list[Future[D]]]](), deque[tuple[int, list[Future[Any]]]]()
    # What torch does in a thread of a stage it does on one core: otherwise each of these threads has a team of its own,
    # which waits for work in a loop, on the cores that the network needs.
    with ThreadPoolExecutor(threads, "stage", torch.set_num_threads, (1,)) as pool:

        def map_oldest() -> None:
            weight, futures = decoding.popleft()
            decoded = [future.result() for future in futures if future.exception() is None]
            answers = iter(zip(decoded, infer(decoded) if decoded else [], strict=True))
            results = [f if f.exception() else pool.submit(finish, *next(answers)) for f in futures]
            finishing.append((weight, results))

        def collect_oldest() -> Iterator[R]:
            for future in finishing.popleft()[1]:
                yield future.result()

        try:
            for chunk in chunks(sources, images, pixels):
                weight = sum(map(pixels, chunk))
                while (held := [*decoding, *finishing]) and sum(w for w, _ in held) + weight > 3 * _most(images):
                    if finishing:
                        yield from collect_oldest()
                    else:
                        map_oldest()
                decoding.append((weight, [pool.submit(decode, source) for source in chunk]))
                if len(decoding) > 1:
                    map_oldest()
                if len(finishing) > 1:
                    yield from collect_oldest()
            while decoding:
                map_oldest()
            while finishing:
                yield from collect_oldest()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def chunks(sources: Iterable[S], images: int, pixels: Callable[[S], int]) -> Iterator[list[S]]:
    """The sources in order, up to `images` at a time, and no more pixels than a chunk may have, or a single source."""
    chunk, weight = list[S](), 0
    for source in sources:
        if chunk and (len(chunk) == images or weight + pixels(source) > _most(images)):
            yield chunk
            chunk, weight = [], 0
        chunk.append(source)
        weight += pixels(source)
    if chunk:
        yield chunk


def _most(images: int) -> int:
    """Pixels of a chunk of so many images."""
    return max(CHUNK_PIXELS, images * IMAGE_PIXELS)
