"""Locations as text: a local path, `file://`, `s3://`, or another scheme of fsspec's. No file is read or written here.

A location is text that every table, log and terminal can hold. The names of files are bytes: where one has control
characters, or bytes that are not UTF-8, a listing gives it in writing, as `Icon\\x0d` or `caf\\udce9.png`.

A path and the key of an object are taken as they are typed: `#`, `?`, `%20` and spaces are characters of names. In a
`file://` location, as in every URI, `%20` is a space. What could be read as two places is refused.
"""

import difflib
import functools
import importlib.util
import os
import posixpath
import re
import unicodedata
from urllib.parse import unquote

from mpc_model.errors import UserError

_URI = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*):/|\s*(s3|file):", re.IGNORECASE)
_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}")
_LONGEST_NAME, _LONGEST_PATH, _LONGEST_KEY = 255, 4095, 1024
"""Bytes: of a file's name and of a path on Linux, and of a key of S3."""


_EXCLUSIVE = ("s3", "gs", "gcs", "az", "abfs", "abfss", "memory")
"""Schemes whose package creates an object only where there is none (pipe_file with mode="create"), all who try at the
same time included: outputs are locked by that. One is added here when it passes test_storage_contract.py."""
_NO_STORE = (
    *("async_wrapper", "asynclocal", "asyncwrapper", "blockcache", "cached", "data", "dir", "filecache", "generic"),
    *("git", "libarchive", "local", "pyscript", "reference", "s3a", "simplecache", "tar", "zip"),
)
"""Names of fsspec's that are no store of their own: they wrap another filesystem, or are other names."""
_AT = ("github", "abfs", "abfss")
"""Schemes that write something else than credentials before an `@`: organization and repository; a container."""


def is_remote(uri: str) -> bool:
    """Whether a location is not on a disk of this machine; raises UserError for a scheme that cannot be used, and for a
    bucket that cannot be."""
    if not (found := _URI.match(uri)) or uri.startswith("file:/"):
        return False
    name = found[1] or found[2]
    if problem := _problem(name) if uri.startswith(f"{name}://") else _unsupported(name):
        raise UserError(f"{_shown(uri)}: {problem}")
    bucket = uri.removeprefix(f"{name}://").partition("/")[0]
    if "@" in bucket and name not in _AT:
        chain = "AWS_ACCESS_KEY_ID and so on" if name == "s3" else "what its package reads them from"
        raise UserError(f"{without_secrets(uri)}: credentials do not belong in a location; set {chain}")
    if not bucket:
        raise UserError(f"{_shown(uri)} names no bucket; is a variable in it empty?")
    if name == "s3" and not _BUCKET.fullmatch(bucket):
        raise UserError(f"{_shown(uri)}: no bucket is named {bucket!r}: its name is letters, digits, ., _ and -")
    return True


def scheme(uri: str) -> str:
    """`s3` of `s3://bucket/key`."""
    return uri.partition("://")[0]


def writable(uri: str) -> str:
    """The location, where outputs can be there; UserError otherwise."""
    if is_remote(uri) and scheme(uri) not in _EXCLUSIVE:
        raise UserError(
            f"{_shown(uri)}: no output can be there: {scheme(uri)}:// does not create files exclusively, by which jobs"
            f" are kept from writing over each other; it can be read. Outputs go to a local path, s3://, gs:// or az://"
        )
    return uri


@functools.cache
def _problem(name: str) -> str:
    """Why a scheme cannot be used, in words; empty where it can."""
    if name == "s3":
        return ""
    from fsspec.registry import known_implementations as known  # not where S3 and local paths are all that is used
    from fsspec.registry import registry

    if name in registry and name not in _NO_STORE:
        return ""
    if name not in known or name in _NO_STORE:
        return _unsupported(name)
    if importlib.util.find_spec(known[name]["class"].partition(".")[0]) is None:
        return f"{name}:// needs a package that is not installed: {known[name]['err']}"
    return ""


def _unsupported(name: str) -> str:
    from fsspec.registry import known_implementations

    near = difflib.get_close_matches(name.lower(), {*known_implementations} - {*_NO_STORE}, n=1)
    hint = f" (did you mean {near[0]}://?)" if near else ""
    return (
        f"this scheme is not supported{hint}; use a local path, file://, s3://, gs:// or az:// (lower case), and for a"
        f" folder named {name + ':'!r} write ./ in front of it"
    )


