"""Floor 1: what an error says about shapes that do not fit.

It names the operation and the shapes, and draws these aligned on their axes, with carets:

    add: shapes (32, 64, 128) and (32, 128) do not broadcast
        left   32  64  128
        right      32  128
                   ^^ axis -2: 64 against 32; sizes must be equal, or one of them 1

The carets stand under the axes that disagree, all of them and no others. An axis is counted from the back
where that is what gives it one number in all shapes, else from the front. Every function here returns such a
text, for whoever raises an error of its own type; they are called where something is raised and nowhere else,
so that an operation that fits pays nothing for them.

Each works in the same three steps: put the shapes into rows of cells, one column for each axis; write a note
for each column that disagrees; hand title, rows and notes to `drawing`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from math import prod
from typing import Any

Shape = tuple[int, ...]


class ShapeError(ValueError, RuntimeError):
    """Shapes that do not fit. Both a ValueError, as in Python and NumPy, and a RuntimeError, as in PyTorch
    and TinyGPT.
    """


# A size; what stands for a size or fills a gap, and disagrees with none; or an axis that is missing
Cell = int | str | None
Cells = Sequence[Cell]

BROADCAST_RULE = "sizes must be equal, or one of them 1"
_PICTURE = r"(?:\n {4}.*)*\n {4} *\^[ ^]*"
_NAMES_OF_SIGNS = {
    "+": "add",
    "-": "subtract",
    "*": "multiply",
    "/": "divide",
    "**": "power",
    "==": "equal",
    "!=": "not_equal",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
}


# ---------------------------------------------------------------- the picture


def drawing(rows: Mapping[str, Cells], marks: Collection[int], note: str) -> str:
    """Returns the lines below a message: named rows of as many cells each, and carets under the columns
    `marks`, followed by a note.

    Args:
        rows: for each name a row. A missing axis (None) is left blank.
        marks: the columns that disagree; where there are none there is no picture.
    """
    if not marks:
        return ""
    columns = [
        ["" if cell is None else str(cell) for cell in column] for column in zip(*rows.values(), strict=True)
    ]
    widths = [max(map(len, column)) for column in columns]
    margin = max(map(len, rows))
    lines = []
    for at, name in enumerate(rows):
        cells = [f"{column[at]:>{width}}" for column, width in zip(columns, widths, strict=True)]
        lines.append("  ".join([f"    {name:<{margin}}", *cells]))
    carets = [
        f"{_caret(column) if at in marks else '':>{width}}"
        for at, (column, width) in enumerate(zip(columns, widths, strict=True))
    ]
    pointers = "  ".join([" " * (4 + margin), *carets])
    lines.append(f"{pointers.rstrip()} {note}")
    return "".join(f"\n{line.rstrip()}" for line in lines)


def _caret(column: Sequence[str]) -> str:
    """As wide as the widest number of a column."""
    return "^" * max(len(cell) if cell.isdigit() else 1 for cell in column)


def without_pictures(message: str) -> str:
    """Returns a message with each picture replaced by what it says about the axes under its carets, for
    places that hold one line.
    """
    return re.sub(_PICTURE, ": ", message)


# ---------------------------------------------------------------- cells and notes


def _aligned_right(shape: Shape, depth: int) -> tuple[Cell, ...]:
    """A row of `depth` cells that ends with the shape."""
    return (*(None,) * (depth - len(shape)), *shape)


def _aligned_left(shape: Cells, depth: int) -> tuple[Cell, ...]:
    """A row of `depth` cells that begins with the shape."""
    return (*shape, *(None,) * (depth - len(shape)))


def _columns(rows: Mapping[str, Cells]) -> list[tuple[Cell, ...]]:
    return list(zip(*rows.values(), strict=True))


def _sizes(column: Cells) -> tuple[int, ...]:
    """What must be equal in a column that broadcasts: its sizes but 1, each once."""
    return tuple(dict.fromkeys(cell for cell in column if isinstance(cell, int) and cell != 1))


def _against(column: Cells) -> str:
    """The cells that disagree, each once."""
    different = dict.fromkeys(cell for cell in column if cell != "")
    return " against ".join("none" if cell is None else str(cell) for cell in different)


def _numbered(column: int, shapes: Sequence[Shape]) -> str:
    """The axis of a column of shapes aligned on their last axes, by the number that it has in all of them."""
    lengths = {len(shape) for shape in shapes}
    return f"axis {column if len(lengths) == 1 else column - max(lengths)}"


# ---------------------------------------------------------------- one shape that must be another


def _in_brackets(cells: Cells) -> str:
    return f"({', '.join(map(str, cells))}{',' if len(cells) == 1 else ''})"


def wrong_shape(
    name: str,
    what: str,
    found: Shape,
    *,
    expected: Cells,
    of: str = "wanted",
    axes: slice = slice(None),
    title: str = "",
) -> str:
    """Returns the text that says where the shape `found` is not the one it must be.

        wrong_shape("linear", "weights", found, expected=("in", "out"))
        wrong_shape("linear", "bias", found, expected=weights.shape, of="weights", axes=slice(1, None))

    Args:
        name, what: who wants it, and what it wants to have that shape.
        expected: the shape, or a pattern: a text stands for any size, a "..." at the front for any number of
            axes.
        of: whose shape that is.
        axes: which axes of it are meant: all, those at the end, or those at the front.
        title: what to say instead of the first line.
    """
    whole = expected
    if whole[:1] == ("...",):
        whole = ("...",) * (len(found) - len(expected) + 1) + tuple(expected[1:])
    first, last, _ = axes.indices(len(whole))
    if axes.stop is None:  # axes at the end: both shapes end in the same column
        depth = max(len(whole), len(found))
        start, start_of_found = depth - len(whole), depth - len(found)
    else:  # axes at the front: what is found begins in the column of the first of them
        depth = max(len(whole), first + len(found))
        start, start_of_found = 0, first
    rows = {
        of: _aligned_left((*(None,) * start, *whole), depth),
        what: _aligned_left((*(None,) * start_of_found, *found), depth),
    }
    notes = {}
    for at, (wanted, size) in enumerate(_columns(rows)):
        axis = at - start_of_found
        if not start + first <= at < start + last:
            if size is not None:
                notes[at] = f"axis {axis} of {what} is one too many"
        elif size is None:
            notes[at] = (
                f"an axis of {wanted} is missing" if isinstance(wanted, int) else f"{wanted} is missing"
            )
        elif isinstance(wanted, int) and size != wanted:
            notes[at] = f"axis {axis} of {what} is {size}, not {wanted}"
    if not title and (first, last) == (0, len(whole)):
        title = f"{name}: {what} must have the shape {_in_brackets(expected)}, not {found}"
    elif not title:
        part = _in_brackets(whole[first:last])
        title = f"{name}: with {of} {_in_brackets(whole)}, {what} must have the shape {part}, not {found}"
    return title + drawing(rows, notes, "; ".join(notes.values()))


# ---------------------------------------------------------------- several shapes that must fit


def broadcast(name: str, *shapes: Shape) -> str:
    """Returns the text that says which axes keep shapes from broadcasting in an elementwise operation, which
    may be named by its sign.
    """
    if name == "where" and len(shapes) <= 3:
        labels = ("condition", "first", "second")[-len(shapes) :]
    elif len(shapes) <= 2:
        labels = ("left", "right")[-len(shapes) :]
    else:
        labels = tuple(f"operand {i}" for i in range(len(shapes)))
    depth = max(map(len, shapes))
    rows = {label: _aligned_right(shape, depth) for label, shape in zip(labels, shapes, strict=True)}
    notes = {}
    for at, column in enumerate(_columns(rows)):
        sizes = _sizes(column)
        if len(sizes) > 1:
            notes[at] = f"{_numbered(at, shapes)}: {_against(sizes)}"
    listed = f"{', '.join(map(str, shapes[:-1]))} and {shapes[-1]}"
    title = f"{_NAMES_OF_SIGNS.get(name, name)}: shapes {listed} do not broadcast"
    return title + drawing(rows, notes, f"{', '.join(notes.values())}; {BROADCAST_RULE}")


def expand(name: str, shape: Shape, new_shape: Shape) -> str:
    """Returns the text that says which axes keep `shape` from being broadcast to just `new_shape`."""
    depth = max(len(shape), len(new_shape))
    rows = {"from": _aligned_right(shape, depth), "to": _aligned_right(new_shape, depth)}
    notes = {
        at: f"{_numbered(at, (shape, new_shape))}: {_against((old, new))}"
        for at, (old, new) in enumerate(_columns(rows))
        if new is None or old not in (None, 1, new)
    }
    rule = "only axes of size 1 stretch, and new axes come in front"
    title = f"{name}: shape {shape} does not expand to {new_shape}"
    return title + drawing(rows, notes, f"{', '.join(notes.values())}; {rule}")


def matmul(
    name: str, first: Shape, second: Shape, labels: tuple[str, str] = ("left", "right"), least: int = 1
) -> str:
    """Returns the text that says which axes keep (…, n, k) and (…, k, m) from being multiplied; a vector has
    no n or m.

    Where one has fewer than `least` axes, the text says that.
    """
    for label, shape in zip(labels, (first, second), strict=True):
        if len(shape) < least:
            return wrong_shape(name, label, shape, expected=("...", *("rows", "columns")[-least:]))
    # The columns: batch axes, n (of the first alone), k (the inner axis of both), m (of the second alone)
    batches = max(len(first), len(second), 2) - 2
    inner = batches + 1
    n = first[-2] if len(first) > 1 else ""
    k_of_first = first[-1]
    inner_axis_of_second = -min(len(second), 2)
    k_of_second = second[inner_axis_of_second]
    m = second[-1] if len(second) > 1 else ""
    rows: dict[str, Cells] = {
        labels[0]: (*_aligned_right(first[:-2], batches), n, k_of_first, ""),
        labels[1]: (*_aligned_right(second[:-2], batches), "", k_of_second, m),
    }
    columns = _columns(rows)
    notes = {
        at: f"{_numbered(at, (first, second))}: {_against(column)}"
        for at, column in enumerate(columns[:batches])
        if len(_sizes(column)) > 1
    }
    if k_of_first != k_of_second:
        axes = f"axis -1 of {labels[0]} and axis {inner_axis_of_second} of {labels[1]}"
        notes[inner] = f"{axes}: {_against(columns[inner])}"
    rule = "inner axes must be equal"
    if batches:
        rule += ", batch axes equal, or one of them 1"
    title = f"{name}: shapes {first} and {second} do not multiply"
    return title + drawing(rows, notes, f"{', '.join(notes.values())}; {rule}")


def concatenate(first: Shape, shape: Shape, position: int, axis: int) -> str:
    """Returns the text that says which axes keep the operand at `position` from being joined to the first
    along `axis`.
    """
    depth = max(len(first), len(shape))
    rows = {"operand 0": _aligned_left(first, depth), f"operand {position}": _aligned_left(shape, depth)}
    notes = {
        at: f"axis {at}: {_against(column)}"
        for at, column in enumerate(_columns(rows))
        if column[0] != column[-1] and (at != axis or None in column)
    }
    title = f"concatenate: shapes {first} and {shape} (operand {position}) do not fit along axis {axis}"
    rule = f"all axes but axis {axis} must be equal"
    return title + drawing(rows, notes, f"{', '.join(notes.values())}; {rule}")


def reshape(shape: Shape, new_shape: Any) -> str:
    """Returns the text that says why the elements of `shape` do not fill `new_shape`, in which one axis may
    be -1.
    """
    wanted = tuple(new_shape) if isinstance(new_shape, (tuple, list)) else (new_shape,)
    total = prod(shape)
    known = prod(size for size in wanted if size != -1)
    free = wanted.count(-1)
    depth = max(len(shape), len(wanted))
    rows = {
        "from": (*_aligned_right(shape, depth), "=", total),
        "to": (*_aligned_right(wanted, depth), "=", "?" if free else known),
    }
    negative = [at for at, size in enumerate(rows["to"][:depth]) if isinstance(size, int) and size < 0]
    if free > 1 or any(size < -1 for size in wanted):
        marks, note = negative, "only one axis may be -1, to be what is left, and no other is negative"
    elif free:
        marks, note = negative, f"{'no' if total or known else 'every'} size times {known} is {total}"
    else:
        marks, note = [depth + 1], f"{total} against {known}; the number of elements must stay the same"
    return f"reshape: the elements of shape {shape} do not fill {new_shape}" + drawing(rows, marks, note)


# ---------------------------------------------------------------- of kernels


def attention(query: Shape, key: Shape, value: Shape, causal: bool) -> str:
    """Returns the text that says which axes of queries (B, H, T, D) and of keys and values (B, H, S, D) do
    not fit.
    """
    for what, shape in (("query", query), ("key", key), ("value", value)):
        if len(shape) != 4:
            return wrong_shape("attention", what, shape, expected=("batch", "heads", "positions", "size"))
    names = ("batch", "heads", "T", "S", "size")
    rows: dict[str, Cells] = {
        "query": (*query[:3], "", query[3]),
        "key": (*key[:2], "", *key[2:]),
        "value": (*value[:2], "", *value[2:]),
    }
    notes = {
        at: f"{names[at]}: {_against(column)}"
        for at, column in enumerate(_columns(rows))
        if len({*column} - {""}) > 1
    }
    marks = list(notes)
    note = f"{', '.join(notes.values())}; batch, heads, S and size must be equal"
    if not notes and causal and query[2] > key[2]:
        marks = [names.index("T"), names.index("S")]
        note = f"T is {query[2]}, S is {key[2]}; causal queries are the last T of the S positions"
    title = f"attention: query {query}, key {key} and value {value} do not fit"
    return title + drawing({"": names, **rows}, marks, note)


def einsum(subscripts: str, terms: Sequence[str], shapes: Sequence[Shape], ellipsis: int) -> str:
    """Returns the text that says which indices of operands have two sizes.

    Where an index has two sizes within one operand, that one is drawn, else all, aligned on their indices.
    `terms` holds the indices of the first operands, one character an axis: those from `ellipsis` on, counted
    from the back, are what "..." stands for.
    """
    for position, (term, shape) in enumerate(zip(terms, shapes, strict=False)):
        for index, sizes in _sizes_of_indices(term, shape).items():
            if len(set(sizes)) > 1:
                return _einsum_of_one(subscripts, index, position, term, shape, ellipsis)
    return _einsum_of_several(subscripts, terms, shapes, ellipsis)


def _sizes_of_indices(term: str, shape: Shape) -> dict[str, list[int]]:
    """The sizes along which each index of an operand stands; several where it repeats."""
    sizes: dict[str, list[int]] = {}
    for index, size in zip(term, shape, strict=True):
        sizes.setdefault(index, []).append(size)
    return sizes


def _index_name(index: str, ellipsis: int) -> str:
    if ord(index) < ellipsis:
        return f"index {index!r}"
    return f"axis {ellipsis - 1 - ord(index)} of the ellipsis"


def _index_cells(indices: Sequence[str], ellipsis: int) -> list[Cell]:
    return [index if ord(index) < ellipsis else "..." for index in indices]


def _einsum_of_one(subscripts: str, worst: str, position: int, term: str, shape: Shape, ellipsis: int) -> str:
    """Within the operand at `position` the index `worst`, and perhaps others, has two sizes."""
    sizes = _sizes_of_indices(term, shape)
    marks = [axis for axis, index in enumerate(term) if len(set(sizes[index])) > 1]
    notes = {
        index: f"{_index_name(index, ellipsis)}: {_against(sizes[index])}"
        for index in dict.fromkeys(term[axis] for axis in marks)
    }
    rows: dict[str, Cells] = {"index": _index_cells(term, ellipsis), f"operand {position}": shape}
    title = (
        f"einsum: {_index_name(worst, ellipsis)} in {subscripts!r} stands twice in operand {position} "
        f"of shape {shape}, with two sizes"
    )
    return title + drawing(rows, marks, f"{', '.join(notes.values())}; sizes must be equal")


def _einsum_of_several(subscripts: str, terms: Sequence[str], shapes: Sequence[Shape], ellipsis: int) -> str:
    """Two operands have an index in common along which their sizes do not broadcast."""
    indices = list(dict.fromkeys("".join(terms)))
    rows: dict[str, Cells] = {}
    for position, term in enumerate(terms):
        size_of: dict[str, Cell] = dict(zip(term, shapes[position], strict=True))
        rows[f"operand {position}"] = [size_of.get(index, "") for index in indices]
    disagreeing = {at: _sizes(column) for at, column in enumerate(_columns(rows)) if len(_sizes(column)) > 1}
    notes = [f"{_index_name(indices[at], ellipsis)}: {_against(sizes)}" for at, sizes in disagreeing.items()]
    first = min(disagreeing)
    places = []
    for size in disagreeing[first]:
        position = [row[first] for row in rows.values()].index(size)
        places.append(f"{size} in operand {position} of shape {shapes[position]}")
    title = (
        f"einsum: {_index_name(indices[first], ellipsis)} in {subscripts!r} has size {', but '.join(places)}"
    )
    header = {"index": _index_cells(indices, ellipsis)}
    return title + drawing({**header, **rows}, disagreeing, f"{', '.join(notes)}; {BROADCAST_RULE}")


def window(name: str, shape: Shape, kernel: Shape, reach: Shape, dilation: Shape, padding: Shape) -> str:
    """Returns the text that says along which axes a kernel, spread over `reach`, is larger than the padded
    images.
    """
    padded = tuple(size + 2 * p for size, p in zip(shape[2:], padding, strict=True))
    notes = {
        at: f"{axis}: {reach[at]} against {padded[at]}"
        for at, axis in enumerate(("height", "width"))
        if reach[at] > padded[at]
    }
    spread = f" (a kernel of {kernel} with dilation {dilation})" if dilation != (1, 1) else ""
    title = (
        f"{name}: a kernel of {reach}{spread} is larger than the padded image of {padded} "
        f"(an input of shape {shape} with padding {padding})"
    )
    rule = "use a smaller kernel or more padding"
    return title + drawing({"image": padded, "kernel": reach}, notes, f"{', '.join(notes.values())}; {rule}")
