"""Docstrings of the public names of both packages: that they are there, and that they have the parts which
apply to them.

    python tests/test_docstrings.py        # prints the coverage as a table, then what is missing and where

The sources are read, not imported, so nothing needs to be installed and no GPU is needed. Public is a module,
class, function, method or property whose name, and whose class's name, does not start with `_`. The parts,
and to what they apply:

- **docstring**: every public name, in more words than the name's own. A method that overrides a documented
  one of a base class in these packages inherits its text.
- **equation**: Operations, Kernels, Optimizers, Modules (and with them layers, activations, losses), and the
  functions of the modules in `DEFINING_MODULES` (schedules, initializers). A formula `a = b` stands before
  the arguments, in the class or a base class below the root.
- **derivative**: every Operation and Kernel with a backward says where the gradient g goes: `dL/d…`, `dy/d…`
  or g.
- **shapes**: those classes except Optimizers, and every public function or method that takes or returns a
  Tensor or Buffer: a tuple such as (B, T, C), or a word of `SHAPE_WORDS`.
- **returns**: every public function or method that returns something: a word with "return" or "yield", or a
  first sentence that names the result ("The …", "Whether …", a formula) or opens with a verb of `MAKING`,
  whose object is the result.
- **raises**: each exception class that is raised in the body, or in a helper it calls (a private one, or one
  named check…, normalize… or require…), is named, itself or by a base class. For `__init__`, `__call__` and
  the methods of Operations, Kernels, Optimizers and Modules the docstring of the class counts, too.
- **source**: every public name (and `__dlpack__`) that says something published (`PUBLISHED`) names the paper
  or standard by a year, an address or an RFC; a base class may do so for it, or what its docstring refers to
  in backquotes.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("tinygpt_core", "tinygpt_accel")
PARTS = ("docstring", "equation", "derivative", "shapes", "returns", "raises", "source")
Function = (ast.FunctionDef, ast.AsyncFunctionDef)

FAMILIES = {
    "tinygpt_core.operations.Operation": ("equation", "derivative", "shapes"),
    "tinygpt_core.kernels.base.Kernel": ("equation", "derivative", "shapes"),
    "tinygpt_core.optimizers.Optimizer": ("equation",),
    "tinygpt_core.module.Module": ("equation", "shapes"),
}
DEFINING_MODULES = ("tinygpt_core.schedules", "tinygpt_core.nn.initializers")
EQUATION = re.compile(r"(?<!\S)(?!d\w+/d)\S+ (=|<-|~) \S")  # a derivative alone is none
DERIVATIVE = re.compile(r"\bd[Ly]/d|\bg\b|gradient")
SHAPE_WORDS = r"shapes?|broadcast\w*|elements?|element-?wise|scalars?|axis|axes|rows?|matrix|matrices|0-d"
SHAPE = re.compile(rf"(?i:\b({SHAPE_WORDS})\b)|\((?:\.\.\.|…|[A-Z]\w*|\d+)(?:, ?[^()]*)\)|\((?:\.\.\.|…)\)")
NOTHING = {
    "a",
    "an",
    "and",
    "are",
    "for",
    "in",
    "is",
    "it",
    "its",
    "of",
    "or",
    "returns",
    "return",
    "that",
    "the",
    "this",
    "to",
    "with",
}
RETURNS = re.compile(r"\b(returns?|returned|returning|yields?|yielding)\b", re.IGNORECASE)
FIRST = (
    "The|A|An|All|Whether|How|What|Where|Which|Each|Every|Pairs?|This|These|Those|Its?|One|Two|True|False|"
    "None|Names?|Lines?"
)
NOUN = re.compile(rf"({FIRST})\b|[^A-Z]|[A-Z]\w* = ")
MAKING = re.compile(r"(Make|Read|List|Count|Load|Find|Draw|Compute|Build|Create|Open|Parse|Sum)\b")
SOURCE = re.compile(r"\b(1[89]|20)\d\d\b|https?://|\bRFC \d+|\barXiv\b")
# What was published somewhere, by what its name contains; each pattern fits at least one name today.
PUBLISHED = {
    name: re.compile(pattern)
    for name, pattern in {
        "Adam, AdamW": r"Adam",
        "momentum": r"SGD",
        "gradient clipping": r"clip_grad",
        "layer norm": r"LayerNorm",
        "RMSNorm": r"RMSNorm",
        "batch norm": r"BatchNorm",
        "GELU": r"[Gg][Ee][Ll][Uu]",
        "SiLU": r"[Ss]i[Ll][Uu]|Swish",
        "gated units": r"[Gg][Ll][Uu]|GatedMLP",
        "rotary encoding": r"Rotary",
        "dropout": r"Dropout",
        "attention, the transformer": r"Attention|TransformerBlock",
        "GPT": r"^GPT$",
        "byte-pair encoding": r"BPE|BytePair",
        "Philox": r"^words$|philox",
        "normal quantile": r"normal_quantile",
        "cosine schedule": r"cosine",
        "Kaiming, Xavier, orthogonal": r"kaiming|xavier|orthogonal",
        "Huber": r"Huber",
        "LSTM": r"LSTM",
        "GRU": r"GRU",
        "nucleus sampling": r"^sample_index$|nucleus",
        "flash attention": r"[Ff]lash",
        "DLPack": r"^__dlpack__$",
        "loss scaling": r"[Ss]caler",
        "safetensors": r"safetensors",
        "IDX": r"idx",
    }.items()
}


class Missing(NamedTuple):
    """A part of a docstring that is needed and not there."""

    where: str
    name: str
    part: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.name}: {self.part}: {self.why}"


class Report(NamedTuple):
    """How many names need each part, and which lack it."""

    needed: dict[str, int]
    missing: list[Missing]

    def table(self) -> str:
        """The coverage as a Markdown table."""
        lines = [
            "| part of the docstring | names that need it | that have it | coverage |",
            "|---|---|---|---|",
        ]
        for part in PARTS:
            needed = self.needed[part]
            has = needed - sum(missing.part == part for missing in self.missing)
            lines.append(f"| {part} | {needed:,} | {has:,} | {100 * has / max(needed, 1):.1f} % |")
        return "\n".join(lines)


class Sources:
    """The parsed modules of the packages below a folder, and what a name in one of them stands for."""

    def __init__(self, root: Path, packages: tuple[str, ...] = PACKAGES) -> None:
        self.root = root
        self.trees: dict[str, ast.Module] = {}
        self.paths: dict[str, Path] = {}
        for path in sorted(path for package in packages for path in (root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            self.trees[name], self.paths[name] = ast.parse(path.read_text(encoding="utf-8")), path
        self.defined: dict[str, ast.AST] = {}
        self.imported: dict[str, dict[str, str]] = {}
        for name, tree in self.trees.items():
            for node in tree.body:
                if isinstance(node, (ast.ClassDef, *Function)):
                    self.defined[f"{name}.{node.name}"] = node
            self.imported[name] = dict(self._imports(name, tree))

    def _imports(self, module: str, tree: ast.Module) -> Iterator[tuple[str, str]]:
        is_package = self.paths[module].name == "__init__.py"
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                parts = module.split(".")
                start = parts[: len(parts) - node.level + is_package] if node.level else []
                prefix = ".".join([*start, *([node.module] if node.module else [])])
                yield from ((alias.asname or alias.name, f"{prefix}.{alias.name}") for alias in node.names)

    def resolve(self, module: str, dotted: str) -> str | None:
        """The full name of the class or function that a dotted name in a module stands for; None for what is
        not of these packages.
        """
        for _ in range(8):  # packages hand names on
            if f"{module}.{dotted}" in self.defined:
                return f"{module}.{dotted}"
            first, _, rest = dotted.partition(".")
            target = self.imported.get(module, {}).get(first)
            if target is None:
                return None
            if target in self.trees:
                module, dotted = target, rest
            else:
                module, _, last = target.rpartition(".")
                dotted = f"{last}.{rest}" if rest else last
        return None

    def bases(self, name: str) -> list[str]:
        """A class and its base classes of these packages, nearest first, by full names."""
        module = name.rpartition(".")[0]
        found = [name]
        for base in self.defined[name].bases:  # type: ignore[attr-defined]
            target = self.resolve(module, ast.unparse(base).partition("[")[0])
            found += [one for one in self.bases(target) if one not in found] if target else []
        return found

    def method(self, name: str, method: str) -> tuple[str, ast.FunctionDef] | None:
        """The class that defines a method of a class, and the method."""
        for base in self.bases(name):
            for node in self.defined[base].body:  # type: ignore[attr-defined]
                if isinstance(node, Function) and node.name == method:
                    return base, node
        return None

    # ---------------------------------------------------------------- exceptions

    def raised(
        self, function: ast.AST, module: str, owner: str | None, seen: tuple[ast.AST, ...] = ()
    ) -> set[str]:
        """Names of the exceptions that leave a function: its own, and those of its helpers. Abstract methods
        and `assert` do not count.
        """
        found: set[str] = set()

        def visit(node: ast.AST, caught: frozenset[str]) -> None:
            if isinstance(node, ast.Try):
                names = {
                    ast.unparse(name)
                    for handler in node.handlers
                    if handler.type
                    for name in _each(handler.type)
                }
                for child in node.body:
                    visit(child, caught | names)
                for child in (*node.handlers, *node.orelse, *node.finalbody):
                    visit(child, caught)
                return
            new: set[str] = set()
            if isinstance(node, ast.Raise) and node.exc is not None:
                new = self._exceptions(node.exc, module)
            elif isinstance(node, ast.Call):
                helper = self._helper(node.func, module, owner)
                if helper is not None and helper[0] not in (*seen, function):
                    new = self.raised(*helper, (*seen, function))
            found.update(
                name for name in new if not any(self._is_a(name, module, handler) for handler in caught)
            )
            for child in ast.iter_child_nodes(node):
                visit(child, caught)

        for child in ast.iter_child_nodes(function):
            visit(child, frozenset())
        found -= {"NotImplementedError", "AssertionError", "StopIteration"}
        return {name for name in found if not name.startswith("_")}  # nobody outside can name a private one

    def _exceptions(self, node: ast.expr, module: str) -> set[str]:
        """`raise X`, `raise X(…)`, and `raise f(…)` of a function that returns an exception."""
        name = ast.unparse(node.func if isinstance(node, ast.Call) else node)
        target = self.resolve(module, name)
        made = self.defined.get(target or "")
        if isinstance(made, Function):
            return {ast.unparse(made.returns)} if made.returns is not None else set()
        return (
            {name.rpartition(".")[2]}
            if target or hasattr(builtins, name) or re.fullmatch(r"\w+(\.\w+)*Error", name)
            else set()
        )

    def _helper(
        self, called: ast.expr, module: str, owner: str | None
    ) -> tuple[ast.AST, str, str | None] | None:
        """The private function or method, or the check, that an expression calls."""
        name = ast.unparse(called)
        last = name.rpartition(".")[2]
        if not re.match(r"_[a-z]|check|normalize|require", last):
            return None
        prefix = name.rpartition(".")[0]
        target = (
            owner
            if prefix in ("self", "cls", "super()")
            else self.resolve(module, prefix)
            if prefix
            else None
        )
        if target and isinstance(self.defined.get(target), ast.ClassDef):
            found = self.method(target, last)
            return (found[1], found[0].rpartition(".")[0], target) if found else None
        target = self.resolve(module, name)
        return (
            (self.defined[target], target.rpartition(".")[0], None)
            if target and isinstance(self.defined[target], Function)
            else None
        )

    def _is_a(self, name: str, module: str, base: str) -> bool:
        return base.rpartition(".")[2] in self.ancestry(name, module)

    def ancestry(self, name: str, module: str) -> set[str]:
        """The short names of an exception class and of its base classes."""
        known = getattr(builtins, name, None)
        if isinstance(known, type):
            return {base.__name__ for base in known.__mro__} - {"object", "BaseException", "Exception"} | {
                name
            }
        target = self.resolve(module, name) or next(
            (path for path in self.defined if path.endswith(f".{name}")), None
        )
        if target is None or not isinstance(self.defined[target], ast.ClassDef):
            return {name}
        names = {name}
        for base in self.defined[target].bases:  # type: ignore[attr-defined]
            names |= self.ancestry(ast.unparse(base), target.rpartition(".")[0])
        return names


def _each(node: ast.expr) -> list[ast.expr]:
    return list(node.elts) if isinstance(node, ast.Tuple) else [node]


def _text(node: ast.AST | None) -> str:
    return (ast.get_docstring(node) or "") if node is not None else ""  # type: ignore[arg-type]


def _methods(node: ast.AST) -> list[ast.FunctionDef]:
    return [child for child in ast.iter_child_nodes(node) if isinstance(child, Function)]


def _is_overload(node: ast.FunctionDef) -> bool:
    return any(
        ast.unparse(decorator).endswith(("overload", ".setter", ".deleter"))
        for decorator in node.decorator_list
    )


def _is_property(node: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator).endswith("property") for decorator in node.decorator_list)


def _says_something(name: str, text: str) -> bool:
    """Whether a docstring has a word (or a formula) that is neither the name's nor one of those that say
    nothing.
    """
    own = {
        part
        for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name.rpartition(".")[2])
        for part in (word.lower(), f"{word.lower()}s")
    }
    return bool(set(re.findall(r"[a-z]+|[=+*/^]", text.lower())) - own - NOTHING)


def _before_arguments(text: str) -> str:
    return re.split(r"^(?:Args|Attributes|Raises):", text, maxsplit=1, flags=re.MULTILINE)[0]


class Checker:
    """Goes through the public names of sources and notes which part each needs and lacks."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.report = Report(dict.fromkeys(PARTS, 0), [])

    def run(self) -> Report:
        """The report."""
        for module, tree in self.sources.trees.items():
            if any(part.startswith("_") and part != "__main__" for part in module.split(".")):
                continue
            self.check_docstring(module, tree, module, [_text(tree)])
            self.check_source(module, tree, module, _text(tree), [_text(tree)])
            for node in tree.body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    self.visit_class(module, node)
                elif isinstance(node, Function) and not node.name.startswith("_") and not _is_overload(node):
                    self.visit_function(module, node)
        return self.report

    def note(self, module: str, node: ast.AST, name: str, part: str, is_there: bool, why: str) -> None:
        """Counts a part that is needed."""
        self.report.needed[part] += 1
        if not is_there:
            place = (
                f"{self.sources.paths[module].relative_to(self.sources.root)}:{getattr(node, 'lineno', 1)}"
            )
            self.report.missing.append(Missing(place, name, part, why))

    def visit_class(self, module: str, node: ast.ClassDef) -> None:
        """A class and its public methods."""
        name = f"{module}.{node.name}"
        own = _text(node)
        self.check_docstring(module, node, name, [own])
        roots = [root for root in FAMILIES if root in self.sources.bases(name) and root != name]
        below = [base for base in self.sources.bases(name) if base not in FAMILIES]
        texts = [_text(self.sources.defined[base]) for base in below]
        inside = [method for base in below for method in _methods(self.sources.defined[base])]
        calls = [_text(method) for method in inside if method.name in ("__call__", "forward")]
        needs = {part for root in roots for part in FAMILIES[root]}
        if "equation" in needs:
            has = any(EQUATION.search(_before_arguments(text)) for text in [*texts, *calls])
            self.note(module, node, name, "equation", has, "no formula `… = …` before the arguments")
        if "derivative" in needs and any(method.name == "backward" for method in _methods(node)):
            has = any(DERIVATIVE.search(text) for text in texts)
            self.note(module, node, name, "derivative", has, "no dL/d… = … of the gradient g")
        if "shapes" in needs:
            has = any(SHAPE.search(text) for text in [*texts, *calls])
            self.note(
                module,
                node,
                name,
                "shapes",
                has,
                "no shape such as (B, T, C), nor a word such as 'elements', 'axis', 'shape'",
            )
        self.check_source(module, node, name, own, texts)
        for method in _methods(node):
            if method.name in ("__init__", "__call__"):
                self.check_raises(module, method, f"{name}.{method.name}", [own, _text(method)], name)
            elif not method.name.startswith("_") and not _is_overload(method):
                self.visit_method(module, method, name)
            elif method.name.endswith("__"):
                inherited = [found for base in below if (found := self.sources.method(base, method.name))]
                self.check_source(
                    module,
                    method,
                    f"{name}.{method.name}",
                    _text(method),
                    [_text(found[1]) for found in inherited],
                )

    def visit_method(self, module: str, node: ast.FunctionDef, owner: str) -> None:
        """A method or property, which may inherit its text."""
        name = f"{owner}.{node.name}"
        own = _text(node)
        inherited = [self.sources.method(base, node.name) for base in self.sources.bases(owner)[1:]]
        texts = [own] if own else [_text(found[1]) for found in inherited if found]
        self.check_docstring(module, node, name, texts)
        bases = self.sources.bases(owner)
        # What a kernel or an operation is given and refuses is said once, in the docstring of its class.
        classes = (
            [_text(self.sources.defined[base]) for base in bases]
            if any(root in bases for root in FAMILIES)
            else []
        )
        self.check_raises(module, node, name, [*texts, *classes], owner)
        if own:
            self.check_source(module, node, name, own, texts)
        if own and not _is_property(node):
            self.check_signature(module, node, name, own, classes[0] if classes else "")

    def visit_function(self, module: str, node: ast.FunctionDef) -> None:
        """A function of a module."""
        name, own = f"{module}.{node.name}", _text(node)
        self.check_docstring(module, node, name, [own])
        self.check_raises(module, node, name, [own], None)
        self.check_signature(module, node, name, own, "")
        self.check_source(module, node, name, own, [own])
        if module in DEFINING_MODULES:
            has = bool(EQUATION.search(_before_arguments(own)) or re.search(r"``[^`]*[-+*/^][^`]*``", own))
            self.note(module, node, name, "equation", has, "no formula before the arguments")

    def check_docstring(self, module: str, node: ast.AST, name: str, texts: list[str]) -> None:
        """There is one, here or in a base class, and it says more than the name."""
        why = "it only repeats the name" if any(texts) else "there is none"
        self.note(module, node, name, "docstring", any(_says_something(name, text) for text in texts), why)

    def check_signature(
        self, module: str, node: ast.FunctionDef, name: str, text: str, of_class: str
    ) -> None:
        """Shapes where Tensors or Buffers go in or out; what is returned."""
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        annotations = [
            ast.unparse(argument.annotation) for argument in arguments if argument.annotation is not None
        ]
        returned = ast.unparse(node.returns) if node.returns is not None else "None"
        if any(
            re.search(r"(?<!type\[)\b(Tensor|Buffer|B|ndarray)\b", each) for each in [*annotations, returned]
        ):
            has = bool(SHAPE.search(text) or SHAPE.search(of_class))
            self.note(
                module,
                node,
                name,
                "shapes",
                has,
                "takes or returns arrays and names no shape, axis or 'elements'",
            )
        if returned not in ("None", "NoReturn", "Never"):
            has = bool(RETURNS.search(text) or NOUN.match(text) or MAKING.match(text))
            self.note(
                module, node, name, "returns", has, f"does not say what the {returned} is that it returns"
            )

    def check_raises(
        self, module: str, node: ast.FunctionDef, name: str, texts: list[str], owner: str | None
    ) -> None:
        """Every exception is named, or a base class of it."""
        raised = self.sources.raised(node, module, owner)
        if raised:
            text = "\n".join(texts)
            unnamed = sorted(
                e
                for e in raised
                if not any(re.search(rf"\b{n}\b", text) for n in self.sources.ancestry(e, module))
            )
            self.note(module, node, name, "raises", not unnamed, f"does not name {', '.join(unnamed)}")

    def check_source(self, module: str, node: ast.AST, name: str, own: str, texts: list[str]) -> None:
        """A source where the name says something published: here, in a base class, the module, or what a
        backquoted name stands for.
        """
        matter = [what for what, pattern in PUBLISHED.items() if pattern.search(name.rpartition(".")[2])]
        if not matter:
            return
        referred = [self.sources.resolve(module, reference) for reference in re.findall(r"`([\w.]+)`", own)]
        texts = [*texts, *(_text(self.sources.defined[target]) for target in referred if target)]
        has = any(SOURCE.search(text) for text in texts)
        self.note(
            module,
            node,
            name,
            "source",
            has,
            f"{' and '.join(matter)}: no year, address or RFC of the paper or standard",
        )


