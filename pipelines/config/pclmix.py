"""The config section `finetune.pclmix`: training from scribbles by pixel contrast and dynamic mix."""

from typing import Annotated, Literal

from pydantic import Field

from pipelines.config.base import ADDED, Positive, Section

Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Length = Annotated[float, Field(gt=0)]


class PCLMixWeights(Section):
    """What the losses weigh. Cross-entropy with the scribbles of the images weighs 1."""

    second: Weight = 0.4
    """Every cross-entropy of the second decoder, over the same one of the first."""
    mixed: Weight = 1.0
    """Cross-entropy of mixed images with their mixed scribbles."""
    pseudo: Weight = 1.0
    """Cross-entropy of mixed images with mixed pseudo labels. With this and `mixed` 0 nothing is mixed."""
    contrast: Weight = 0.1
    """The contrast with the queue, at the end of its ramp; 0 leaves out embedding and queue."""
    heterogeneity: Weight = 1.0
    """The squared difference between the logits of the two decoders, at the end of its ramp."""


class PCLMixConfig(Section):
    """Supervision pclmix: two unlike decoders, mixed images, and a contrast with a queue of class means."""

    second_head: str = "window"
    """The second decoder, which trains beside `model.head` and is not exported: a registered head that is unlike it."""
    weights: PCLMixWeights = PCLMixWeights()
    """What the losses weigh."""
    mix_share: Share = 0.2
    """The share of a mixed image that is a rectangle of another one."""
    mix_labels: Literal["keep", "ignore", "forged"] | None = None
    """The labels of a rectangle: its own; without its authentic ones, which are authentic no longer; or forged. Left
    out: ignore for forgeries, keep for other classes."""
    contrast: Literal["clean", "release"] = "clean"
    """The contrast as it is meant, or as the public release computes it."""
    temperature: Length = 0.07
    """Divides the similarities of the contrast."""
    queue: Positive = 500
    """Rows of a class in the queue: means of the class in earlier images."""
    min_pixels: Positive | None = None
    """Pixels of a class in an image's embedding (stride 8) from which on it gives anchors; left out: 2 with clean, 101
    with release."""
    certainty_scale: Length | Literal["classes"] = "classes"
    """Scales the entropy below which a guess counts as a label; classes: the logarithm of their number over that of
    4."""
    certainty_ramp: Length = 1.0
    """Share of the training over which that entropy grows from three quarters to the whole."""
    contrast_start: Annotated[float, Field(ge=0, lt=1)] = 0.0167
    """Share of the training before which the contrast weighs nothing."""
    contrast_ramp: Length = 1.0
    """Share of the training over which the contrast grows to its weight, counted from the first step."""
    pseudo_ramp: Annotated[float, Field(ge=0), ADDED] = 0.0
    """Share of the training over which `weights.pseudo` is reached; 0: it weighs all from the first step, as published.
    A short training needs it: its pseudo labels are those of a network that has learned nothing yet."""
    heterogeneity_ramp: Length = 1.27
    """Share of the training over which `weights.heterogeneity` is reached; above 1 it never is."""
