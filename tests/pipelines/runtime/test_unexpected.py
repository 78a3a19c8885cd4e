"""What nobody foresaw, in one line: the exception that began it, and a remedy for a full disk and for memory."""

import errno

import pytest

from pipelines.runtime import unexpected


class OutOfMemoryError(RuntimeError):
    """Named as those of torch and of Ray."""


class TaskError(Exception):
    """As Ray wraps what a task raised: as a value."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"task failed\nTraceback (most recent call last):\n{cause}")
        self.cause = cause


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("a mistake"), "RuntimeError: a mistake"),
        (TaskError(ValueError("two\n  lines")), "ValueError: two lines"),
        (RecursionError(), "RecursionError"),
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError("x" * 1000), f"ValueError: {'x' * 400}..."),
    ],
)
def test_the_type_and_the_message_of_what_began_it_are_one_line(error: Exception, words: str) -> None:
    assert unexpected.in_words(error) == words


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), " on /data/x ("),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "left ("),
        (OSError(errno.EFBIG, "File too large"), "left ("),
        (TaskError(RuntimeError("sqlite3: database or disk is full")), "left ("),
        (OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"), "left ("),
    ],
)
def test_a_full_disk_has_a_remedy_in_whatever_form_it_comes(error: Exception, place: str) -> None:
    words = unexpected.in_words(error)
    assert words.startswith("no space left")
    assert place in words
    assert words.endswith("make room and run the same command again: it goes on")
    assert "\n" not in words


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("Task was killed due to the node running low on memory.\nMemory on the node: 9 GB"),
        TaskError(MemoryError("Unable to allocate 9.00 GiB")),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_memory_that_ran_out_has_a_remedy(error: Exception) -> None:
    words = unexpected.in_words(error)
    assert words.startswith("memory ran out (")
    assert "use less of it" in words
    assert "\n" not in words


def test_causes_end_where_they_form_a_circle() -> None:
    one, two = RuntimeError("one"), RuntimeError("two")
    one.__cause__, two.__cause__ = two, one
    assert list(unexpected.causes(one)) == [one, two]