def local_path(uri: str) -> str:
    """The path of a local location; escapes of a `file:` URI are decoded. UserError for one of another machine."""
    if not uri.startswith("file:/"):
        return uri
    path = uri.removeprefix("file:")
    if path.startswith("//"):
        host, slash, path = path.removeprefix("//").partition("/")
        path = slash + path
        if host not in ("", "localhost") or not slash:
            raise UserError(
                f"{_shown(uri)} names a file of another machine; a local one is file:///path, or a path alone"
            )
    if re.search("[?#]", path):
        raise UserError(f"{_shown(uri)}: in a file:// location ? is written %3F, and # is %23; or give the path alone")
    if re.search("%(?![0-9A-Fa-f]{2})|%2[Ff]", path):
        raise UserError(f"{_shown(uri)}: in a file:// location % begins an escape such as %20, and is itself %25")
    try:
        return unquote(path, errors="strict")
    except UnicodeDecodeError:
        raise UserError(f"{_shown(uri)}: its escapes are no UTF-8") from None


def absolute(uri: str) -> str:
    """The same location, independent of the working directory (jobs on workers run elsewhere)."""
    if is_remote(uri):
        return uri.removesuffix("/")
    path = local_path(uri)
    path = os.path.expanduser(path) if path == uri else path
    path = path if os.path.isabs(path) else os.path.join(os.getcwd(), path)
    return f"/{os.path.abspath(_behind_links(path)).lstrip('/')}"  # POSIX lets // stand at the beginning


def _behind_links(path: str) -> str:
    """The path, where `..` follows a link to a folder, through the folder that it leads to, as the system reads it."""
    parts = path.split("/")
    for index in [index for index, part in enumerate(parts) if part == ".."]:
        before = os.path.normpath("/".join(parts[:index]) or "/")
        if os.path.islink(before) and not os.path.islink(target := os.path.realpath(before)):  # no loop of links
            return _behind_links("/".join([target, *parts[index:]]))
    return path


def resolved(uri: str) -> str:
    """The absolute location that somebody typed. UserError where none can be so, or where programs would differ over
    which place it is."""
    if not uri:
        raise UserError("a location is empty; is a variable in it empty?")
    found = absolute(uri)
    if scheme(found) == "memory":
        raise UserError(
            f"{_shown(uri)}: memory:// is seen by one process alone, and a job has several; use a local path or s3://"
        )
    text = found.partition("://")[2].partition("/")[2] if is_remote(found) else found
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise UserError(f"{_shown(uri)}: a location holds no line breaks or other control characters, and is UTF-8")
    longest = _LONGEST_KEY if is_remote(found) else _LONGEST_PATH
    if len(text.encode()) > longest:
        raise UserError(f"{_shown(uri)} has {len(text.encode())} bytes; {longest} are the most")
    if is_remote(found) and text and not is_plain_key(text):
        raise UserError(
            f"{_shown(uri)}: not every program can reach a key with an empty part, . or .. in it; write the location"
            " without (is a variable in it empty?)"
        )
    if not is_remote(found) and any(len(part.encode()) > _LONGEST_NAME for part in text.split("/")):
        raise UserError(f"{_shown(uri)}: a name in it has more than {_LONGEST_NAME} bytes")
    return found


def from_folder(folder: str, location: str) -> str:
    """The absolute location of what a file in `folder` names: relative to the folder, or as it is where it is absolute.

    Dots are resolved, in object storage as on a disk. UserError where they lead out of a bucket.
    """
    if location.startswith("/") or _URI.match(location):
        return resolved(location)
    if not is_remote(folder):
        return resolved(join(local_path(folder), location))
    bucket, _, prefix = folder.partition("://")[2].partition("/")
    key = posixpath.normpath(posixpath.join(prefix, location))
    if key == ".." or key.startswith("../"):
        raise UserError(f"{_shown(location)}, seen from {folder}, leads out of the bucket")
    return resolved(f"{scheme(folder)}://{bucket}/{'' if key == '.' else key}")


def is_plain_key(key: str) -> bool:
    """Whether the key of an object is the same to all programs: no part of it is empty, `.` or `..`."""
    return not {"", ".", ".."} & set(key.split("/"))


def without_secrets(text: str) -> str:
    """The text with the user part of every URI in it struck out: what may be printed, saved or tracked."""
    return _USER.sub("://***@", text)


_USER = re.compile("".join(f"(?<!{name})" for name in _AT) + r"""://[^/\s"']+@""")


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


def _shown(uri: str) -> str:
    """The location, quoted, without secrets, and only its beginning where it is long."""
    shown = without_secrets(uri)
    return repr(shown if len(shown) <= 100 else f"{shown[:97]}...")
