"""What an Operation says of itself: its formula, its chain rule and its lines of code."""

from __future__ import annotations

import inspect
import os
import re
from typing import Any

from ..operations import Operation

_RULE = re.compile(r"dL/d|dy/d|\bg goes\b|gets its part|; so has|With h =|dv = ")


def describe(operation: Operation) -> dict[str, Any]:
    """Returns an operation's formula and derivative, from its docstring, and the source of its methods.

    An operation that hands over to a kernel shows the textbook kernel, which says what is computed;
    `implementation` names the class that really ran where the backend has one of its own.
    """
    kind: Any = type(operation)
    kernel = getattr(kind, "kernel", None)
    shown = kernel or kind
    doc = (inspect.getdoc(shown) or "").partition("\n\nRaises:")[0]
    formula, rule = split_formula(doc)
    ran = getattr(operation, "implementation", None)
    return {
        "name": kind.__name__,
        "formula": formula,
        "rule": rule,
        "forward": _source(shown, "forward"),
        "backward": _source(shown, "backward"),
        "implementation": f"{ran.__module__}.{ran.__name__}" if ran not in (None, kernel) else None,
    }


def split_formula(doc: str) -> tuple[str, str]:
    """Returns a docstring's formula and its derivative.

    It is cut at the last ';', full stop or empty line before the first mention of a gradient.
    """
    found = _RULE.search(doc)
    if found is None:
        return doc, ""
    before = doc[: found.start() + 1]
    cut = max(before.rfind(";"), before.rfind("\n\n"), before.rfind(". "))
    if cut < 0:
        return doc, ""
    return doc[:cut].rstrip(), doc[cut + 1 :].strip()


def _source(kind: Any, method: str) -> dict[str, Any] | None:
    """Returns the lines of a method and where they stand; None for a class that was typed into a prompt."""
    function = getattr(kind, method)
    function = getattr(function, "__wrapped__", function)  # what the recorder put in its place
    try:
        lines, start = inspect.getsourcelines(function)
        path = inspect.getsourcefile(function) or ""
    except (OSError, TypeError):
        return None
    module = getattr(function, "__module__", "")
    file = f"{module.replace('.', '/')}.py" if module.startswith("tinygpt") else os.path.basename(path)
    return {"file": file, "line": start, "text": inspect.cleandoc("\n" + "".join(lines)) if lines else ""}
