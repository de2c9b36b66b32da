"""Reference pages from the docstrings: one for every public module of the two packages, grouped by the floors
of the README's table.

The sources are read, not imported (griffe), so the pages of the CUDA modules need no GPU and no CuPy.
Docstrings are Markdown with Google's sections; a name in backquotes that stands for something documented
becomes a link to it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import griffe

PACKAGES = ("tinygpt_core", "tinygpt_accel")
_SECTION = re.compile(
    r"^(Args|Arguments|Attributes|Returns|Yields|Raises|Shapes?|Source|Examples?):[ ]*(.*)$"
)
_TITLES = {"Args": "Arguments"}
_ITEM = re.compile(r"^(\*{0,2}[\w.]+(?:, \*{0,2}[\w.]+)*)(?: \(([^)]*)\))?: (.*)$")
_LISTED = ("Args", "Arguments", "Attributes", "Raises")


class Floor(NamedTuple):
    """A group of modules: its heading, a line on what they do where they do not say so themselves, and their
    paths.
    """

    title: str
    duty: str
    modules: list[str]


def _public(name: str) -> bool:
    return not name.startswith("_")


def modules(root: Path) -> dict[str, griffe.Module]:
    """Every public module of the packages by its dotted path, packages before what they contain."""
    found: dict[str, griffe.Module] = {}

    def visit(module: griffe.Module) -> None:
        found[module.path] = module
        for name in sorted(module.modules):
            # `from . import dtype` is none of its own
            if _public(name) and not module.modules[name].is_alias:
                visit(module.modules[name])

    for package in PACKAGES:
        visit(griffe.load(package, search_paths=[root], try_relative_path=False))
    return found


def floors(readme: str, paths: list[str]) -> list[Floor]:
    """The modules in the order of the README's table, each with its floor; those it does not name come last,
    the plug-in after all.
    """
    rows = re.findall(r"^\| (\d+) \| (.*?) \| .*? \|$", readme, re.MULTILINE)
    groups: dict[str, Floor] = {}
    placed: set[str] = set()
    for number, cell in rows:
        floor = groups.setdefault(number, Floor(f"Floor {number}", "", []))
        for target in re.findall(r"\]\((tinygpt_core/[\w/]+)(?:\.py)?\)", cell):
            dotted = target.strip("/").replace("/", ".")
            members = [
                path
                for path in paths
                if (path == dotted or path.startswith(dotted + ".")) and path not in placed
            ]
            floor.modules.extend(members)
            placed.update(members)
    core = [path for path in paths if path.startswith("tinygpt_core.") and path not in placed]
    accel = [path for path in paths if path.startswith("tinygpt_accel")]
    return [
        Floor("The package", "what `import tinygpt_core` gives", ["tinygpt_core"]),
        *groups.values(),
        Floor("Beside the floors", "what several floors share, and tools that stand on all of them", core),
        Floor("The plug-in", "the NumPy and CuPy backends", accel),
    ]


class Reference:
    """Writes the pages. `source` gives the address of a definition's source, as a page links to it."""

    def __init__(self, found: dict[str, griffe.Module], source) -> None:
        self.modules, self.source = found, source
        self.documented: set[str] = set(found)
        for module in found.values():
            for thing in self._members(module):
                self.documented.add(thing.path)
                if thing.is_class:
                    self.documented.update(member.path for member in self._members(thing))
        for module in found.values():
            for thing in self._members(module):
                for one in [thing, *thing.members.values()] if thing.is_class else [thing]:
                    self._qualify(one)

    def first_line(self, path: str) -> str:
        """The first sentence or line of a module's docstring, without its floor."""
        docstring = self.modules[path].docstring
        text = re.split(r"\n\n|(?<=\.)\s", docstring.value)[0] if docstring else ""
        text = re.sub(r"^(Floor \d+|tinygpt\S*|[A-Z]\w+): ", "", " ".join(text.split()))
        return _escaped(text[:1].upper() + text[1:])

    def page(self, path: str, where: str = "") -> str:
        """The page of a module; `where` is a line on where it belongs, in Markdown.

        It is in no table of contents, so that the site's margin stays short, and Sphinx, which makes it anew
        for each page, quick.
        """
        module = self.modules[path]
        lines = [
            "---",
            "orphan: true",
            "---",
            "",
            f"# {path}",
            "",
            where,
            "",
            f":::{{py:module}} {path}",
            ":::",
            "",
        ]
        lines += [self._source_link(module, ""), ""]
        lines += self._docstring(module, module)
        handed_on = [
            alias
            for name, alias in sorted(module.members.items())
            if alias.is_alias and _public(name) and self._exported(module, alias)
        ]
        if handed_on:
            names = ", ".join(f"{{py:obj}}`{alias.name} <{self._canonical(alias)}>`" for alias in handed_on)
            lines += ["**Handed on:** " + names, ""]
        for thing in self._members(module):
            lines += self._class(thing, module) if thing.is_class else self._leaf(thing, module, ":::")
        return "\n".join(lines) + "\n"

    def _qualify(self, thing: griffe.Object | griffe.Alias) -> None:
        """Annotations with full names, so that Sphinx links each to the right one of those with the same
        short name.
        """
        if thing.is_alias or not (thing.is_function or thing.is_attribute):
            return
        annotations = [
            thing.annotation,
            *(parameter.annotation for parameter in (thing.parameters if thing.is_function else ())),
        ]
        for annotation in annotations:
            for name in annotation.iterate(flat=True) if isinstance(annotation, griffe.Expr) else ():
                if (
                    isinstance(name, griffe.ExprName)
                    and (path := self._resolved(name.name, thing.module)) in self.documented
                ):
                    name.name = path

    def _resolved(self, name: str, module: griffe.Module) -> str | None:
        """The full path of what a dotted name stands for in a module; None if it is not of these packages."""
        first, _, rest = name.partition(".")
        try:
            found = module.modules_collection[module.resolve(first)]
        except (griffe.NameResolutionError, KeyError):
            return None
        return (self._canonical(found) if found.is_alias else found.path) + (f".{rest}" if rest else "")

    def _canonical(self, alias: griffe.Alias) -> str:
        try:
            return alias.final_target.path
        except griffe.AliasResolutionError:
            return alias.target_path

    def _exported(self, module: griffe.Module, alias: griffe.Alias) -> bool:
        return module.is_init_module and self._canonical(alias) in self.documented

    def _members(self, parent: griffe.Module | griffe.Class) -> list[griffe.Object]:
        """What a module or class defines for others to use, in the order of the source."""
        members = []
        for name, thing in parent.members.items():
            if thing.is_alias or thing.is_module:
                continue
            special = (
                name.startswith("__")
                and name.endswith("__")
                and name != "__init__"
                and parent.is_class
                and thing.is_function
            )
            wanted = _public(name) or (special and thing.has_docstring)
            if wanted and (not thing.is_attribute or thing.has_docstring or "property" in thing.labels):
                members.append(thing)
        if parent.is_class:  # what a private base gives is documented where it arrives
            inherited = [alias.final_target for alias in parent.inherited_members.values()]
            members += [
                thing
                for thing in inherited
                if thing.parent.name.startswith("_") and not thing.name.startswith("_")
            ]
        return sorted(members, key=lambda thing: thing.lineno or 0)

    def _class(self, thing: griffe.Class, module: griffe.Module) -> list[str]:
        parameters = ""
        maker = thing.all_members.get("__init__")
        if maker is not None and not maker.is_alias and maker.is_function:
            parameters = maker.signature(return_type=False).removeprefix("__init__")
            # The default of a setting is the first argument of `setting(…)`; the rest describes it.
            for parameter in maker.parameters:
                described = re.match(r"setting\(\s*([^,()]+),", str(parameter.default or ""))
                if described:
                    parameters = parameters.replace(str(parameter.default), described[1])
            parameters = re.sub(r"^\(self(?:, )?", "(", parameters)
        kind = (
            "py:exception"
            if any(str(base).endswith(("Error", "Exception", "Warning")) for base in thing.bases)
            else "py:class"
        )
        lines = [f"::::{{{kind}}} {thing.name}{parameters}", "", self._source_link(module, thing.name), ""]
        if thing.bases:
            lines += [
                "Bases: " + ", ".join(self._reference(str(base), module, None) for base in thing.bases),
                "",
            ]
        lines += self._docstring(thing, module)
        for member in self._members(thing):
            lines += self._leaf(member, module, ":::")
        return [*lines, "::::", ""]

    def _leaf(self, thing: griffe.Object, module: griffe.Module, fence: str) -> list[str]:
        in_class = thing.parent is not None and thing.parent.is_class
        if thing.is_class:
            lines = [f"{fence}{{py:class}} {thing.name}", ""]
        elif thing.is_attribute:
            kind = "py:property" if "property" in thing.labels else "py:attribute" if in_class else "py:data"
            lines = [
                f"{fence}{{{kind}}} {thing.name}",
                *([f":type: {thing.annotation}"] if thing.annotation else []),
                "",
            ]
        else:
            signature = thing.signature()
            label = next((label for label in ("staticmethod", "classmethod") if label in thing.labels), "")
            if in_class and label != "staticmethod":
                signature = re.sub(r"\((self|cls)(?:, )?", "(", signature, count=1)
            option = f":{label}:" if label else ""
            lines = [
                f"{fence}{{{'py:method' if in_class else 'py:function'}}} {signature}",
                *([option] if option else []),
                "",
            ]
        module = thing.module  # of a private base, perhaps
        name = thing.path.removeprefix(module.path + ".")
        return [*lines, self._source_link(module, name), "", *self._docstring(thing, module), fence, ""]

    def _source_link(self, module: griffe.Module, name: str) -> str:
        return f'<a class="source-link" href="{self.source(module.filepath, name)}">source</a>'

    # ---------------------------------------------------------------- docstrings

    def _docstring(self, thing: griffe.Object, module: griffe.Module) -> list[str]:
        if not thing.docstring:
            return []
        lines: list[str] = []
        sections: list[tuple[str, list[str]]] = [("", [])]
        for line in thing.docstring.value.splitlines():
            found = _SECTION.match(line)
            if found:
                sections.append((found[1], [found[2]] if found[2] else []))
            else:
                sections[-1][1].append(line)
        for title, body in sections:
            if not title:
                lines += [*self._prose(body, thing, module), ""]
                continue
            body = _dedented(body)
            lines += [f"**{_TITLES.get(title, title)}**", ""]
            lines += (
                self._items(body, thing, module) if title in _LISTED else self._prose(body, thing, module)
            )
            lines.append("")
        return lines

    def _items(self, body: list[str], thing: griffe.Object, module: griffe.Module) -> list[str]:
        """`name: text` entries as a list; what continues an entry is indented under it."""
        lines: list[str] = []
        for line in self._prose(body, thing, module, escape=False):
            found = _ITEM.match(line)
            if found:
                kind = f" ({found[2]})" if found[2] else ""
                lines.append(f"- `{found[1]}`{kind}: {_escaped(found[3])}")
            else:
                lines.append(
                    ("  " if lines and line.strip() else "") + _escaped(line.strip() if lines else line)
                )
        return lines

    def _prose(
        self, body: list[str], thing: griffe.Object, module: griffe.Module, escape: bool = True
    ) -> list[str]:
        """Names become references; outside of code, what Markdown would take for markup is escaped."""
        owner = (
            thing
            if thing.is_class
            else thing.parent
            if thing.parent is not None and thing.parent.is_class
            else None
        )
        lines, is_code, blank = [], False, True
        for line in body:
            is_code = line.startswith("    ") and (is_code or blank) if line.strip() else is_code
            blank = not line.strip()
            if is_code or blank:
                lines.append(line)
                continue
            line = line.replace("``", "`")
            line = re.sub(r"`([^`]+)`", lambda match: self._reference(match[1], module, owner), line)
            lines.append(_escaped(line) if escape else line)
        return lines

    def _reference(self, text: str, module: griffe.Module, owner: griffe.Object | None) -> str:
        """A link where a name stands for something documented, else code."""
        name = text.removesuffix("()")
        if re.fullmatch(r"[A-Za-z_][\w.]*", name):
            candidates = [f"{owner.path}.{name}"] if owner is not None else []
            candidates.append(self._resolved(name, module) or "")
            candidates += [f"tinygpt_core.{name}", name]
            for candidate in candidates:
                if candidate in self.documented:
                    return f"{{py:obj}}`{text} <{candidate}>`"
        return f"`{text}`"


def _dedented(lines: list[str]) -> list[str]:
    depth = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return [line[depth:] if line.strip() else "" for line in lines]


def _escaped(line: str) -> str:
    """`*` and `<` outside of code as themselves."""
    pieces = re.split(r"(`[^`]*`)", line)
    return "".join(
        piece if index % 2 else re.sub(r"(?<!^)([*])|(<)(?=[A-Za-z/!])", r"\\\1\2", piece)
        for index, piece in enumerate(pieces)
    )
