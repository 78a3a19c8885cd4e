"""The location of a model directory in an output, and back."""

import pytest

from pipelines.runtime import layout


@pytest.mark.parametrize("output", ["/data/run", "s3://bucket/run"])
def test_the_model_of_an_output_and_the_output_of_a_model(output: str) -> None:
    assert layout.model_of(output) == f"{output}/model"
    assert layout.output_of(layout.model_of(output)) == output
    assert layout.output_of(layout.model_of(output) + "/") == output
