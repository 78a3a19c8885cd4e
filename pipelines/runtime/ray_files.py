"""The files of a Ray that a command starts for itself: on a machine that others use, too, nobody else may read them.

Ray makes its folder, <temporary folder>/ray, and the folder of each session writable by everybody, whatever the umask,
and writes the token that guards its ports into a file that everybody may read. Who has the token, or writes into a
session, runs code as the user. So the folder lies in one that only the user may enter, and the token's file is made
before Ray looks for it.
"""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from mpc_model.errors import UserError

_SOCKET_BYTES = 107
"""The most that the system takes for the name of a socket (AF_UNIX)."""
_LONGEST_SOCKET = "session_2000-01-01_00-00-00_000000_4194304/sockets/dash_MetricsHead"
"""What Ray adds to its folder: a session by time and process."""


def prepare() -> str:
    """Make the token, and the folder for `ray.init(_temp_dir=...)`, which is returned. UserError where it cannot be."""
    root = folder()
    room = _SOCKET_BYTES - len(os.fsencode(os.path.join(root, _LONGEST_SOCKET)))
    if room < 0:
        raise UserError(
            f"the path of Ray's folder {root} is {-room} bytes too long for the names of sockets, which have"
            f" {_SOCKET_BYTES} at most; set RAY_TMPDIR to a folder with a short path, such as /tmp"
        )
    protect_token()
    return root


def folder() -> str:
    """Ray's folder for this user, <RAY_TMPDIR, TMPDIR or /tmp>/mpc-<uid>/ray, which nobody else may enter.

    UserError where there can be none, or another user made it.
    """
    base = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    private = os.path.join(os.path.abspath(base), f"mpc-{os.getuid()}")
    try:
        with suppress(FileExistsError):
            os.mkdir(private, 0o700)
        facts = os.lstat(private)
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
            raise UserError(f"{private} is not a folder of yours; set RAY_TMPDIR to one, with a short path")
        os.chmod(private, 0o700)
    except OSError as error:
        raise UserError(f"Ray cannot use {private} ({error.strerror}); set RAY_TMPDIR to a folder of yours") from None
    return os.path.join(private, "ray")


def close(root: str, session: str) -> None:
    """Take away what Ray grants to all users in its folder `root`, and in the folder of a session there."""
    for path in (root, os.path.join(root, session)):
        os.chmod(path, 0o700)


def uses_token() -> bool:
    """Whether Ray's ports ask for a token, as they do unless RAY_AUTH_MODE says otherwise."""
    return os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"


def protect_token() -> None:
    """Make the token that Ray looks for, in a file that only the user can read; one that is there is closed to others.

    Where there can be no file, the token goes to this process and its children alone.
    """
    if not uses_token():
        return
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):  # the user keeps it
        return
    token, part = secrets.token_hex(32), f".auth_token.{secrets.token_hex(4)}.part"
    try:
        path = Path.home() / ".ray" / "auth_token"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            temporary = path.with_name(part)
            with open(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
                file.write(token)
            try:
                with suppress(FileExistsError):  # another command was faster: its token is read
                    os.link(temporary, path)
            finally:
                temporary.unlink()
        if path.stat().st_uid == os.getuid():
            path.chmod(0o600)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        os.environ["RAY_AUTH_TOKEN"] = token
