"""Notebooks of the documents: the same headings, text and code, and the shown outputs as outputs.

    python docs/site/notebooks.py            # every document with Python blocks, to build/notebooks/*.ipynb
    python docs/site/notebooks.py --out DIR

Nothing but the standard library is needed. A notebook is one file: its pictures are attached to the cells
that show them. Commands and TOML stay text, since a notebook may be opened anywhere. Links between documents
lead from notebook to notebook; a link to a file of the repository becomes its path.
"""

from __future__ import annotations

import argparse
import base64
import json
from pathlib import Path
from typing import Any

from markdown_text import Block, Link, parts, replace_links

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
KINDS = {".svg": "image/svg+xml", ".png": "image/png"}
NOTE = (
    "This notebook was made from `{path}`. Its cells need the package: start Jupyter in the root of the "
    "repository with `PYTHONPATH=$PWD jupyter lab`, or install it there with `pip install -e . -e "
    "./tinygpt_accel`.\n"
)


def documents() -> list[Path]:
    """The documents that become notebooks: those in docs with Python blocks."""
    return [
        path
        for path in sorted(DOCS.glob("*.md"))
        if any(
            isinstance(part, Block) and part.language == "python"
            for part in parts(path.read_text(encoding="utf-8"))
        )
    ]


def notebook(document: Path) -> dict[str, Any]:
    """The notebook of a document, in nbformat 4.5."""
    with_notebook = documents()
    cells: list[dict[str, Any]] = []

    def add_prose(prose: str) -> None:
        attachments: dict[str, Any] = {}

        def linked(link: Link) -> str | None:
            path, _, anchor = link.target.partition("#")
            if "://" in path or not path:
                return None
            target = (document.parent / path).resolve()
            if link.is_picture:
                attachments[target.name] = {
                    KINDS[target.suffix]: base64.b64encode(target.read_bytes()).decode()
                }
                return f"![{link.label}](attachment:{target.name})"
            if target in with_notebook:
                return f"[{link.label}]({target.stem}.ipynb{'#' + anchor if anchor else ''})"
            where = f"`{target.relative_to(ROOT).as_posix()}`"
            return where if link.label.strip("`") in where else f"{link.label} ({where})"

        cell = {"cell_type": "markdown", "metadata": {}, "source": replace_links(prose, linked).strip("\n")}
        cells.append(cell | ({"attachments": attachments} if attachments else {}))

    add_prose(NOTE.format(path=document.relative_to(ROOT).as_posix()))
    for part in parts(document.read_text(encoding="utf-8")):
        if isinstance(part, str):
            add_prose(part)
        elif part.language == "python":
            outputs = [{"output_type": "stream", "name": "stdout", "text": part.shown}] if part.shown else []
            source = part.code.rstrip("\n")
            cells.append(
                {
                    "cell_type": "code",
                    "execution_count": None,
                    "metadata": {},
                    "outputs": outputs,
                    "source": source,
                }
            )
        else:
            cells.append(
                {"cell_type": "markdown", "metadata": {}, "source": f"```{part.language}\n{part.code}```"}
            )
    for position, cell in enumerate(cells):
        cell["id"] = f"cell-{position}"
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "file_extension": ".py"},
    }
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def write(folder: Path) -> list[Path]:
    """Writes all notebooks into a folder and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for document in documents():
        path = folder / f"{document.stem}.ipynb"
        path.write_text(json.dumps(notebook(document), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        written.append(path)
    return written


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build" / "notebooks", help="default: build/notebooks"
    )
    print(*write(parser.parse_args().out), sep="\n")
