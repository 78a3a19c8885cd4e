"""A proxy in front of an S3 server that spoils some of the requests, as object storage under load does.

    with FaultProxy(endpoint, seed=1, share=0.2) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint

Requests are numbered as they arrive; whether one is spoilt, and how, follows from the seed and its number. Everything
else passes unchanged, the Host header too, because signatures cover it.
"""

import asyncio
import os
import random
import signal
import socket
import struct
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Self
from urllib.parse import urlparse

import psutil

FAULTS = {
    "unavailable": "503 SlowDown; the request is not done",
    "reset": "the connection is reset when the request has been read; the request is not done",
    "lost": "the request is done, and the connection reset instead of an answer",
    "cut": "reset in the middle of the body, the client's if it sends one",
    "short": "the answer's body ends in the middle, as if it were complete",
    "trickle": "the answer comes in small pieces, over `slow` seconds",
    "stall": "the answer stops in the middle of its body, or before it, and the connection stays open",
}
REFUSED, EXPIRED = "refused", "expired"
"""403 AccessDenied, 400 ExpiredToken: not what storage under load does, so they come only where they are asked for."""
KILLED = "killed"
"""The process that sent the request is killed: what an image does whose decoder crashes. Only where it is asked for."""
_ANSWERS = {
    "unavailable": (
        b"503 Slow Down",
        b"<Error><Code>SlowDown</Code><Message>Slow down.</Message></Error>",
    ),
    EXPIRED: (b"400 Bad Request", b"<Error><Code>ExpiredToken</Code><Message>Expired.</Message></Error>"),
    REFUSED: (b"403 Forbidden", b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"),
}
_HEAD_LIMIT, _BLOCK = 1 << 20, 1 << 16
_ENDINGS = (asyncio.IncompleteReadError, OSError, TimeoutError)


class FaultProxy:
    """Listens on a free port of loopback while it is entered; `counts` says how often each fault was injected.

    `share` of the requests are spoilt, each kind in `faults` alike; the methods named in `methods` only, those whose
    path holds `path`, and `limit` of them at most; all of which may be changed meanwhile. A stalled connection is held
    until the client gives up. Every request, spoilt or not, waits `latency` seconds first, as on the way to a distant
    server; `busiest` is the largest number of requests that were under way at a time, `access_keys` says who signed
    each of them.
    """

    def __init__(
        self,
        endpoint: str,
        seed: int = 0,
        share: float = 0.2,
        faults: Sequence[str] = tuple(FAULTS),
        methods: Sequence[str] = ("GET", "HEAD", "PUT", "POST", "DELETE"),
        slow: float = 1.0,
        limit: int | None = None,
        path: str = "",
        latency: float = 0.0,
    ) -> None:
        address = urlparse(endpoint)
        self.share, self.faults, self.methods, self.slow = share, tuple(faults), tuple(methods), slow
        self.limit, self.path, self.counts = limit, path, Counter[str]()
        self.latency, self.busiest, self._under_way = latency, 0, 0
        self.access_keys: list[str] = []
        self._target = (str(address.hostname), int(address.port or 80))
        self._seed, self._requests = seed, 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        start = asyncio.start_server(self._connection, "127.0.0.1", 0, limit=_HEAD_LIMIT, backlog=512)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result(10)
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _draw(self, method: str, path: str) -> str:
        """The fault of the next request, "" for none."""
        self._requests += 1
        draw = random.Random(f"{self._seed}/{self._requests}")
        spent = self.limit is not None and self.counts.total() - self.counts["passed"] >= self.limit
        if spent or method not in self.methods or self.path not in path or draw.random() >= self.share:
            return ""
        return draw.choice(self.faults)

    async def _connection(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Serve one client's requests, one after the other, over one connection to the server."""
        to_server: asyncio.StreamWriter | None = None
        try:
            server, to_server = await asyncio.open_connection(*self._target, limit=_HEAD_LIMIT)
            while await self._request(client, to_client, server, to_server):
                pass
        except _ENDINGS:
            pass  # either side went away: so does the other
        except asyncio.CancelledError:
            pass  # the proxy is closing; the stream protocol would print this one
        finally:
            for writer in (to_client, to_server):
                if writer is not None:
                    writer.close()

    async def _request(
        self,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> bool:
        """Pass one request and its answer on, or spoil it; whether the connection can serve another."""
        head = await client.readuntil(b"\r\n\r\n")
        self._under_way += 1
        self.busiest = max(self.busiest, self._under_way)
        try:
            await asyncio.sleep(self.latency)
            return await self._pass(head, client, to_client, server, to_server)
        finally:
            self._under_way -= 1

    async def _pass(
        self,
        head: bytes,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> bool:
        (method, path), headers = head.decode("latin-1").split(" ", 2)[:2], _headers(head)
        self.access_keys.append(headers.get("authorization", "").partition("Credential=")[2].partition("/")[0])
        fault = self._draw(method, path)
        self.counts[fault or "passed"] += 1
        if headers.get("expect", "").lower() == "100-continue":
            to_client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if fault == KILLED:
            _kill_owner(to_client.get_extra_info("peername")[1])
            return False
        sent = _length(headers)
        if fault in (*_ANSWERS, "reset"):
            async for _ in _body(client, headers):
                pass
            if fault == "reset":
                _reset(to_client)
            else:
                status, text = _ANSWERS[fault]
                to_client.write(b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Type: application/xml\r\n" % status)
                to_client.write(b"Content-Length: %d\r\n\r\n" % len(text) + (b"" if method == "HEAD" else text))
                await to_client.drain()
            return False
        with suppress(ConnectionError):  # a server that refuses early may close before the body is through
            to_server.write(head)
            passed = 0
            async for piece in _body(client, headers):
                passed += len(piece)
                if fault == "cut" and passed * 2 >= sent > 0:
                    to_server.write(piece[: len(piece) // 2])
                    await to_server.drain()
                    _reset(to_server)
                    _reset(to_client)
                    return False
                to_server.write(piece)
                await to_server.drain()
        status, head = await _answer_head(server)
        headers = _headers(head)
        bodyless = method == "HEAD" or status in (204, 304)
        pieces = _nothing() if bodyless else _body(server, headers, until_end=True)
        if fault == "lost":
            async for _ in pieces:
                pass
            _reset(to_client)
            return False
        if fault == "trickle":
            await self._trickle(to_client, head, pieces, 0 if bodyless else _length(headers))
        elif fault:
            await self._break_off(fault, client, to_client, head, pieces, 0 if bodyless else _length(headers))
            return False
        else:
            to_client.write(head)
            async for piece in pieces:
                to_client.write(piece)
                await to_client.drain()
        await to_client.drain()
        endless = not bodyless and "content-length" not in headers and "transfer-encoding" not in headers
        return not endless and headers.get("connection", "").lower() != "close"

    async def _trickle(
        self, to_client: asyncio.StreamWriter, head: bytes, pieces: AsyncIterator[bytes], length: int
    ) -> None:
        to_client.write(head[: len(head) // 2])
        await asyncio.sleep(self.slow / 2)
        to_client.write(head[len(head) // 2 :])
        async for piece in pieces:
            part = max(1, len(piece) // 8)
            for start in range(0, len(piece), part):
                to_client.write(piece[start : start + part])
                await to_client.drain()
                await asyncio.sleep(min(self.slow / 16, self.slow / 2 * part / max(length, 1)))

    async def _break_off(
        self,
        fault: str,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        head: bytes,
        pieces: AsyncIterator[bytes],
        length: int,
    ) -> None:
        """Half of the body, nothing at all of an answer without one, then the fault: cut, short or stall."""
        half = length // 2 if length > 1 else 0
        if half:
            to_client.write(head)
        passed = 0
        async for piece in pieces:
            if passed < half:
                to_client.write(piece[: half - passed])
                await to_client.drain()
            passed += len(piece)
        if fault == "cut":
            await asyncio.sleep(0.01)  # a reset overtakes what lies in buffers; let the half arrive
            _reset(to_client)
        elif fault == "stall":
            while await client.read(_BLOCK):
                pass  # until the client closes


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}


def _length(headers: dict[str, str]) -> int:
    return int(headers.get("content-length", 0))


async def _answer_head(server: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and head of the final answer; interim ones (100 Continue) were given to the client already."""
    while True:
        head = await server.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        if status >= 200:
            return status, head


async def _nothing() -> AsyncIterator[bytes]:
    for piece in ():
        yield piece


async def _body(reader: asyncio.StreamReader, headers: dict[str, str], until_end: bool = False) -> AsyncIterator[bytes]:
    """The bytes of a body as they are on the wire: of a known length, chunked, or (answers) to the end."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        size = 1
        while size:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            yield line
            if size:
                yield await reader.readexactly(size + 2)
        line = b""
        while line != b"\r\n":  # trailers, to the empty line
            line = await reader.readuntil(b"\r\n")
            yield line
        return
    if until_end and "content-length" not in headers:
        while piece := await reader.read(_BLOCK):
            yield piece
        return
    left = _length(headers)
    while left:
        piece = await reader.read(min(left, _BLOCK))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(piece)
        yield piece


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN: linger on, zero seconds."""
    sock = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _kill_owner(port: int) -> None:
    """Kill the process whose end of a connection has this port."""
    for connection in psutil.net_connections("tcp"):
        if connection.laddr and connection.laddr.port == port and connection.pid:
            os.kill(connection.pid, signal.SIGKILL)
