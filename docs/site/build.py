"""Builds the static site: the documents, reference pages from the docstrings, sources, and notebooks to
download.

    pip install -e ".[docs]"
    python docs/site/build.py                # to build/site; open build/site/index.html, no server is needed
    python docs/site/build.py --out DIR

It gathers pages in build/site-pages, runs Sphinx on them with every warning an error, and then follows each
link of the result: a page, a picture or an anchor that is missing, and anything that would be loaded from a
network, is an error too.

In the documents, links lead to files of the repository. In the site, a link to a document leads to its page,
and one to any other file to a page with its source; [`Tensor.backward`](../tinygpt_core/tensor.py) leads to
that definition.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import live
import notebooks
import reference
import running
import sources
from markdown_text import Block, Link, links, parts, replace_links

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DOCS = ROOT / "docs"


# Documents that lead to the live page, which the site alone has, and what the link says
LIVE_LINKS = {
    "index.md": "Try it here: the live microscope, a model that answers while you type",
    "live.md": "Open the live microscope in this browser",
    "explain.md": "Open the live microscope in this browser",
}


class Pages:
    """Gathers the pages in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        documents = [path for path in sorted(DOCS.rglob("*.md")) if HERE not in path.parents]
        self.documents = {path: path.relative_to(DOCS).as_posix() for path in documents}
        self.documents |= {
            ROOT / "README.md": "readme.md",
            ROOT / "benchmarks" / "README.md": "benchmarks.md",
        }
        self.modules = reference.modules(ROOT)
        self.sources: dict[Path, str] = {}
        for module in self.modules.values():
            self.source(module.filepath)

    def source(self, path: Path) -> str:
        """The page of a source file or folder, which is gathered from now on."""
        if path not in self.sources:
            name = f"source/{path.relative_to(ROOT).as_posix()}"
            self.sources[path] = f"{name}/index.md" if path.is_dir() else f"{name}.md"
        return self.sources[path]

    def gather(self) -> None:
        """Writes all pages."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "_static").mkdir(parents=True)
        for name in ("style.css", "book.js"):
            shutil.copy(HERE / name, self.folder / "_static")
        shutil.copytree(HERE / "book", self.folder / "_static" / "book")
        for name in ("conf.py", "scorer.js"):
            shutil.copy(HERE / name, self.folder)
        shutil.copytree(DOCS / "pictures", self.folder / "pictures")
        have_notebooks = {path.stem for path in notebooks.write(self.folder / "extra" / "notebooks")}
        for path, name in self.documents.items():
            text = self._rewritten(path, name)
            if path.stem in have_notebooks and path.parent == DOCS:
                title, _, rest = text.partition("\n")
                link = f'<a href="notebooks/{path.stem}.ipynb" download>Download this page as a notebook</a>'
                text = f'{title}\n\n<p class="notebook">{link}</p>\n{rest}'
            if name in LIVE_LINKS:
                title, _, rest = text.partition("\n")
                link = f'<a href="live/index.html">{LIVE_LINKS[name]}</a>'
                text = f'{title}\n\n<p class="live-link">{link}</p>\n{rest}'
            self._write(name, text + (self._contents() if name == "index.md" else ""))
        self._reference()
        done: set[Path] = set()
        while todo := set(self.sources) - done:  # a folder's page leads to more files
            for path in sorted(todo):
                self._source_page(path)
            done |= todo

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def _rewritten(self, document: Path, name: str) -> str:
        """A document with its links leading to pages of the site."""

        def linked(link: Link) -> str | None:
            path, _, anchor = link.target.partition("#")
            if "://" in path or not path:
                return None
            target = (document.parent / path).resolve()
            if link.is_picture and DOCS in target.parents:
                return f"![{link.label}]({_relative(name, target.relative_to(DOCS).as_posix())})"
            if target in self.documents:
                mark = f"#{anchor}" if anchor else ""
                return f"[{link.label}]({_relative(name, self.documents[target])}{mark})"
            if not target.exists() or ROOT not in target.parents:
                return None  # Sphinx says so
            return _html_link(
                link.label,
                _relative(
                    name, self.source_address(target, anchor or link.label.strip("`").removesuffix("()"))
                ),
            )

        text = document.read_text(encoding="utf-8")
        pieces: list[str] = []
        position = 0
        for part in parts(text):
            if isinstance(part, str):
                start = text.index(part, position)
                pieces += [text[position:start], replace_links(part, linked)]
                position = start + len(part)
        return "".join([*pieces, text[position:]])

    def source_address(self, path: Path, name: str) -> str:
        """Where the site shows a file, at a definition if the file has one of that name."""
        page = self.source(path).removesuffix(".md") + ".html"
        return f"{page}#{name}" if path.is_file() and name in sources.definitions(path) else page

    def _contents(self) -> str:
        """What stands in the site's margin."""
        index = [
            (DOCS / link.target).resolve() for link in links((DOCS / "index.md").read_text(encoding="utf-8"))
        ]
        names = sorted(
            self.documents, key=lambda path: (index.index(path) if path in index else len(index), path)
        )
        chapters = [self.documents[path] for path in names if path.name[:2].isdigit()]
        guides = [
            self.documents[path] for path in names if self.documents[path] not in (*chapters, "index.md")
        ]
        text = ""
        for caption, entries in (
            ("The book", chapters),
            ("Guides", guides),
            ("Reference", ["reference/index.md"]),
        ):
            lines = "\n".join(
                "README <readme>" if name == "readme.md" else name.removesuffix(".md") for name in entries
            )
            text += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n"
        return text

    def _reference(self) -> None:
        def source(path: Path, name: str) -> str:
            return _relative("reference/page.md", self.source_address(path, name))

        pages = reference.Reference(self.modules, source)
        text = (
            "# Reference\n\nEvery public module, from its docstrings, in the order in which they are built.\n"
        )
        for floor in reference.floors((ROOT / "README.md").read_text(encoding="utf-8"), list(self.modules)):
            lines = "\n".join(f"- [{path}]({path}.md): {pages.first_line(path)}" for path in floor.modules)
            duty = f"{floor.duty[:1].upper()}{floor.duty[1:]}.\n\n" if floor.duty else ""
            text += f"\n## {floor.title}\n\n{duty}{lines}\n"
            for path in floor.modules:
                self._write(
                    f"reference/{path}.md",
                    pages.page(path, f"[Reference](index.md), {floor.title[:1].lower()}{floor.title[1:]}"),
                )
        self._write("reference/index.md", text)

    def _source_page(self, path: Path) -> None:
        name, title = self.source(path), path.relative_to(ROOT).as_posix()
        if path.is_dir():
            files = sorted(
                child for child in path.iterdir() if child.suffix in (".py", ".cu", ".cuh", ".toml")
            )
            links = "\n".join(
                f"- {_html_link(f'`{child.name}`', _relative(name, self.source_address(child, '')))}"
                for child in files
            )
            self._write(name, f"---\norphan: true\n---\n\n# {title}\n\n{links}\n")
            return
        dotted = title.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        above = (
            f"[Reference of {dotted}]({_relative(name, f'reference/{dotted}.md')})"
            if dotted in self.modules
            else ""
        )
        self._write(name, sources.page(path, title, above))


