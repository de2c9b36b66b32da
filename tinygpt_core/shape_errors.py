"""Floor 1: what an error says about shapes that do not fit: the operation and the shapes, then these aligned
on their axes, with carets.

    add: shapes (32, 64, 128) and (32, 128) do not broadcast
        left   32  64  128
        right      32  128
                   ^^ axis -2: 64 against 32; sizes must be equal, or one of them 1

The carets stand under the axes that disagree, all of them and no others. An axis is counted from the back
where that is what gives it one number in all shapes, else from the front. Every function here returns such a
text, for whoever raises an error of its own type; they are called where something is raised and nowhere else,
so that an operation that fits pays nothing for them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from math import prod
from typing import Any

Shape = tuple[int, ...]
# A size; what stands for a size or fills a gap, and disagrees with none; or an axis that is missing
Cell = int | str | None
Cells = Sequence[Cell]
_PICTURE = re.compile(r"(?:\n {4}.*)*\n {4} *\^[ ^]*")
_NAMES = {
    "+": "add",
    "-": "subtract",
    "*": "multiply",
    "/": "divide",
    "**": "power",
    "==": "equal",
    "!=": "not_equal",
}
_NAMES |= {"<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal"}
_LABELS: dict[str, tuple[str, ...]] = {"where": ("condition", "first", "second")}
_BROADCAST = "sizes must be equal, or one of them 1"


def folded(message: str) -> str:
    """Returns a message with each picture replaced by what it says about the axes under its carets, for
    places that hold one line.
    """
    return _PICTURE.sub(": ", message)


def drawing(rows: Mapping[str, Cells], marks: Collection[int], note: str) -> str:
    """Returns the lines below a message: named rows of as many cells each, and carets under the columns
    `marks`, followed by a note.

    Args:
        rows: for each name a row. A missing axis (None) is left blank.
        marks: the columns that disagree; where there are none there is no picture.
    """
    columns = [
        ["" if cell is None else str(cell) for cell in column] for column in zip(*rows.values(), strict=True)
    ]
    widths = [max(map(len, column)) for column in columns]
    margin = max(map(len, rows))
    lines = [
        f"    {name:<{margin}}"
        + "".join(f"  {column[at]:>{width}}" for column, width in zip(columns, widths, strict=True))
        for at, name in enumerate(rows)
    ]
    carets = ["^" * max(len(text) if text.isdigit() else 1 for text in column) for column in columns]
    pointers = "".join(f"  {carets[at] if at in marks else '':>{width}}" for at, width in enumerate(widths))
    return (
        "".join(f"\n{line.rstrip()}" for line in (*lines, f"    {'':{margin}}{pointers.rstrip()} {note}"))
        if marks
        else ""
    )


def _against(column: Cells) -> str:
    """The cells that disagree, each once."""
    return " against ".join(
        dict.fromkeys("none" if cell is None else str(cell) for cell in column if cell != "")
    )


def _numbered(column: int, shapes: Sequence[Shape]) -> str:
    """The axis of a column of shapes aligned on their last axes, by the number that it has in all of them."""
    return f"axis {column if len(set(map(len, shapes))) == 1 else column - max(map(len, shapes))}"


def _padded(shape: Shape, depth: int) -> tuple[Cell, ...]:
    return (*(None,) * (depth - len(shape)), *shape)


def _sizes(column: Cells) -> tuple[int, ...]:
    """What must be equal in a column that broadcasts: its sizes but 1, each once."""
    return tuple(dict.fromkeys(cell for cell in column if isinstance(cell, int) and cell != 1))


def broadcast(name: str, *shapes: Shape) -> str:
    """Returns the text that says which axes keep shapes from broadcasting in an elementwise operation, which
    may be named by its sign.
    """
    labels = _LABELS.get(name, ("left", "right"))
    labels = (
        labels[-len(shapes) :]
        if len(shapes) <= len(labels)
        else tuple(f"operand {i}" for i in range(len(shapes)))
    )
    rows = {label: _padded(shape, max(map(len, shapes))) for label, shape in zip(labels, shapes, strict=True)}
    found = {
        at: sizes
        for at, column in enumerate(zip(*rows.values(), strict=True))
        if len(sizes := _sizes(column)) > 1
    }
    notes = ", ".join(f"{_numbered(at, shapes)}: {_against(sizes)}" for at, sizes in found.items())
    title = f"{_NAMES.get(name, name)}: shapes {', '.join(map(str, shapes[:-1]))} and {shapes[-1]} do not broadcast"
    return title + drawing(rows, found, f"{notes}; {_BROADCAST}")


def expand(name: str, shape: Shape, new_shape: Shape) -> str:
    """Returns the text that says which axes keep `shape` from being broadcast to just `new_shape`."""
    depth = max(len(shape), len(new_shape))
    rows = {"from": _padded(shape, depth), "to": _padded(new_shape, depth)}
    columns = list(zip(*rows.values(), strict=True))
    marks = [at for at, (old, new) in enumerate(columns) if new is None or old not in (None, 1, new)]
    notes = ", ".join(f"{_numbered(at, (shape, new_shape))}: {_against(columns[at])}" for at in marks)
    rule = "only axes of size 1 stretch, and new axes come in front"
    return f"{name}: shape {shape} does not expand to {new_shape}" + drawing(rows, marks, f"{notes}; {rule}")


def matmul(
    name: str, first: Shape, second: Shape, labels: tuple[str, str] = ("left", "right"), least: int = 1
) -> str:
    """Returns the text that says which axes keep (…, n, k) and (…, k, m) from being multiplied; a vector has
    no n or m.

    Where one has fewer than `least` axes, the text says that.
    """
    for label, shape in zip(labels, (first, second), strict=True):
        if len(shape) < least:
            return unlike(name, label, shape, ("...", *("rows", "columns")[-least:]))
    batches, depth = (first[:-2], second[:-2]), max(len(first), len(second), 2) - 2
    of_first: tuple[Cell, ...] = (
        *_padded(batches[0], depth),
        first[-2] if len(first) > 1 else "",
        first[-1],
        "",
    )
    of_second: tuple[Cell, ...] = (
        *_padded(batches[1], depth),
        "",
        second[-min(len(second), 2)],
        second[-1] if len(second) > 1 else "",
    )
    columns = list(zip(of_first, of_second, strict=True))
    inner = columns[depth + 1]
    notes = {
        at: f"{_numbered(at, (first, second))}: {_against(column)}"
        for at, column in enumerate(columns[:depth])
        if len(_sizes(column)) > 1
    }
    if inner[0] != inner[1]:
        notes[depth + 1] = (
            f"axis -1 of {labels[0]} and axis {-min(len(second), 2)} of {labels[1]}: {_against(inner)}"
        )
    rule = "; inner axes must be equal" + (", batch axes equal, or one of them 1" if depth else "")
    rows = dict(zip(labels, (of_first, of_second), strict=True))
    return f"{name}: shapes {first} and {second} do not multiply" + drawing(
        rows, notes, ", ".join(notes.values()) + rule
    )


def concatenate(first: Shape, shape: Shape, position: int, axis: int) -> str:
    """Returns the text that says which axes keep the operand at `position` from being joined to the first
    along `axis`.
    """
    depth = max(len(first), len(shape))
    rows: dict[str, Cells] = {
        f"operand {at}": (*s, *(None,) * (depth - len(s))) for at, s in ((0, first), (position, shape))
    }
    columns = list(zip(*rows.values(), strict=True))
    marks = [at for at, (a, b) in enumerate(columns) if a != b and (at != axis or None in (a, b))]
    notes = ", ".join(f"axis {at}: {_against(columns[at])}" for at in marks)
    title = f"concatenate: shapes {first} and {shape} (operand {position}) do not fit along axis {axis}"
    return title + drawing(rows, marks, f"{notes}; all axes but axis {axis} must be equal")


def reshape(shape: Shape, new_shape: Any) -> str:
    """Returns the text that says why the elements of `shape` do not fill `new_shape`, in which one axis may
    be -1.
    """
    wanted = tuple(new_shape) if isinstance(new_shape, (tuple, list)) else (new_shape,)
    total, known, free = prod(shape), prod(size for size in wanted if size != -1), wanted.count(-1)
    width = max(len(shape), len(wanted))
    rows = {
        "from": (*_padded(shape, width), "=", total),
        "to": (*_padded(wanted, width), "=", "?" if free else known),
    }
    negative = [at for at, size in enumerate(_padded(wanted, width)) if isinstance(size, int) and size < 0]
    if free > 1 or any(size < -1 for size in wanted):
        marks, note = negative, "only one axis may be -1, to be what is left, and no other is negative"
    elif free:
        marks, note = negative, f"{'no' if total or known else 'every'} size times {known} is {total}"
    else:
        marks, note = [width + 1], f"{total} against {known}; the number of elements must stay the same"
    return f"reshape: the elements of shape {shape} do not fill {new_shape}" + drawing(rows, marks, note)


def _text(cells: Cells) -> str:
    return f"({', '.join(map(str, cells))}{',' if len(cells) == 1 else ''})"


def unlike(
    name: str,
    what: str,
    found: Shape,
    owner: Cells,
    of: str = "wanted",
    start: int = 0,
    stop: int | None = None,
    said: str = "",
) -> str:
    """Returns the text that says where a shape is not the one it must be: the axes start:stop of another.

    Args:
        name, what: who wants it, and what it wants to have that shape.
        owner: the shape with these axes, or a pattern: a text stands for any size, a "..." at the front for
            any number of axes.
        of: whose shape that is.
        said: what to say instead of the first line.
    """
    pattern = owner
    if owner[:1] == ("...",):
        owner = ("...",) * (len(found) - len(owner) + 1) + tuple(owner[1:])
    first, last, _ = slice(start, stop).indices(len(owner))
    before = 0 if stop is None else first  # aligned on the last axes, or on the first of the part
    depth = max(len(owner), before + len(found))
    lead = depth - len(found) if stop is None else before
    shift = depth - len(owner) if stop is None else 0
    wanted: tuple[Cell, ...] = ((None,) * shift + tuple(owner) + (None,) * depth)[:depth]
    cells: tuple[Cell, ...] = ((None,) * lead + found + (None,) * depth)[:depth]
    notes = {}
    for at, (size, other) in enumerate(zip(cells, wanted, strict=True)):
        if not shift + first <= at < shift + last:
            if size is not None:
                notes[at] = f"axis {at - lead} of {what} is one too many"
        elif size is None:
            notes[at] = f"{'an axis of ' * isinstance(other, int)}{other} is missing"
        elif isinstance(other, int) and size != other:
            notes[at] = f"axis {at - lead} of {what} is {size}, not {other}"
    whole = (first, last) == (0, len(owner))
    title = said or (
        f"{name}: {'' if whole else f'with {of} {_text(owner)}, '}{what} must have the shape "
        f"{_text(pattern if whole else owner[first:last])}, not {found}"
    )
    return title + drawing({of: wanted, what: cells}, notes, "; ".join(notes.values()))


def attention(query: Shape, key: Shape, value: Shape, causal: bool) -> str:
    """Returns the text that says which axes of queries (B, H, T, D) and of keys and values (B, H, S, D) do
    not fit.
    """
    for what, shape in (("query", query), ("key", key), ("value", value)):
        if len(shape) != 4:
            return unlike("attention", what, shape, ("batch", "heads", "positions", "size"))
    names = ("batch", "heads", "T", "S", "size")
    rows: dict[str, Cells] = {"": names, "query": (*query[:3], "", query[3])}
    rows |= {what: (*shape[:2], "", *shape[2:]) for what, shape in (("key", key), ("value", value))}
    columns = list(zip(*list(rows.values())[1:], strict=True))
    marks = [at for at, column in enumerate(columns) if len({*column} - {""}) > 1]
    note = (
        ", ".join(f"{names[at]}: {_against(columns[at])}" for at in marks)
        + "; batch, heads, S and size must be equal"
    )
    if not marks and causal and query[2] > key[2]:
        marks, note = (
            [2, 3],
            f"T is {query[2]}, S is {key[2]}; causal queries are the last T of the S positions",
        )
    return f"attention: query {query}, key {key} and value {value} do not fit" + drawing(rows, marks, note)


def einsum(subscripts: str, terms: Sequence[str], shapes: Sequence[Shape], ellipsis: int) -> str:
    """Returns the text that says which indices of operands have two sizes.

    Where an index has two sizes within one operand, that one is drawn, else all, aligned on their indices.
    `terms` holds the indices of the first operands, one character an axis: those from `ellipsis` on, counted
    from the back, are what "..." stands for.
    """

    def named(index: str) -> str:
        return (
            f"index {index!r}"
            if ord(index) < ellipsis
            else f"axis {ellipsis - 1 - ord(index)} of the ellipsis"
        )

    sizes = {
        (at, i): [size for size, j in zip(shapes[at], term, strict=True) if i == j]
        for at, term in enumerate(terms)
        for i in term
    }
    twice = next((key for key, found in sizes.items() if len(set(found)) > 1), None)
    if twice is not None:
        at, index = twice
        title = f"einsum: {named(index)} in {subscripts!r} stands twice in operand {at} of shape {shapes[at]}, with two sizes"
        rows: dict[str, Cells] = {
            "index": [i if ord(i) < ellipsis else "..." for i in terms[at]],
            f"operand {at}": shapes[at],
        }
        marks = [axis for axis, i in enumerate(terms[at]) if len(set(sizes[at, i])) > 1]
        notes = [
            f"{named(i)}: {_against(sizes[at, i])}" for i in dict.fromkeys(terms[at][axis] for axis in marks)
        ]
        return title + drawing(rows, marks, ", ".join(notes) + "; sizes must be equal")
    order = list(dict.fromkeys("".join(terms)))
    rows = {f"operand {at}": [sizes.get((at, i), [""])[0] for i in order] for at in range(len(terms))}
    found = {
        axis: _sizes(column)
        for axis, column in enumerate(zip(*rows.values(), strict=True))
        if len(_sizes(column)) > 1
    }
    worst = min(found)
    places = [f"{size} in operand {[r[worst] for r in rows.values()].index(size)}" for size in found[worst]]
    title = f"einsum: {named(order[worst])} in {subscripts!r} has size " + ", but ".join(
        f"{place} of shape {shapes[int(place.split()[-1])]}" for place in places
    )
    notes = [f"{named(order[axis])}: {_against(values)}" for axis, values in found.items()]
    header = {"index": [i if ord(i) < ellipsis else "..." for i in order]}
    return title + drawing({**header, **rows}, found, f"{', '.join(notes)}; {_BROADCAST}")


def window(name: str, shape: Shape, kernel: Shape, reach: Shape, dilation: Shape, padding: Shape) -> str:
    """Returns the text that says along which axes a kernel, spread over `reach`, is larger than the padded
    images.
    """
    padded = tuple(size + 2 * p for size, p in zip(shape[2:], padding, strict=True))
    spread = f" (a kernel of {kernel} with dilation {dilation})" if dilation != (1, 1) else ""
    notes = {
        at: f"{('height', 'width')[at]}: {reach[at]} against {padded[at]}"
        for at in (0, 1)
        if reach[at] > padded[at]
    }
    title = f"{name}: a kernel of {reach}{spread} is larger than the padded image of {padded} "
    title += f"(an input of shape {shape} with padding {padding})"
    return title + drawing(
        {"image": padded, "kernel": reach},
        notes,
        ", ".join(notes.values()) + "; use a smaller kernel or more padding",
    )
