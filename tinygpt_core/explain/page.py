"""One self-contained HTML file: the page's own style and scripts, and the data, inside it."""

from __future__ import annotations

import base64
import html
import json
from importlib import resources
from string import Template
from typing import Any

from ..files.atomic import Path, atomic_write

SCRIPTS = (
    "dom",
    "heat",
    "layout",
    "overview",
    "names",
    "nodes",
    "panel",
    "step",
    "attention",
    "tokens",
    "merges",
    "training",
    "main",
)


def render(data: dict[str, Any]) -> str:
    """Returns the page that shows `data`.

    Whatever texts the data contain, they stay texts: no '<' of theirs reaches the HTML.
    """
    folder = resources.files(__package__) / "page"

    def read(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    encoded = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False).replace(
        "<", "\\u003c"
    )
    scripts = "\n".join(read(f"{name}.js") for name in SCRIPTS)
    return Template(read("index.html")).substitute(
        title=html.escape(f"{data['title']} · tinygpt explain"),
        style=read("style.css"),
        map=read("gpt.svg"),
        data=encoded,
        script=f'(() => {{\n"use strict";\n{scripts}\n}})();',
    )


def write(path: Path, data: dict[str, Any]) -> int:
    """Writes the page, in the place of a file that may be there; returns its size in bytes."""
    text = render(data).encode("utf-8", errors="backslashreplace")
    atomic_write(path, [text])
    return len(text)


def matrix(rows: list[list[float]]) -> dict[str, Any]:
    """Returns rows of shares from 0 to 1, which may differ in length, in base64.

    A cell is one byte: 255 times the root of the share.
    """
    columns = max(map(len, rows))
    cells = bytearray()
    for row in rows:
        cells += bytes(round(255 * share**0.5) for share in row)
        cells += bytes(columns - len(row))
    return {"rows": len(rows), "columns": columns, "cells": base64.b64encode(cells).decode("ascii")}
