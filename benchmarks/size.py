"""Counts the lines of code of the core, floor by floor: lines that carry a token of code, so no blank lines,
comments or docstrings.

    python benchmarks/size.py

Exits with 1 where the engine (floors 1 to 6), the whole core or what was added since is over its limit. A
small core is a feature, so its growth is a choice.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

CORE = Path(__file__).resolve().parent.parent / "tinygpt_core"
ENGINE_LIMIT, CORE_LIMIT = 2_800, 5_500
FLOORS: list[tuple[str, list[str]]] = [
    ("1  dtype, shape", ["dtype.py", "shape.py"]),
    ("2  random", ["random.py"]),
    ("3  buffer, kernels, backends", ["buffer", "kernels", "backends.py"]),
    ("4  operations", ["operations.py", "mlops.py"]),
    ("5  tensor", ["tensor.py"]),
    ("6  module, tree", ["module.py", "tree.py", "utils.py"]),
    ("7  nn, losses, optimizers", ["nn", "losses.py", "checks.py", "optimizers.py", "schedules.py"]),
    ("7  text and data", ["tokenizer.py", "dataset.py", "corpora.py", "files.py"]),
    ("8  files", ["serialization.py", "checkpoint.py"]),
    ("9  training, generation", ["training.py", "generation.py"]),
    ("10 command line", ["cli.py", "__main__.py", "__init__.py"]),
]
# What later issues add is counted apart, each with a limit of its own.
ADDED: list[tuple[str, int, list[str]]] = [
    (
        "tokenizers and folders (issue 5)",
        1_500,
        [
            "encoders.py",
            "folders.py",
            "id_check.py",
            "merging.py",
            "pretokenize.py",
            "token_folders.py",
            "vocabularies.py",
        ],
    ),
    ("weights from elsewhere (issue 5)", 800, ["cli_convert.py", "formats.py"]),
    ("packed attention (issue 3)", 40, ["kernels/packed_attention.py"]),
    (
        "convolution (issue 5)",
        450,
        ["kernels/convolution.py", "kernels/python_convolution.py", "nn/convolution.py", "images.py"],
    ),
    (
        "einsum, recurrence, losses (issue 5)",
        700,
        [
            "kernels/einsum.py",
            "nn/recurrent.py",
            "nn/activations.py",
            "nn/initializers.py",
            "elementwise_losses.py",
            "inspection.py",
            "toy_data.py",
        ],
    ),
    (
        "windows (issue 6)",
        1_100,
        [
            "cli_plot.py",
            "loggers.py",
            "misfit.py",
            "plotting.py",
            "printing.py",
            "progress.py",
            "cli_compare.py",
            "comparison.py",
        ],
    ),
    ("the microscope (issue 6)", 1000, ["explain", "parameter_statistics.py"]),
    ("mixed precision, steps (issue 4)", 150, ["precision.py", "stepping.py"]),
]
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def code_lines(path: Path) -> int:
    """Returns how many lines of a Python file carry code."""
    text = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                lines.difference_update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return len(lines)


def main() -> int:
    """Prints the report; returns the exit code."""
    added = {
        name: {
            file
            for entry in entries
            for file in ([CORE / entry] if entry.endswith(".py") else (CORE / entry).rglob("*.py"))
        }
        for name, _, entries in ADDED
    }
    counted: set[Path] = set().union(*added.values())
    apart = set(counted)
    totals: list[tuple[str, int]] = []
    for name, entries in FLOORS:
        files = [
            file
            for entry in entries
            for file in ((CORE / entry).rglob("*.py") if (CORE / entry).is_dir() else [CORE / entry])
        ]
        counted.update(files)
        totals.append((name, sum(code_lines(file) for file in files if file not in apart)))
    missing = sorted(set(CORE.rglob("*.py")) - counted)
    if missing:
        print(
            f"no floor is named here for {', '.join(str(path.relative_to(CORE)) for path in missing)}",
            file=sys.stderr,
        )
        return 1
    print("| floor | lines of code |\n|---|---|")
    for name, lines in totals:
        print(f"| {name} | {lines:,} |")
    engine = sum(lines for name, lines in totals if int(name.split()[0]) <= 6)
    core = sum(lines for _, lines in totals)
    print(
        f"| the engine, floors 1 to 6 | {engine:,} of {ENGINE_LIMIT:,} |\n| the core | {core:,} of {CORE_LIMIT:,} |"
    )
    kept = engine < ENGINE_LIMIT and core < CORE_LIMIT
    for name, limit, _ in ADDED:
        lines = sum(map(code_lines, added[name]))
        kept = kept and lines < limit
        print(f"| added since: {name} | {lines:,} of {limit:,} |")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
