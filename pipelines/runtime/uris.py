"""Locations as text: a local path, `file://` or `s3://`. Nothing here reads or writes.

A location is text that every table, log and terminal can hold. The names of files are bytes: where one has control
characters, or bytes that are not UTF-8, a listing gives it in writing, as `Icon\\x0d` or `caf\\udce9.png`.
"""

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


_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_WRITTEN = re.compile(r"\\(?:x((?!00)[0189][0-9a-f]|7f)|u(2028|2029|d[89a-f][0-9a-f]{2}))")


def written(name: str) -> str:
    """A name in writing: control characters and bytes that are not UTF-8 as `\\x0d` and `\\udce9`."""
    return _NO_TEXT.sub(lambda found: printable(found[0]), name)


def meant(location: str) -> str:
    """The name that `written` stands for. A file may really have the name that is written: look for that first."""
    return _WRITTEN.sub(lambda found: chr(int(found[1] or found[2], 16)), location)


def printable(text: str) -> str:
    """The text with every character that does not print (another space than ` `, one that turns the line around) as
    `\\u202f`."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escape(ord(one)) for one in text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
