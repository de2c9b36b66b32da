"""Which blocks of a document can run in a browser, where there is Python and tinygpt_core and nothing else.

A block needs more if it imports something else, chooses a backend of the plug-in, or uses a name that only
such a block has defined.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

# What a browser's Python lacks, by the names that are imported
MISSING = {
    "numpy": "the plug-in tinygpt-accel, with NumPy",
    "tinygpt_accel": "the plug-in tinygpt-accel",
    "tinygpt_spec": "the specification, tinygpt-spec",
    "numba": "Numba",
    "cupy": "CuPy",
    "torch": "PyTorch",
    "matplotlib": "Matplotlib",
    "tiktoken": "tiktoken",
    "regex": "regex",
    "safetensors": "safetensors",
    "mpi4py": "mpi4py",
    "pytest": "pytest",
    "hypothesis": "Hypothesis",
    "subprocess": "other processes",
    "multiprocessing": "other processes",
    "threading": "threads",
    "concurrent": "threads",
}
# The plug-in's backends, by the names that `backends.use` takes
BACKENDS = {"numpy": MISSING["numpy"], "cupy": "a GPU"}


def needs(blocks: Iterable[str]) -> list[str]:
    """What each Python block of a page needs that a browser lacks, "" where nothing; the blocks are one
    program, in order.
    """
    lacking: dict[str, str] = {}  # names that only blocks define which need something, and what
    found = []
    for code in blocks:
        tree = ast.parse(code)
        need = _own_need(tree) or next((lacking[name] for name in _used(tree) if name in lacking), "")
        for name in _defined(tree):
            if need:
                lacking[name] = need
            else:
                lacking.pop(name, None)
        found.append(need)
    return found


def _own_need(tree: ast.Module) -> str:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            modules = []
        for module in modules:
            if (root := module.partition(".")[0]) in MISSING:
                return MISSING[root]
        if isinstance(node, ast.Call):
            for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
                if isinstance(argument, ast.Constant) and argument.value in BACKENDS and _names_backend(node):
                    return BACKENDS[argument.value]
    return ""


def _names_backend(call: ast.Call) -> bool:
    """Whether a call is of a function that takes the name of a backend."""
    if any(keyword.arg == "backend" for keyword in call.keywords):
        return True
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name in ("use", "get", "to")


def _used(tree: ast.Module) -> list[str]:
    return [
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    ]


def _defined(tree: ast.Module) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names += [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
    return names