def _relative(page: str, target: str) -> str:
    """The path from one page to another."""
    path, mark, anchor = target.partition("#")
    return os.path.relpath(path, Path(page).parent).replace(os.sep, "/") + mark + anchor


def _html_link(label: str, address: str) -> str:
    """A link that Sphinx leaves alone; the label is text with code in backquotes."""
    code = '<code class="docutils literal notranslate"><span class="pre">{}</span></code>'
    pieces = [
        code.format(escape(piece)) if index % 2 else escape(piece)
        for index, piece in enumerate(label.split("`"))
    ]
    return f'<a class="reference internal" href="{escape(address)}">{"".join(pieces)}</a>'


class _Page(HTMLParser):
    """The anchors of a page, where its links lead, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = {""}
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attributes}
        self.anchors |= {values[key] for key in ("id", "name") if key in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and "href" in values:
            self.loaded.append(values["href"])
        elif tag in ("img", "script", "iframe", "source", "video", "audio") and "src" in values:
            self.loaded.append(values["src"])


def faults(site: Path) -> list[str]:
    """What is wrong with the links of a built site: missing pages, files and anchors, and whatever is loaded
    from a network.
    """
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        where = path.relative_to(site).as_posix()
        found += [
            f"{where} loads {address}"
            for address in page.loaded
            if urlsplit(address).scheme not in ("", "data")
        ]
        for address in sorted({*page.links, *page.loaded}):
            parsed = urlsplit(address)
            if parsed.scheme or parsed.netloc:
                continue
            target = (path.parent / unquote(parsed.path)).resolve() if parsed.path else path
            if not target.is_file():
                found.append(f"{where} links to {address}, which is not there")
            elif (
                target in pages and parsed.fragment and unquote(parsed.fragment) not in pages[target].anchors
            ):
                found.append(f"{where} links to {address}, which has no such anchor")
    return found


# What the theme leaves to be said to those who do not see the page, or use no mouse.
_ACCESS = {
    "<pre>": '<pre tabindex="0">',
    '<p class="caption" role="heading">': '<p class="caption" role="heading" aria-level="2">',
    '<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="Contents">',
    '<aside class="toc-drawer">': '<aside class="toc-drawer" aria-label="On this page">',
}


def make_accessible(site: Path) -> None:
    """Lets the keyboard scroll code, and names the theme's regions."""
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        for old, new in _ACCESS.items():
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")


