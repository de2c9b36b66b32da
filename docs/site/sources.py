"""Pages of the site that show a source file, with an anchor at every definition: `#Tensor.backward`, and
`#L12` at line 12.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from html import escape
from pathlib import Path

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound


def definitions(path: Path) -> dict[str, int]:
    """The names that a Python file defines, with their lines: functions, classes, their methods and
    attributes, and what is assigned.
    """

    def visit(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, int]]:
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield (
                    prefix + node.name,
                    min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]),
                )
                if isinstance(node, ast.ClassDef):
                    yield from visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    yield from (
                        (prefix + name.id, node.lineno)
                        for name in ast.walk(target)
                        if isinstance(name, ast.Name)
                    )

    found: dict[str, int] = {}
    for name, line in (
        visit(ast.parse(path.read_text(encoding="utf-8")).body, "") if path.suffix == ".py" else ()
    ):
        found.setdefault(name, line)
    return found


def page(path: Path, title: str, above: str) -> str:
    """The Markdown of a file's page.

    Args:
        path: the file.
        title: its heading.
        above: a line of Markdown between heading and source.
    """
    text = path.read_text(encoding="utf-8")
    try:
        lexer = get_lexer_for_filename(
            path.name if path.suffix not in (".cu", ".cuh") else "kernel.cpp", stripnl=False
        )
    except ClassNotFound:  # plain text, as a licence is
        lexer = TextLexer(stripnl=False)
    lines = highlight(text, lexer, HtmlFormatter(nowrap=True)).splitlines()
    names: dict[int, list[str]] = {}
    for name, line in definitions(path).items():
        names.setdefault(line, []).append(name)
    for number in range(1, len(lines) + 1):
        marks = "".join(f'<span id="{escape(name)}"></span>' for name in names.get(number, ()))
        anchor = f'<a class="number" href="#L{number}">{number}</a>'
        lines[number - 1] = f'{marks}<span id="L{number}" class="line">{anchor}{lines[number - 1]}</span>'
    code = "\n".join(lines)
    return (
        f"---\norphan: true\nhide-toc: true\n---\n\n# {title}\n\n{above}\n\n"
        f'```````{{raw}} html\n<div class="highlight source"><pre>{code}\n</pre></div>\n```````\n'
    )
