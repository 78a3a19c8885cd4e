"""Work in pieces, by Ray Data's workers or in this process: a row of input in, a result or a failure out, as values.

A worker is a class whose instances take a row and return one of Returned, made by `attempt`:

    class Renderer:
        def __init__(self, load):                        # load() gives what all pieces share
            self.plan = load()
        def __call__(self, row: Row) -> Returned:
            return attempt(row["shard"], lambda: self.render(row["shard"]))
"""

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, TypedDict

import cv2

from mpc_model.errors import MPCError, describe, revive

Row = Mapping[str, Any]


class Returned(TypedDict):
    """What a worker returns for a piece."""

    piece: int
    result: bytes
    failure: str
    """`describe` of an MPCError, as JSON; empty where there is a result."""


Worker = Callable[[Row], Returned]


def attempt(piece: int, work: Callable[[], bytes]) -> Returned:
    """The result of a piece, or its failure: raised in a worker, Ray would put a traceback around it."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # a piece has one core; OpenCV would take all
    try:
        return Returned(piece=piece, result=work(), failure="")
    except MPCError as error:
        return Returned(piece=piece, result=b"", failure=json.dumps(describe(error)))
    finally:
        cv2.setNumThreads(threads)


def run(
    verb: str,
    worker: Callable[[Callable[[], Any]], Worker],
    shared: Any,
    rows: Sequence[Row],
    *,
    memory: int = 0,
    here: bool = False,
) -> Generator[tuple[int, bytes]]:
    """The number of each piece and its result, as they come: from a pool of Ray Data's workers, or, with `here`, from
    one in this process, which costs no start of Ray. Close it (`contextlib.closing`): that ends the workers.

    `memory` is what a worker needs (bytes). The first failure is raised as it was in the worker; MPCError.
    """
    if here:
        yield from results(map(worker(lambda: shared), rows))
        return
    from pipelines.runtime import cluster  # here: work in this process needs no Ray

    with closing(cluster.map_rows(verb, worker, shared, rows, memory)) as returned:
        yield from results(returned)


def results(returned: Iterable[Returned]) -> Iterator[tuple[int, bytes]]:
    """The number of each piece and its result. Raises the first failure."""
    for one in returned:
        if one["failure"]:
            raise revive(json.loads(one["failure"]))
        yield one["piece"], one["result"]
