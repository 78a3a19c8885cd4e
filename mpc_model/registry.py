"""Named choices (backbone, head, objective, view policy, source layout): adding one is one file and one line."""

import difflib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from mpc_model.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from names to implementations whose failed lookup says which names exist.

    Example: `HEADS = Registry("head")`, then `@HEADS.add("mlp4")` above a class or function.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._entries: dict[str, T] = {}

    def add(self, name: str) -> Callable[[T], T]:
        """Decorator that files its target under `name`. A name can be taken once."""

        def file_under(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.what} {name!r} is already registered")
            self._entries[name] = entry
            return entry

        return file_under

    def __getitem__(self, name: str) -> T:
        """The entry called `name`; raises UserError naming the nearest and all valid names."""
        if not isinstance(name, str):
            raise UserError(
                f"{self.what} must be a name, not {name!r:.80}; choose one of: {', '.join(sorted(self._entries))}"
            )
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(
                f"unknown {self.what} {name!r:.80}{hint}; choose one of: {', '.join(sorted(self._entries))}"
            )
        return self._entries[name]

    def require(self, name: str) -> None:
        """Raise UserError, as a lookup does, unless `name` is registered: for checks before the work begins."""
        self[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))
