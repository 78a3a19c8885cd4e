"""The page of predictions: what it holds, and that no name is markup or leaves the folder."""

import json
import re

from pipelines.pages import predictions
from pipelines.pages.predictions import Prediction


def made(name: str, **more: object) -> Prediction:
    files = {"picture": f"overlays/{name}.jpg", "map": f"maps/{name}.png"}
    return {"name": name, **files, "score": 0.123456, "share": 0.5, "forged": True, "error": None, **more}


def data(page: str) -> list[list[object]]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_names_are_no_markup_and_addresses_are_quoted() -> None:
    hostile = '</script><script>alert("1")</script> #?&\u202e.png'
    page = predictions.page(
        [("1", "images")], ["Images of <b>."], [made(hostile), made("no/such", error="<i>", map=None)]
    )
    assert page.count("<script") == 2
    assert "<b>." not in page
    assert "<i>" not in page
    (name, picture, map_file, score, share, forged, error), (*_, no_map) = data(page)
    assert "alert" in name
    assert "\u202e" not in name
    assert picture == "overlays/%3C/script%3E%3Cscript%3Ealert%28%221%22%29%3C/script%3E%20%23%3F%26%E2%80%AE.png.jpg"
    assert map_file.startswith("maps/%3C/script")
    assert (score, share, forged, error, no_map) == (0.1235, 0.5, True, None, "<i>")


def test_ten_thousand_images_are_one_file_of_a_few_megabytes() -> None:
    page = predictions.page([], [], [made(f"folder/photo-{number:06}.jpg") for number in range(predictions.SHOWN)])
    assert len(data(page)) == predictions.SHOWN
    assert len(page) < 3 * 2**20
    assert "img-src data: 'self'" in page
