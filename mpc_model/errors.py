"""The exception tree: one root, three kinds of failure, so that callers know what to retry and what to say.

The user's input and the data are reported in one line and never retried; only the infrastructure is.
"""


class MPCError(Exception):
    """Root of every failure this project raises on purpose. `exit_code` is what the command line returns."""

    exit_code = 1


class UserError(MPCError):
    """The user's input is wrong: a config key, a location, a weights file. The message names the remedy."""

    exit_code = 2


class UnreadableFileError(UserError):
    """One file is missing, may not be read, or is no regular file.

    Others may well be read: where a file is one of many, this costs its own result only.
    """


class DataError(MPCError):
    """A sample or a dataset is not what it claims to be: unreadable, of another size, without a manifest.

    `reason` is the code under which a build records the rejected sample.
    """

    exit_code = 2

    def __init__(self, message: str, reason: str = "invalid") -> None:
        super().__init__(message, reason)  # both in args, so that the exception survives pickling between processes
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[0])


class DamagedError(DataError):
    """A dataset was sound once and is no longer: a file of it was lost, cut or changed. The input is right, the
    data has to be mended."""

    exit_code = 1


class InfrastructureError(MPCError):
    """Something outside this program failed (storage, network, a lost host). The only kind worth retrying."""


_KINDS: dict[str, type[MPCError]] = {
    kind.__name__: kind for kind in (UserError, DamagedError, DataError, InfrastructureError)
}


def describe(error: MPCError) -> dict[str, str]:
    """A failure as plain values, for passing it from a worker to the driver without a traceback around it."""
    kind = next((name for name, kind in _KINDS.items() if isinstance(error, kind)), MPCError.__name__)
    return {"kind": kind, "message": str(error)}


def revive(description: dict[str, str]) -> MPCError:
    """The inverse of `describe`: the kind and the message. The reason of a DataError is lost."""
    return _KINDS.get(description["kind"], MPCError)(description["message"])


def unsupported(name: str, what: str, remedy: str) -> DataError:
    """The refusal of a sound file of a kind that is not read."""
    return DataError(f"{name}: {what}; {remedy}", "unsupported_mode")


def damaged(name: str, what: str) -> DataError:
    """The refusal of a file that no decoder can be right about."""
    return DataError(f"{name}: damaged ({what}); copy it again or leave it out", "unreadable")


def cut_short(name: str) -> DataError:
    """The refusal of a file that ends before its pixels do."""
    return DataError(f"{name}: the file is cut short; copy it again or leave it out", "truncated")


def transparent(name: str) -> DataError:
    """The refusal of a picture through which something unknown is seen."""
    return unsupported(name, "parts are transparent, and what lies behind is unknown", "flatten it")
