"""A browser, and a plain static host for what it shows: what several tests look at."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *arguments: Any, headers: Mapping[str, str], **settings: Any) -> None:
        self.further_headers = headers
        super().__init__(*arguments, **settings)

    def end_headers(self) -> None:
        for name, value in self.further_headers.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


@contextmanager
def static_host(
    folder: Path, headers: Mapping[str, str] | None = None
) -> Iterator[http.server.ThreadingHTTPServer]:
    """A server of a folder's files on a free port of this machine, inside a `with`.

    Args:
        headers: what it sends beside its own with each answer.
    """
    handler = functools.partial(_Quiet, directory=str(folder), headers=headers or {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
