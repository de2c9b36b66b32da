"""The server of `tinygpt live`: it answers its own page, and refuses everything else."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tinygpt_core import cli
from tinygpt_core.live import Microscope
from tinygpt_core.live.protocol import LONGEST_REQUEST
from tinygpt_core.live.server import MOST_CONNECTIONS, LiveServer, page_files, serve

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / "tests" / "fixtures" / "runs" / "documents" / "run"
ABOUT = b'{"method": "about"}'


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with serve(Microscope({"run": str(RUN)})) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def send(server: LiveServer, data: bytes, wait: float = 5.0) -> tuple[int, dict[str, str], bytes]:
    """Sends bytes as they are; returns status, headers and body of what comes back."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=wait) as connection:
        connection.sendall(data)
        received = b""
        while piece := _piece(connection):
            received += piece
            head, _, body = received.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            if length and len(body) >= int(length[1]):
                break
    head, _, body = received.partition(b"\r\n\r\n")
    if not received.startswith(b"HTTP/"):
        return 0, {}, received  # nothing, or the bare text that HTTP 0.9 has
    lines = head.decode("latin-1").split("\r\n")
    status = int(lines[0].split()[1])
    return status, dict(line.split(": ", 1) for line in lines[1:]), body


def _piece(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except OSError:
        return b""


def post(server: LiveServer, body: bytes = ABOUT, path: str | None = None, **changes: str | None) -> int:
    """Posts a request that would be answered, but for the changes of its headers; returns the status."""
    headers: dict[str, str | None] = {
        "Host": f"127.0.0.1:{server.server_port}",
        "Origin": f"http://127.0.0.1:{server.server_port}",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
    }
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    path = f"/{server.token}/protocol" if path is None else path
    lines = [
        f"POST {path} HTTP/1.1",
        *(f"{name}: {value}" for name, value in headers.items() if value is not None),
    ]
    return send(server, "\r\n".join([*lines, "", ""]).encode("latin-1") + body)[0]


def get(server: LiveServer, path: str, host: str | None = None) -> tuple[int, dict[str, str], bytes]:
    host = f"127.0.0.1:{server.server_port}" if host is None else host
    return send(server, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1"))


def test_it_answers_its_own_page(server):
    status, headers, body = get(server, f"/{server.token}/")
    assert status == 200 and b"live microscope" in body
    assert "script-src 'self'" in headers["Content-Security-Policy"] and "unsafe" not in str(headers)
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
    assert post(server) == 200 and post(server, Host=f"localhost:{server.server_port}") == 200
    for name in page_files():
        status, headers, _ = get(server, f"/{server.token}/{name}")
        assert status == 200 and ("javascript" in headers["Content-Type"]) == name.endswith(".js")


def test_it_listens_on_this_machine_only(server):
    assert server.server_address[0] == "127.0.0.1" and server.server_port > 1023 and len(server.token) >= 32


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost", "0.0.0.0", "", "[::1]"]
)
def test_other_hosts_are_refused(server, host):
    assert get(server, f"/{server.token}/", host)[0] == 403 and post(server, Host=host) == 403


def test_no_host_and_two_hosts_are_refused(server):
    assert post(server, Host=None) == 403
    own = f"127.0.0.1:{server.server_port}"
    assert (
        send(server, f"GET /{server.token}/ HTTP/1.1\r\nHost: {own}\r\nHost: {own}\r\n\r\n".encode())[0]
        == 403
    )


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "https://127.0.0.1", "file://", None])
def test_other_origins_are_refused(server, origin):
    assert post(server, Origin=origin) == 403


@pytest.mark.parametrize("token", ["", "x", "protocol", "%00", "a" * 5000, "\xff\xfe"])
def test_without_the_token_there_is_nothing(server, token):
    assert post(server, path=f"/{token}/protocol") == 403
    assert get(server, f"/{token}/")[0] == 403 and get(server, "/")[0] == 403
    assert post(server, path="/protocol") == 403 and post(server, path=f"/{server.token}x/protocol") == 403


@pytest.mark.parametrize(
    "name",
    [
        "../server.py",
        "..%2f__init__.py",
        "/etc/passwd",
        "protocol/x",
        "main.js/",
        "nothing",
        "%2e%2e/x",
        "..",
    ],
)
def test_only_the_pages_files_are_served(server, name):
    assert (
        get(server, f"/{server.token}/{name}")[0] == 404
        and post(server, path=f"/{server.token}/{name}") == 404
    )


def test_bodies_are_bounded(server):
    assert post(server, Content_Length=str(LONGEST_REQUEST + 1)) == 413
    assert post(server, Content_Length="9" * 30) == 413
    for length in ("-1", "+5", "5.0", "0x10", "", " ", "²"):
        assert post(server, Content_Length=length) == 411, length
    assert post(server, Content_Length=None) == 411
    assert post(server, Content_Length=None, Transfer_Encoding="chunked") == 411
    assert post(server, Transfer_Encoding="chunked") == 411


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
def test_a_form_is_no_request(server, kind):
    assert post(server, Content_Type=kind) == 415


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "CONNECT", "X"])
def test_other_methods_are_refused(server, method):
    own = f"127.0.0.1:{server.server_port}"
    request = f"{method} /{server.token}/protocol HTTP/1.1\r\nHost: {own}\r\n\r\n".encode()
    status, headers, body = send(server, request)
    assert (
        status == 501 and "Access-Control-Allow-Origin" not in headers and server.token.encode() not in body
    )


@pytest.mark.parametrize(
    "data", [b"\r\n\r\n", b"GET\r\n\r\n", b"\xff\xfe\x00\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"<x>"]
)
def test_what_is_no_http_repeats_nothing(server, data):
    _, _, body = send(server, data, wait=1.0)
    assert b"<x>" not in body and post(server) == 200


def test_a_headers_line_may_not_be_endless(server):
    own = f"127.0.0.1:{server.server_port}"
    request = f"GET /{server.token}/ HTTP/1.1\r\nHost: {own}\r\nX: {'a' * 200_000}\r\n\r\n".encode()
    assert send(server, request)[0] in (0, 431) and post(server) == 200


def test_many_silent_connections_leave_room_again(server):
    silent = [
        socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(MOST_CONNECTIONS + 10)
    ]
    for connection in silent:
        connection.close()
    for _ in range(100):
        try:
            if post(server) == 200:
                break
        except (OSError, ValueError):
            pass
    assert post(server) == 200


def test_an_answer_is_what_the_microscope_says(server):
    own = f"127.0.0.1:{server.server_port}"
    body = json.dumps({"method": "forward", "params": {"text": "ge"}}).encode()
    head = (
        f"POST /{server.token}/protocol HTTP/1.1\r\nHost: {own}\r\nOrigin: http://{own}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    _, _, answer = send(server, head.encode() + body)
    assert json.loads(answer) == server.microscope.answer({"method": "forward", "params": {"text": "ge"}})


def test_the_command_stops_with_ctrl_c(tmp_path):
    command = [sys.executable, "-S", "-m", "tinygpt_core", "live", str(RUN), "--no-browser"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # A shell that runs the tests in the background has them, and so what they start, ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", address)
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=30)
    assert process.returncode == 0 and out.strip() == "stopped" and error == ""


@pytest.mark.parametrize("arguments", [["nowhere"], [str(RUN), "--port", "70000"], [str(RUN.parent)]])
def test_wrong_input_is_said_in_one_line(arguments, capsys):
    assert cli.main(["live", "--no-browser", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tinygpt: error:") and error.count("\n") == 1
