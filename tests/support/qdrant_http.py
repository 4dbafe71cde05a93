"""The REST stand-in of a Qdrant server on a real socket of this machine, for other processes and for faults."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from support.qdrant_server import Server

FAULTS = ("busy", "gateway", "reset", "cut", "lost", "garbage", "asked")
Fault = Callable[[int], str | None]


class HttpServer:
    """In a ``with`` block it answers at `url`; `fault` names what happens to the n-th request, if anything."""

    def __init__(self, fault: Fault = lambda number: None) -> None:
        self.server = Server()
        self.fault = fault
        self.asked = 0
        self._counting = threading.Lock()
        self._listening: ThreadingHTTPServer | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> HttpServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        class Bound(_Handler):
            owner = self

        self._listening = ThreadingHTTPServer(("127.0.0.1", self.port), Bound)
        self._listening.daemon_threads = True
        self.port = self._listening.server_address[1]
        threading.Thread(target=self._listening.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Close the port: connections are refused, and those that are open are reset at their next request."""
        if self._listening is not None:
            self._listening.shutdown()
            self._listening.server_close()
            self._listening = None

    def pause(self, seconds: float) -> None:
        """Be away for so long."""
        self.stop()
        time.sleep(seconds)
        self.start()

    def next_fault(self) -> str | None:
        with self._counting:
            number, self.asked = self.asked, self.asked + 1
        return "reset" if self._listening is None else self.fault(number)


class _Handler(BaseHTTPRequestHandler):
    owner: HttpServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.owner.next_fault()
        if fault == "reset":
            return self._reset()
        if fault in _ANSWERS:
            status, headers, text = _ANSWERS[fault]
            return self._send(status, headers, text.encode())
        answer = self.owner.server._answer(httpx.Request(self.command, f"{self.owner.url}{self.path}", content=body))
        if fault == "lost":  # done, and the answer does not arrive
            return self._reset()
        return self._send(answer.status_code, {}, answer.content, cut=fault == "cut")

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = _do  # noqa: N815

    def _send(self, status: int, headers: dict[str, str], body: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
        self.wfile = _Nowhere()  # type: ignore[assignment]


class _Nowhere:
    closed = True

    def flush(self) -> None:
        """There is nothing to flush."""

    def close(self) -> None:
        """There is nothing to close."""


_ANSWERS = {
    "busy": (503, {}, json.dumps({"status": {"error": "busy"}})),
    "gateway": (502, {"Content-Type": "text/html"}, "<html>bad gateway</html>"),
    "garbage": (200, {"Content-Type": "text/html"}, "<html>welcome</html>"),
    "asked": (429, {"Retry-After": "1"}, json.dumps({"status": {"error": "slow down"}})),
}
