"""`mpc view`: the pages of outputs, served on this machine alone, from any location that can be read.

What is served are the pages of the output, or of the outputs in a folder, and files below them that pages show: nothing
else of the machine, and nothing is written. Only this machine can connect, and only under its own name: a web page that
a browser shows beside it cannot read what is served (DNS rebinding).
"""

import os
import shutil
import sys
import webbrowser
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes, urlsplit

from mpc_model.errors import MPCError, UserError
from pipelines.dataset import html
from pipelines.pages import index, outputs
from pipelines.pages.outputs import Output
from pipelines.runtime import console, storage, uris
from pipelines.runtime.uris import without_secrets

HOSTS = ("127.0.0.1", "localhost")
"""Names under which pages are served."""
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".json": "application/json",
    ".yaml": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".parquet": "application/octet-stream",
}
"""Files that are served, by their ending: what pages show, and tables. No weights."""
POLICY = "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""What a page may load, whatever it says itself: scripts and styles in it, pictures of the output."""
_PAGE = TYPES[".html"]


def view(uri: str, *, no_browser: bool = False, port: str = "0") -> None:
    """Serve the page of an output, or of each output in a folder, until Ctrl-C; print the address.

    UserError where there is no output, or where the port is no number or taken.
    """
    root = uris.resolved(uri)
    with server_of(Site(root), port) as server:
        address = f"http://{HOSTS[0]}:{server.server_port}/"
        print(address, flush=True)
        console.say(f"view: {without_secrets(root)} is at {address}; Ctrl-C ends it")
        if not no_browser and _has_display():
            webbrowser.open(address)
        server.serve_forever()


def server_of(site: "Site", port: str = "0") -> ThreadingHTTPServer:
    """A server of a site, which listens on this machine alone. UserError for a port that cannot be used."""
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UserError(f"--port is a number up to 65535, not {port!r}")
    try:
        return ThreadingHTTPServer((HOSTS[0], int(port)), _handler(site))
    except OSError as error:
        raise UserError(f"cannot serve at port {port}: {error}; leave --port out, and a free one is taken") from None


def _has_display() -> bool:
    """Whether a browser with a window can be opened: one in the terminal would take it away."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


class Answer(NamedTuple):
    """What a request gets: a status, a type, and the content, or a location to read it from, or one to go to."""

    status: HTTPStatus
    type: str
    content: bytes = b""
    file: str = ""
    elsewhere: str = ""


class Site:
    """The pages and files of the outputs at a location. UserError where there is none."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.outputs = outputs.find(root)

    def answer(self, target: str) -> Answer:
        """The answer to a request of a path. Failures of storage, and damaged files, are pages that say so."""
        try:
            path = os.fsdecode(unquote_to_bytes(urlsplit(target).path))
        except ValueError:  # such as http://[
            return _error(HTTPStatus.BAD_REQUEST, "the address cannot be read")
        try:
            return self._answer(uris.written(path).removeprefix("/"))
        except MPCError as error:
            console.warn(f"view: {without_secrets(str(error))}")
            return _error(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))

    def _answer(self, path: str) -> Answer:
        if not path:
            self.outputs = outputs.find(self.root)  # there may be new ones
            alone = len(self.outputs) == 1 and not self.outputs[0].name
            content = outputs.page(self.outputs[0]) if alone else index.page(self.root, self.outputs).encode()
            return Answer(HTTPStatus.OK, _PAGE, content)
        if path == "favicon.ico":  # browsers ask for it by themselves
            return Answer(HTTPStatus.NO_CONTENT, "image/x-icon")
        for output in self.outputs:
            below = f"{output.name}/" if output.name else ""
            if path == output.name:
                return Answer(HTTPStatus.FOUND, _PAGE, elsewhere=f"/{quote(output.name)}/")
            if path == below:
                found = [one for one in outputs.find(output.uri) if not one.name]
                return Answer(HTTPStatus.OK, _PAGE, outputs.page(found[0] if found else output))
            if path.startswith(below):
                return _file(output, path.removeprefix(below))
        return _error(HTTPStatus.NOT_FOUND, "there is no such output")


def _file(output: Output, path: str) -> Answer:
    """A file below an output."""
    kind = TYPES.get(os.path.splitext(path)[1].lower())
    parts = path.split("/")
    if kind is None or any(part in ("", ".", "..") or part.startswith(".") for part in parts) or "\\.." in path:
        return _error(HTTPStatus.NOT_FOUND, "there is no such page")
    location = uris.join(output.uri, *parts)
    if not uris.is_remote(output.uri):
        inside = os.path.realpath(uris.absolute(output.uri))
        if os.path.commonpath([inside, os.path.realpath(uris.absolute(location))]) != inside:
            return _error(HTTPStatus.NOT_FOUND, "there is no such page")  # a link that leads out
    if not storage.exists(location):
        return _error(HTTPStatus.NOT_FOUND, "there is no such file")
    return Answer(HTTPStatus.OK, kind, file=location)


def _error(status: HTTPStatus, text: str) -> Answer:
    body = f"<h1>{status.phrase}</h1><p>{html.escape(without_secrets(text))}</p><p><a href='/'>To the beginning</a></p>"
    return Answer(status, _PAGE, html.document(status.phrase, body).encode())


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    """What answers the requests to a site: GET and HEAD."""

    class Handler(BaseHTTPRequestHandler):
        """A request."""

        protocol_version = "HTTP/1.1"
        server_version, sys_version = "mpc", ""

        def do_GET(self) -> None:
            """Answer with the content."""
            self._send(with_content=True)

        def do_HEAD(self) -> None:
            """Answer without the content."""
            self._send(with_content=False)

        def _send(self, with_content: bool) -> None:
            try:
                self._write(self._answer(), with_content)
            except ConnectionError:  # the browser has closed the page
                self.close_connection = True

        def _answer(self) -> Answer:
            if not _is_own(self.headers.get_all("Host", [])):
                return _error(HTTPStatus.MISDIRECTED_REQUEST, f"pages are served at {HOSTS[0]} alone")
            return site.answer(self.path)

        def _write(self, answer: Answer, with_content: bool) -> None:
            length = storage.stamp(answer.file).size if answer.file else len(answer.content)
            self.send_response(answer.status)
            for name, value in _headers(answer, length).items():
                self.send_header(name, value)
            self.end_headers()
            if not with_content:
                return
            if answer.file:
                with storage.open_input(answer.file) as file:
                    shutil.copyfileobj(file, self.wfile, 1 << 20)
            else:
                self.wfile.write(answer.content)

        def log_message(self, format: str, *values: object) -> None:
            """Requests are said with -v alone."""
            console.debug(f"view: {uris.printable(format % values)}")

    return Handler


def _is_own(hosts: Sequence[str]) -> bool:
    """Whether a request names this machine, once, by one of HOSTS."""
    try:
        return [urlsplit(f"//{host}").hostname for host in hosts] in [[host] for host in HOSTS]
    except ValueError:  # such as [
        return False


def _headers(answer: Answer, length: int) -> dict[str, str]:
    headers = {
        "Content-Type": answer.type,
        "Content-Length": str(length),
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
    return headers | ({"Location": answer.elsewhere} if answer.elsewhere else {})
