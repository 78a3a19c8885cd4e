"""What a piece of code asks of an accelerator, counted on the CPU: operators, and waits of the host."""

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("nonzero", "masked_select", "_local_scalar_dense", "unique", "bincount")
"""Operators whose result's shape, or whose value, the host has to read before it can go on."""
VIEWS = ("view", "expand", "transpose", "t.", "unsqueeze", "squeeze", "select", "slice", "split", "alias", "detach")
"""Operators that launch nothing on a device."""


class Counted(TorchDispatchMode):
    """Counts the operators that are dispatched, forward and backward, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::")
        if name.startswith("index.") and any(x is not None and x.dtype == torch.bool for x in args[1]):
            name = "boolean " + name
        self.names[name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def waits(self) -> list[str]:
        """The names of the operators that the host waits for."""
        return sorted(name for name in self.names if name.startswith(WAITING) or "boolean" in name)

    @property
    def copies(self) -> int:
        """How many tensors were made of numbers of the host, by `torch.tensor` or `new_tensor`: on a device the host
        waits until they are there, and no CUDA graph can hold them."""
        return self.names["lift_fresh"]

    @property
    def kernels(self) -> int:
        """How many operators launch something."""
        return sum(number for name, number in self.names.items() if not name.startswith(VIEWS))
