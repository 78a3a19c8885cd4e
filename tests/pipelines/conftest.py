"""What the tests of the jobs share: SQLite stores that are made in no time."""

import os
import shutil
from collections.abc import Iterator
from typing import IO

import pytest

from pipelines.config import recipe
from pipelines.tracking import client


@pytest.fixture(scope="session", autouse=True)
def quick_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """SQLite stores that this process makes are copies of the first one: its tables take MLflow five seconds."""
    first, lock_file = str(tmp_path_factory.mktemp("first") / "mlflow.db"), client._lock_file

    def copied(database: str) -> IO[str]:
        lock = lock_file(database)
        if database != first and not os.path.exists(database):
            client.client(recipe.load(None, [f"tracking.uri=sqlite:///{first}"]))  # made once
            shutil.copyfile(first, database)
        return lock

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "_lock_file", copied)
        yield
