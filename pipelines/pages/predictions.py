"""`index.html` of `mpc predict`: the maps of all images, to look through. It has no picture in it: those lie beside it.

With many images it is one file of a megabyte or two: a hundred cards are shown at a time.
"""

import json
import os
from collections.abc import Sequence
from importlib import resources
from urllib.parse import quote

from typing_extensions import TypedDict

from pipelines.dataset import html
from pipelines.runtime.uris import printable

SHOWN = 10_000
"""Images on the page, at most: those with the highest scores."""


class Prediction(TypedDict):
    """An image of the page. `name` is its path below the input, `picture` and `map` are files below the output, None
    where there is none; `score` and `forged` are None where they are not known."""

    name: str
    picture: str | None
    map: str | None
    score: float | None
    share: float | None
    forged: bool | None
    error: str | None


def page(facts: Sequence[tuple[str, str]], lines: Sequence[str], predictions: Sequence[Prediction]) -> str:
    """The page as HTML: `facts` are numbers with what they count, `lines` say what made the maps."""
    tiles = "".join(f"<div><b>{html.escape(number)}</b>{html.escape(what)}</div>" for number, what in facts)
    said = "".join(f"<p class=dim>{html.escape(line)}</p>" for line in lines)
    data = json.dumps([_shown(one) for one in predictions], separators=(",", ":")).replace("<", "\\u003c")
    own = resources.files("pipelines.pages")
    frame = own.joinpath("predictions.html").read_text()
    body = f"<h1>Predictions</h1>{said}<div class=tiles>{tiles}</div>{frame}"
    body += f'<script type="application/json" id="data">{data}</script>'
    style, script = (own.joinpath(f"predictions.{kind}").read_text() for kind in ("css", "js"))
    return html.document("Predictions", body, style, script, images="'self'")


def _shown(one: Prediction) -> list[object]:
    """An image as the script of the page reads it: name, addresses of picture and map, score, share, forged, error."""
    numbers = (None if value is None else round(value, 4) for value in (one["score"], one["share"]))
    error = one["error"] and printable(one["error"])
    return [printable(one["name"]), _address(one["picture"]), _address(one["map"]), *numbers, one["forged"], error]


def _address(file: str | None) -> str | None:
    """The relative address of a file below the output."""
    return None if file is None else quote(os.fsencode(file))
