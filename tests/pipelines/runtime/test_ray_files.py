"""What Ray leaves on a machine that others use, too: no folder that they may enter, no token that they can read."""

import contextlib
import os
import stat
from pathlib import Path

import psutil
import pytest

from mpc_model.errors import UserError
from pipelines.runtime import ray_files

TOKEN = Path(".ray", "auth_token")


def mode(path: Path | str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a token, and a umask that hides nothing."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    before = os.umask(0)
    yield tmp_path / "home"
    os.umask(before)


def test_a_ray_of_our_own_is_closed_to_other_users_and_machines(ray_session: None) -> None:
    import ray

    root = ray_files.folder()
    session = ray.get_runtime_context().get_session_name()
    # Through the outer folder nobody else can pass. Ray opens those in it again while another Ray starts.
    assert mode(os.path.dirname(root)) == 0o700
    assert os.path.isdir(os.path.join(root, session))
    listening = set()
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # Ray's workers come and go
            if "ray" in " ".join(process.cmdline()) or process.pid == os.getpid():
                listening |= {
                    connection.laddr.ip.removeprefix("::ffff:")
                    for connection in process.net_connections("inet")
                    if connection.status == psutil.CONN_LISTEN
                }
    assert listening == {"127.0.0.1"}


def test_the_folder_is_made_for_the_user_alone_and_closed_where_it_was_open(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    private = tmp_path / f"mpc-{os.getuid()}"
    for _ in range(2):
        assert ray_files.folder() == f"{private}/ray"
        assert mode(private) == 0o700
        private.chmod(0o777)
    monkeypatch.setenv("RAY_TMPDIR", str(home))
    assert ray_files.folder() == f"{home}/mpc-{os.getuid()}/ray"


def test_what_another_user_put_there_is_refused(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    private = tmp_path / f"mpc-{os.getuid()}"
    private.symlink_to(home)
    with pytest.raises(UserError, match=f"{private} is not a folder of yours; set RAY_TMPDIR"):
        ray_files.folder()
    monkeypatch.setattr(os, "getuid", lambda: 12345)  # whose folder root made
    (tmp_path / "mpc-12345").mkdir()
    with pytest.raises(UserError, match="mpc-12345 is not a folder of yours"):
        ray_files.folder()


def test_where_there_can_be_no_folder_that_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", f"{home}/absent")
    with pytest.raises(UserError, match=r"Ray cannot use .*/absent/mpc-\d+ \(No such file .*\); set RAY_TMPDIR"):
        ray_files.folder()


def test_a_path_too_long_for_sockets_is_told_with_the_remedy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = 107 - len(f"/mpc-{os.getuid()}/ray/{ray_files._LONGEST_SOCKET}")
    (home / "x").mkdir()
    for name in ("TMPDIR", "RAY_TMPDIR"):
        for length, fits in ((room, True), (room + 1, False)):
            place = Path("/tmp") / ("é" * 3 + "x" * (length - 11))
            place.unlink(missing_ok=True)
            place.symlink_to(home / "x")
            monkeypatch.setenv(name, str(place))
            try:
                if fits:
                    assert ray_files.prepare() == f"{place}/mpc-{os.getuid()}/ray"
                else:
                    with pytest.raises(UserError, match=r"is 1 bytes too long .* 107 at most; set RAY_TMPDIR to"):
                        ray_files.prepare()
            finally:
                place.unlink()


def test_the_token_is_made_for_the_user_alone(home: Path) -> None:
    ray_files.protect_token()
    token = (home / TOKEN).read_text()
    assert (len(token), mode(home / TOKEN)) == (64, 0o600)
    (home / TOKEN).chmod(0o644)  # as Ray makes it
    ray_files.protect_token()
    assert ((home / TOKEN).read_text(), mode(home / TOKEN)) == (token, 0o600)
    assert [path.name for path in (home / ".ray").iterdir()] == ["auth_token"]


@pytest.mark.parametrize(
    ("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "ours"), ("RAY_AUTH_TOKEN_PATH", "/a/file")]
)
def test_a_token_that_the_user_keeps_is_left_alone(
    name: str, value: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    ray_files.protect_token()
    assert not (home / ".ray").exists()


def test_without_a_home_the_token_stays_in_memory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".ray").write_text("a file")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    ray_files.protect_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
