"""The page of a dataset that lacks its own is the one that its build wrote."""

from pathlib import Path

from pipelines.config.root import Config
from pipelines.pages import dataset


def test_the_page_is_made_again(built: Config) -> None:
    uri = str(built.build.output)
    assert dataset.made(uri) == Path(uri, "report.html").read_text()
