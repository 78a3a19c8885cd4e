"""Copies of tensors on the host that do not make it wait for the device."""

from typing import Any

import torch
from torch import Tensor


class HostCopy:
    """The tensors of a tree of dicts and lists as they are at this step; other values are taken as they are.

    From a GPU they are copied into pinned memory, in the order of its work: the host goes on at once, and what changes
    a tensor afterwards is behind its copy.
    """

    def __init__(self, tree: dict[str, Any]) -> None:
        self._tree: dict[str, Any] = _copied(tree)
        self._copied: torch.cuda.Event | None = None
        if torch.cuda.is_initialized():
            self._copied = torch.cuda.Event()
            self._copied.record()

    def wait(self) -> dict[str, Any]:
        """The tree with the copies, once they are there. Any thread may call it."""
        if self._copied:
            self._copied.synchronize()
        return self._tree


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        if not value.is_cuda:
            return value.detach().clone()
        pinned = torch.empty_like(value, device="cpu", pin_memory=True)
        return pinned.copy_(value.detach(), non_blocking=True)
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_copied(one) for one in value]
    return value
