"""Weights that grow while training goes on: tensor arithmetic on the share of it that is done.

A share is a floating 0-d tensor from 0 (no step was done) to 1, on any device, which is never read back.
"""

from torch import Tensor


def sigmoid_ramp(share: Tensor, length: float) -> Tensor:
    """exp(-5 (1 - x)^2), with x = share / length, 1 at most: from 0.0067 at the beginning to 1.

    Laine and Aila, "Temporal Ensembling for Semi-Supervised Learning", ICLR 2017.
    """
    return (-5 * (1 - (share / length).clamp(max=1)).square()).exp()


def power_ramp(share: Tensor, length: float, exponent: float, start: float = 0.0) -> Tensor:
    """x^exponent, with x = share / length, 1 at most; 0 where the share is not above `start`."""
    return (share / length).clamp(max=1).pow(exponent) * (share > start)
