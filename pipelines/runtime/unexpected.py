"""A failure that nobody foresaw, in one line; the traceback is for a file (see library_output.py).

Two of them have a remedy wherever they come from, and libraries raise them in many forms: a full disk, and memory that
ran out.
"""

import errno
import re
from collections.abc import Iterator

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_WORDS = ("No space left on device", "Disk quota exceeded", "database or disk is full")
_MEMORY_WORDS = (
    "out of memory",
    "Cannot allocate memory",
    "Unable to allocate",
    "can't allocate memory",
    "malloc of size",
)
_LONGEST = 400
"""Characters that are shown of a library's message."""


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, what caused it, and so on. Ray keeps what a task raised as `cause`."""
    seen = set[int]()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        cause = getattr(following, "cause", None)
        following = cause if isinstance(cause, BaseException) else following.__cause__


def in_words(error: BaseException) -> str:
    """What failed, and the remedy if there is one, on one line."""
    chain = list(causes(error))
    for one in chain:
        words = _shortened(str(one))
        if _is_full(one):
            place = f" on {one.filename}" if isinstance(one, OSError) and one.filename else ""
            return f"no space left{place} ({words}); make room and run the same command again: it goes on"
        if is_memory(one):
            return (
                f"memory ran out ({type(one).__name__}: {words}); use less of it (fewer workers, a smaller batch or"
                " tile), or a machine with more, and run the same command again: it goes on"
            )
    return f"{type(chain[-1]).__name__}: {_shortened(str(chain[-1]))}".rstrip(": ")


def _is_full(error: BaseException) -> bool:
    return getattr(error, "errno", None) in _FULL or any(words in str(error) for words in _FULL_WORDS)


def is_memory(error: BaseException) -> bool:
    """Whether memory ran out: of Python, of torch (on any device), or of a machine of Ray's."""
    named = type(error).__name__ == "OutOfMemoryError"  # of torch and of Ray, neither of which is imported here
    return named or isinstance(error, MemoryError) or any(words in str(error) for words in _MEMORY_WORDS)


def on_one_line(text: str) -> str:
    """The text without line breaks."""
    return re.sub(r"\s*\n\s*", " ", text.strip("\n"))


def _shortened(text: str) -> str:
    line = on_one_line(text)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
