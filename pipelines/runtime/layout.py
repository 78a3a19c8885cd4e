"""Where the output of a training stage keeps its model directory."""

from pipelines.runtime import uris


def model_of(output: str) -> str:
    """The location of the model directory in the output of a training stage."""
    return uris.join(output, "model")


def output_of(model: str) -> str:
    """The output that a model directory would be part of: the inverse of `model_of`."""
    return model.rstrip("/").rpartition("/")[0]