def make_runnable(site: Path, documents: dict[Path, str]) -> None:
    """Tells each page with Python blocks what these need that a browser lacks, see `running.needs`; its
    scripts let them be run.
    """
    for document, name in documents.items():
        blocks = [
            part.code
            for part in parts(document.read_text(encoding="utf-8"))
            if isinstance(part, Block) and part.language == "python"
        ]
        if not blocks:
            continue
        path = site / Path(name).with_suffix(".html")
        text = path.read_text(encoding="utf-8")
        if text.count('class="highlight-python') != len(blocks):
            sys.exit(f"{name} has {len(blocks)} Python blocks, and its page another number")
        alone = name == "readme.md"  # whose blocks are each there to be copied
        needs = [running.needs([block])[0] for block in blocks] if alone else running.needs(blocks)
        data = f' data-blocks="{escape(json.dumps(needs))}"' + (' data-alone="true"' if alone else "")
        path.write_text(text.replace("<body", f"<body{data}", 1), encoding="utf-8")


def build(out: Path) -> None:
    """Builds the site in a folder; a warning of Sphinx or a broken link ends the program with an error."""
    out = out.resolve()
    pages = out.parent / f"{out.name}-pages"
    gathered = Pages(pages)
    gathered.gather()
    shutil.rmtree(out, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-E",
        "-j",
        "auto",
        "-b",
        "html",
        str(pages),
        str(out),
    ]
    subprocess.run([*command, "-d", str(pages / "doctrees")], check=True)
    try:
        live.write(out, out.parent / "site-cache")
        make_runnable(out, gathered.documents)
    except live.Unavailable as reason:
        print(f"without the live page, and without Python in the book: {reason}")
        for path in out.rglob("*.html"):
            text = path.read_text(encoding="utf-8")
            path.write_text(re.sub(r'<p class="live-link">.*?</p>', "", text), encoding="utf-8")
    make_accessible(out)
    if broken := faults(out):
        sys.exit("\n".join(broken))
    count = len(list(out.rglob("*.html")))
    print(f"{count} pages and {len(list((out / 'notebooks').iterdir()))} notebooks in {out}: open index.html")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site", help="default: build/site")
    try:
        build(parser.parse_args().out)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
