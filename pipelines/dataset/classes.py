"""Whether a model and a dataset are of the same classes."""

from collections.abc import Sequence

from mpc_model.errors import UserError
from pipelines.dataset.manifest import Manifest


def require(uri: str, manifest: Manifest, classes: int, names: Sequence[str], what: str, remedy: str) -> None:
    """UserError unless `what`, a model of so many classes of these names (none: any), fits the dataset at `uri`.

    One class is for datasets of authentic and forged pixels; so are two, by softmax.
    """
    own = manifest.class_names
    listed = f"{uri} has {len(own)} classes ({', '.join(own)[:200]})"
    if classes == 1:
        if manifest.indexed:
            raise UserError(f"{listed}, but {what} gives the probability of forgery alone; {remedy}")
    elif classes != len(own):
        raise UserError(f"{listed}, but {what} has {classes}; {remedy}")
    elif names and list(names) != own:
        raise UserError(f"{listed}, but those of {what} are {', '.join(names)[:200]}; {remedy}")
