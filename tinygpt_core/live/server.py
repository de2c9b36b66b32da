"""The protocol for a browser on this machine: an HTTP server of the standard library, on the loopback only.

Whoever wants an answer has to know the token in the address, a random one each time. Requests are refused
that name another host (as a page elsewhere can make a browser do, by DNS rebinding), that come from another
origin, that ask for a path that is not there, or whose body is larger than a request can be. Nothing is
served but the page's own files and the protocol.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

from .protocol import LONGEST_REQUEST, Microscope

LOOPBACK = "127.0.0.1"
SECONDS = 30.0  # that a connection may say nothing
MOST_CONNECTIONS = 32  # at once; a browser makes about six
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
PROTOCOL = "protocol"  # the path that requests are posted to, after the token


def page_files() -> dict[str, bytes]:
    """Returns the page's files by name; there is nothing else to be served."""
    folder = resources.files(__package__) / "page"
    suffixes = tuple(KINDS)
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.name.endswith(suffixes)}


class LiveServer(ThreadingHTTPServer):
    """Serves a microscope's page and its protocol on 127.0.0.1.

    Args:
        microscope: answers.
        port: 0 lets the system choose a free one.

    Attributes:
        token: what an address has to begin with.
        address: for the browser.
    """

    daemon_threads = True
    allow_reuse_address = False
    request_queue_size = 16

    def __init__(self, microscope: Microscope, port: int = 0) -> None:
        self.microscope = microscope
        self.token = secrets.token_urlsafe(24)
        self.files = page_files()
        self.lock = threading.Lock()  # one question at a time: they share a model
        self.connections = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__((LOOPBACK, port), _Handler)
        self.hosts = {f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost")}
        self.origins = {f"http://{host}" for host in self.hosts}
        self.address = f"http://{LOOPBACK}:{self.server_port}/{self.token}/"

    def server_bind(self) -> None:
        """Binds without looking up the machine's name, which may ask a network."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = LOOPBACK, int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serves a connection in a thread of its own, where there are not too many already."""
        if not self.connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serves a connection; then another one may come."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of connections that break: the browser has left."""

    def answer(self, body: bytes) -> bytes:
        """Returns the answer to a request, one after the other."""
        with self.lock:
            return self.microscope.answer_text(body).encode("ascii")


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer
    protocol_version = "HTTP/1.1"
    server_version = "tinygpt"
    sys_version = ""
    timeout = SECONDS
    wbufsize = 1 << 16  # head and body leave together
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        name = self._checked()
        if name is None:
            return
        body = self.server.files.get(name or "index.html")
        if body is None:
            self._send(404, b"there is nothing here\n")
            return
        suffix = "." + (name or "index.html").rpartition(".")[2]
        self._send(200, body, KINDS[suffix])

    def do_POST(self) -> None:
        name = self._checked()
        if name is None:
            return
        if name != PROTOCOL:
            self._send(404, b"there is nothing here\n")
            return
        if self.headers.get("Origin") is None:  # which a browser always says when it posts
            self._send(403, b"a request must come from this server's own page\n")
            return
        if self.headers.get_content_type() != "application/json":
            self._send(415, b"a request is application/json\n")
            return
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Transfer-Encoding") or not (length.isascii() and length.isdigit()):
            self._send(411, b"a request says its length in bytes\n")
            return
        if len(length) > 9 or int(length) > LONGEST_REQUEST:
            self._send(413, b"the request is too large\n")
            return
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True
            return
        self._send(200, self.server.answer(body), "application/json")

    def _checked(self) -> str | None:
        """Returns the path after the token, or None where the request was refused."""
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or hosts[0].lower() not in self.server.hosts:
            self._send(403, b"this server answers to its own name only\n")
            return None
        origin = self.headers.get("Origin")
        if origin is not None and origin not in self.server.origins:
            self._send(403, b"a request must come from this server's own page\n")
            return None
        path = self.path.partition("?")[0]
        token, slash, name = path.removeprefix("/").partition("/")
        if not slash or not hmac.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode()):
            self._send(403, b"the address needs its token: take the one that `tinygpt live` prints\n")
            return None
        return name

    def _send(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        if status != 200:
            self.close_connection = True  # a body that was not read may follow
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuses a request that is no HTTP, or of another method, without repeating any of it."""
        if not hasattr(self, "requestline"):
            self.requestline = ""
            self.request_version = "HTTP/1.1"
            self.command = ""
        self.close_connection = True
        self._send(code, b"this is no request that is answered here\n")

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing: the terminal is for the address and for errors."""


def serve(microscope: Microscope, port: int = 0) -> LiveServer:
    """Returns a server that listens; `serve_forever` answers.

    Raises:
        OSError: the port is taken.
    """
    server = LiveServer(microscope, port)
    server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return server
