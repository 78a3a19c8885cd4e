"""Locations as text: a local path, `file://` or `s3://`. Nothing here reads or writes."""

import os
import re

from mpc_model.errors import UserError


def is_remote(uri: str) -> bool:
    """Whether a location is in object storage; raises UserError for a scheme we do not speak."""
    scheme = uri.partition("://")[0] if "://" in uri else ""
    if scheme not in ("", "file", "s3"):
        raise UserError(f"{uri!r}: this scheme is not supported; use a local path, file:// or s3:// (lower case)")
    if scheme != "s3":
        return False
    bucket = uri.removeprefix("s3://").partition("/")[0]
    if "@" in bucket:
        raise UserError(
            f"{without_secrets(uri)}: credentials do not belong in a location; set AWS_ACCESS_KEY_ID and so on"
        )
    if not bucket:
        raise UserError(f"{uri!r} names no bucket; is a variable in it empty?")
    return True


def local_path(uri: str) -> str:
    """The path of a local location."""
    return uri.removeprefix("file://")


def absolute(uri: str) -> str:
    """The same location, independent of the working directory (jobs on workers run elsewhere)."""
    return uri.rstrip("/") if is_remote(uri) else os.path.abspath(os.path.expanduser(local_path(uri)))


def without_secrets(text: str) -> str:
    """The text with the user part of every URI in it struck out: what may be printed, saved or tracked."""
    return re.sub(r"""://[^/\s"']+@""", "://***@", text)


def join(uri: str, *parts: str) -> str:
    """A location below another."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])