def check(root: Path, packages: tuple[str, ...] = PACKAGES) -> Report:
    """The coverage of the packages in a folder."""
    return Checker(Sources(root, packages)).run()


def test_every_public_name_has_the_parts_that_apply():
    report = check(ROOT)
    missing = "\n".join(map(str, report.missing))
    assert not report.missing, f"{len(report.missing)} parts are missing:\n{missing}\n\n{report.table()}"
    assert all(report.needed.values()), report.needed


def test_the_rules_apply_to_something():
    sources = Sources(ROOT)
    for root in FAMILIES:
        assert root in sources.defined
        assert any(
            root in sources.bases(name)[1:]
            for name, node in sources.defined.items()
            if isinstance(node, ast.ClassDef)
        ), root
    assert set(DEFINING_MODULES) <= set(sources.trees)
    names = [name.rpartition(".")[2] for name in (*sources.trees, *sources.defined)] + ["__dlpack__"]
    assert [what for what, pattern in PUBLISHED.items() if not any(map(pattern.search, names))] == []


GOOD = '''"""Good examples."""

from .operations import Operation


def _positive(x: int) -> int:
    if x < 1:
        raise ValueError(x)
    return x


class GELU(Operation):
    """y = x Phi(x) of each element; dL/dx = g (Phi(x) + x phi(x)). Hendrycks, Gimpel 2016."""

    def __init__(self, count: int) -> None:
        """Raises ValueError unless the count is positive."""
        self.count = _positive(count)

    def forward(self, x: Buffer) -> Buffer:
        return x

    def backward(self, grad: Buffer) -> Buffer:
        return grad


class FastGELU(GELU):
    """`GELU` in one pass."""

    def forward(self, x: Buffer) -> Buffer:
        return x

    def backward(self, grad: Buffer) -> Buffer:
        return grad

    @property
    def speed(self) -> float:
        """Elements a second."""
        return 1.0


def halved(x: Tensor) -> Tensor:
    """Returns a matrix (R, C) divided by 2; raises KeyError where it is none."""
    if x.ndim != 2:
        raise KeyError("x")
    try:
        raise ValueError
    except ValueError:
        return x


def gelu_of(x: float) -> float:
    """See `GELU`; returns a number."""
    return x
'''
ROOT_OF_SAMPLES = '''"""What can be differentiated."""


class Operation:
    """A function."""

    def forward(self, x):
        """The result."""

    def backward(self, grad):
        """The gradient."""
'''


