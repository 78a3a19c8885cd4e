"""A Ray that knows the variables of the store which a test has started."""

from collections.abc import Iterator
from contextlib import contextmanager

import ray

from pipelines.runtime import cluster


@contextmanager
def restarted_ray() -> Iterator[None]:
    """Ray anew, since its workers take the AWS variables from the driver at the start; and again for later tests."""
    had_ray = ray.is_initialized()
    ray.shutdown()
    try:
        cluster.connect()
        yield
    finally:
        ray.shutdown()
        if had_ray:  # other tests of this process go on with `ray_session`
            cluster.connect()