def _missing(folder: Path, text: str) -> list[tuple[str, str]]:
    package = folder / "tinygpt_core"
    package.mkdir()
    for name, content in (
        ("__init__", '"""Good examples."""'),
        ("operations", ROOT_OF_SAMPLES),
        ("samples", text),
    ):
        (package / f"{name}.py").write_text(content, encoding="utf-8")
    return [
        (missing.name.removeprefix("tinygpt_core.samples."), missing.part)
        for missing in check(folder).missing
    ]


def test_a_good_module_lacks_nothing(tmp_path):
    assert _missing(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"""Good examples."""', "", [("tinygpt_core.samples", "docstring")]),
        ('"""`GELU` in one pass."""', "", [("FastGELU", "docstring")]),
        ('"""Elements a second."""', "", [("FastGELU.speed", "docstring")]),
        ('"""Elements a second."""', '"""The speed."""', [("FastGELU.speed", "docstring")]),
        ("def forward", "def run", [("GELU.run", "docstring"), ("FastGELU.run", "docstring")]),
        ("y = x Phi(x) of", "The bell of", [("GELU", "equation"), ("FastGELU", "equation")]),
        ("dL/dx = g (Phi(x) + x phi(x))", "smooth", [("GELU", "derivative"), ("FastGELU", "derivative")]),
        ("each element", "it", [("GELU", "shapes"), ("FastGELU", "shapes")]),
        ("Hendrycks, Gimpel 2016.", "", [("GELU", "source"), ("FastGELU", "source"), ("gelu_of", "source")]),
        ("See `GELU`; returns", "Returns", [("gelu_of", "source")]),
        ("Raises ValueError unless", "Fails unless", [("GELU.__init__", "raises")]),
        ("raises KeyError", "raises ValueError", [("halved", "raises")]),
        ("raises KeyError", "raises LookupError", []),  # a base class names it too
        ("except ValueError", "except TypeError", [("halved", "raises")]),
        ("a matrix (R, C)", "it", [("halved", "shapes")]),
        ("; returns a number", "", [("gelu_of", "returns")]),
    ],
)
def test_each_part_is_missed(tmp_path, old, new, expected):
    assert old in GOOD
    assert _missing(tmp_path, GOOD.replace(old, new)) == expected


def test_the_message_says_what_is_missing_where(tmp_path):
    _missing(tmp_path, GOOD.replace("raises KeyError", "fails"))
    (found,) = check(tmp_path).missing
    assert (
        str(found)
        == "tinygpt_core/samples.py:41: tinygpt_core.samples.halved: raises: does not name KeyError"
    )


if __name__ == "__main__":
    result = check(ROOT)
    print(result.table())
    print(*result.missing, sep="\n")
    sys.exit(bool(result.missing))
