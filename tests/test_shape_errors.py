"""What an error says about shapes: its picture, read back from the text, holds the shapes and marks just the
axes that disagree.

Which those are is NumPy's verdict on each axis alone. Where NumPy finds nothing wrong, nothing is raised.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from operator import add, eq, ge, gt, le, lt, mul, ne, pow, sub, truediv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spec import table

from tinygpt_core import Tensor, backends, shape_errors
from tinygpt_core.buffer import Buffer
from tinygpt_core.cli import messages
from tinygpt_core.nn import FullyConnectedLayer
from tinygpt_core.shape import ShapeError, broadcast_shapes

SIZES = st.sampled_from([0, 1, 2, 3, 12])
SHAPES = st.lists(SIZES, max_size=4).map(tuple)
SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "add": add,
    "subtract": sub,
    "multiply": mul,
    "divide": truediv,
    "power": pow,
    "maximum": lambda a, b: a.maximum(b),
    "equal": eq,
    "not_equal": ne,
    "less": lt,
    "less_equal": le,
    "greater": gt,
    "greater_equal": ge,
}
Row = list["str | None"]


class Picture(NamedTuple):
    """What is read from a message: the first line, the cells of each row by its name, the columns over
    carets, and what stands beside.
    """

    title: str
    rows: dict[str, Row]
    marks: list[int]
    note: str


def read(problem: object) -> Picture:
    """Reads a message with a picture whose cells hold no spaces; the columns are where cells end."""
    title, *lines, last = str(problem).split("\n")
    found = re.fullmatch(r"( {4} *\^[ ^]*) ([^ ^].*)", last)
    assert lines and found, f"no picture in {problem}"
    ends = {caret.end() for caret in re.finditer(r"\^+", found[1])}
    # Names are followed by two spaces at least, as cells are: the margin is the widest of what may be a name.
    margin = max(len(re.match(r" {4}(?:\S+(?: \S+)*)?", line)[0]) for line in lines)  # type: ignore[index]
    cells = [{cell.end() + margin: cell[0] for cell in re.finditer(r"\S+", line[margin:])} for line in lines]
    columns = sorted(set().union(ends, *cells))
    rows = {
        line[4:margin].strip(): [row.get(end) for end in columns]
        for line, row in zip(lines, cells, strict=True)
    }
    assert len(rows) == len(lines)
    return Picture(title, rows, [at for at, end in enumerate(columns) if end in ends], found[2])


def zeros(shape: Sequence[int], dtype: Any = None) -> Buffer:
    return Buffer.full((), 1.0, dtype).expand(tuple(shape))


def padded(shape: Sequence[int], depth: int) -> Row:
    return [None] * (depth - len(shape)) + [str(size) for size in shape]


def broadcasts(*shapes: Sequence[int]) -> bool:
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        return False
    return True


def raised(call: Callable[[], Any]) -> Exception | None:
    try:
        call()
    except (ValueError, RuntimeError) as problem:
        return problem
    return None


def axes_of(note: str) -> dict[int, tuple[int, ...]]:
    """The sizes that a note gives for each axis it names."""
    return {
        int(axis): tuple(map(int, re.findall(r"\d+", sizes)))
        for axis, sizes in re.findall(r"axis (-?\d+): (\d+(?: against \d+)*)", note)
    }


@given(first=SHAPES, second=SHAPES, name=st.sampled_from(sorted(SIGNS)))
def test_broadcasting_marks_the_axes_that_disagree(
    first: Sequence[int], second: Sequence[int], name: str
) -> None:
    depth = max(len(first), len(second))
    problem = raised(lambda: SIGNS[name](Tensor(zeros(first)), Tensor(zeros(second))))
    if broadcasts(first, second):
        assert problem is None
        return
    assert isinstance(problem, ShapeError)
    title, rows, marks, note = read(problem)
    assert title == f"{name}: shapes {first} and {second} do not broadcast"
    assert rows == {"left": padded(first, depth), "right": padded(second, depth)}
    columns = list(zip(padded(first, depth), padded(second, depth), strict=True))
    assert marks == [
        at
        for at, pair in enumerate(columns)
        if not broadcasts(*[(int(size),) for size in pair if size is not None])
    ]
    said = axes_of(note)
    assert len(said) == len(marks) and all(
        (first[axis], second[axis]) == sizes for axis, sizes in said.items()
    )


@given(condition=SHAPES, first=SHAPES, second=SHAPES)
def test_where_marks_the_axes_that_disagree(
    condition: Sequence[int], first: Sequence[int], second: Sequence[int]
) -> None:
    problem = raised(lambda: Buffer.where(zeros(condition) > 0.0, zeros(first), zeros(second)))
    assert (problem is None) == broadcasts(condition, first, second)
    if problem is not None:
        shown = (
            {"condition": condition, "first": first, "second": second}
            if broadcasts(first, second)
            else {"first": first, "second": second}
        )
        depth = max(map(len, shown.values()))
        title, rows, marks, _ = read(problem)
        assert title.startswith("where: shapes ") and all(str(shape) in title for shape in shown.values())
        assert rows == {name: padded(shape, depth) for name, shape in shown.items()}
        columns = list(zip(*rows.values(), strict=True))
        assert marks == [
            at
            for at, column in enumerate(columns)
            if not broadcasts(*[(int(size),) for size in column if size is not None])
        ]


@given(shapes=st.lists(SHAPES, min_size=1, max_size=4))
def test_many_shapes_broadcast_or_are_all_shown(shapes: list[tuple[int, ...]]) -> None:
    problem = raised(lambda: broadcast_shapes(*shapes))
    assert (problem is None) == broadcasts(*shapes)
    if problem is not None:
        picture = read(problem)
        assert list(picture.rows.values()) == [padded(shape, max(map(len, shapes))) for shape in shapes]
        assert picture.title.startswith("broadcast: shapes ")


@given(shape=SHAPES, new_shape=SHAPES, assigning=st.booleans())
def test_expand_and_assign_mark_the_axes_that_do_not_stretch(
    shape: Sequence[int], new_shape: Sequence[int], assigning: bool
) -> None:
    target = Buffer.full(new_shape, 0.0)
    problem = raised(lambda: target.assign(zeros(shape)) if assigning else zeros(shape).expand(new_shape))
    fits = broadcasts(shape, new_shape) and np.broadcast_shapes(shape, new_shape) == new_shape
    assert (problem is None) == fits
    if problem is not None:
        depth = max(len(shape), len(new_shape))
        title, rows, marks, _ = read(problem)
        assert title == f"{'assign' if assigning else 'expand'}: shape {shape} does not expand to {new_shape}"
        assert rows == {"from": padded(shape, depth), "to": padded(new_shape, depth)}
        for at, (old, new) in enumerate(zip(*rows.values(), strict=True)):
            alone = [(int(size),) if size is not None else () for size in (old, new)]
            assert (at in marks) == (not (broadcasts(*alone) and np.broadcast_shapes(*alone) == alone[1]))


@given(first=SHAPES, second=SHAPES)
def test_matmul_marks_inner_and_batch_axes(first: Sequence[int], second: Sequence[int]) -> None:
    problem = raised(lambda: Tensor(zeros(first)) @ Tensor(zeros(second)))
    wrong = raised(lambda: np.empty(first) @ np.empty(second))
    assert (problem is None) == (wrong is None)
    if problem is None or not first or not second:
        return
    title, rows, marks, note = read(problem)
    assert title == f"matmul: shapes {first} and {second} do not multiply"
    assert [[int(size) for size in row if size is not None] for row in rows.values()] == [
        list(first),
        list(second),
    ]
    left, right = rows["left"], rows["right"]
    # Batches that both have, and the inner axis
    met = [at for at, pair in enumerate(zip(left, right, strict=True)) if None not in pair]
    inner = met[-1]
    assert left[inner] == str(first[-1]) and right[inner] == str(second[-2:][0])
    assert marks == [
        at for at in met if left[at] != right[at] and (at == inner or "1" not in (left[at], right[at]))
    ]
    of_first, of_second = (
        map(int, re.findall(r"axis (-\d) of", note)) if inner in marks else (-1, -min(len(second), 2))
    )
    assert (first[of_first], second[of_second]) == (first[-1], second[-2:][0])
    assert all((first[axis], second[axis]) == sizes for axis, sizes in axes_of(note).items())
    if len(first) < 2 or len(second) < 2:  # vectors are for Tensors
        assert read(raised(lambda: zeros(first).matmul(zeros(second)))).title.startswith("matmul: ")
    else:
        assert str(raised(lambda: zeros(first).matmul(zeros(second)))) == str(problem)


@given(data=st.data())
def test_concatenate_marks_all_axes_but_one(data: st.DataObject) -> None:
    shapes = data.draw(
        st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3).map(tuple), min_size=1, max_size=3)
    )
    axis = data.draw(st.integers(0, len(shapes[0]) - 1))
    problem = raised(lambda: Buffer.concatenate([zeros(shape) for shape in shapes], axis))
    assert (problem is None) == (
        raised(lambda: np.concatenate([np.empty(shape) for shape in shapes], axis)) is None
    )
    if problem is not None:
        title, rows, marks, _ = read(problem)
        (_, first), (name, other) = rows.items()
        shape = shapes[int(name.removeprefix("operand "))]
        assert title == f"concatenate: shapes {shapes[0]} and {shape} ({name}) do not fit along axis {axis}"
        assert first == [*map(str, shapes[0]), *[None] * (len(first) - len(shapes[0]))]
        assert other == [*map(str, shape), *[None] * (len(first) - len(shape))]
        assert marks == [
            at
            for at, (a, b) in enumerate(zip(first, other, strict=True))
            if a != b and (at != axis or None in (a, b))
        ]


@given(shape=SHAPES, new_shape=st.lists(st.sampled_from([-2, -1, -1, 0, 1, 2, 3, 6]), max_size=3).map(tuple))
def test_reshape_counts_the_elements(shape: Sequence[int], new_shape: Sequence[int]) -> None:
    problem = raised(lambda: zeros(shape).reshape(new_shape))
    # NumPy takes any negative number for -1, and 0 elements for any number times 0.
    assert -2 in new_shape or (problem is None) == (
        raised(lambda: np.empty(shape).reshape(new_shape)) is None
    )
    if problem is not None:
        title, rows, marks, _ = read(problem)
        assert str(shape) in title and str(new_shape) in title
        total, wanted = int(np.prod(shape, dtype=int)), int(np.prod(new_shape, dtype=int))
        assert [size for size in rows["from"] if size is not None] == [*map(str, shape), "=", str(total)]
        assert [size for size in rows["to"] if size is not None] == [
            *map(str, new_shape),
            "=",
            "?" if -1 in new_shape else str(wanted),
        ]
        cells = rows["to"]
        negative = [at for at, size in enumerate(cells[:-1]) if size is not None and size.startswith("-")]
        assert marks == (negative or [len(cells) - 1]) and (negative or total != wanted)


@given(data=st.data())
def test_the_part_of_a_shape_that_another_must_have(data: st.DataObject) -> None:
    owner, found = data.draw(SHAPES), data.draw(SHAPES)
    start = data.draw(st.integers(0, len(owner)))
    stop = data.draw(st.none() | st.integers(start, len(owner)))
    wanted = owner[start:stop]
    message = shape_errors.wrong_shape(
        "law", "part", found, expected=owner, of="owner", axes=slice(start, stop)
    )
    assert f"part must have the shape {wanted}, not {found}" in message
    if found == wanted:
        assert "\n" not in message
        return
    _, rows, marks, note = read(message)
    assert [size for size in rows["owner"] if size is not None] == [*map(str, owner)]
    assert [size for size in rows["part"] if size is not None] == [*map(str, found)]
    if len(found) == len(wanted):
        columns = [at for at, size in enumerate(rows["part"]) if size is not None]
        assert marks == [columns[axis] for axis in range(len(found)) if found[axis] != wanted[axis]]
    assert len(marks) == len(re.findall(r"\bis\b", note))
    for axis, size, other in re.findall(r"axis (\d+) of part is (\d+), not (\d+)", note):
        assert found[int(axis)] == int(size) and int(other) in wanted
    assert note.count("is one too many") - note.count("is missing") == len(found) - len(wanted)


@given(data=st.data())
def test_einsum_marks_the_indices_with_two_sizes(data: st.DataObject) -> None:
    terms = data.draw(
        st.lists(
            st.lists(st.sampled_from("ijk"), max_size=3, unique=True).map("".join), min_size=2, max_size=3
        )
    )
    shapes = [tuple(data.draw(st.sampled_from([1, 2, 3])) for _ in term) for term in terms]
    subscripts = ",".join(terms) + "->"
    tensors = [Tensor(zeros(shape)) for shape in shapes]
    problem = raised(lambda: Tensor.einsum(subscripts, tensors[0], *tensors[1:]))
    sizes = {
        index: {shape[term.index(index)] for term, shape in zip(terms, shapes, strict=True) if index in term}
        for index in "ijk"
    }
    assert (problem is None) == all(len(found - {1}) < 2 for found in sizes.values())
    if problem is not None:
        title, rows, marks, _ = read(problem)
        indices = rows.pop("index")
        for position, row in enumerate(rows.values()):
            assert {i: int(size) for i, size in zip(indices, row, strict=True) if size is not None} == dict(
                zip(terms[position], shapes[position], strict=True)
            )
        shown = {i: {row[at] for row in rows.values()} - {None, "1"} for at, i in enumerate(indices)}
        assert [indices[at] for at in marks] == [i for i in indices if len(shown[i]) > 1]
        assert f"index '{indices[marks[0]]}' in '{subscripts}' has size " in title


@given(
    query=st.tuples(*[st.sampled_from([1, 2])] * 4),
    key=st.tuples(*[st.sampled_from([1, 2])] * 4),
    value=st.tuples(*[st.sampled_from([1, 2])] * 4),
)
def test_attention_marks_what_query_key_and_value_must_share(
    query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...]
) -> None:
    from tinygpt_core.kernels import Attention

    problem = raised(lambda: Attention.check(zeros(query), zeros(key), zeros(value), causal=False))
    sharing = {"batch": (0, 0, 0), "heads": (1, 1, 1), "S": (None, 2, 2), "size": (3, 3, 3)}
    shapes = (query, key, value)
    wrong = [
        name
        for name, at in sharing.items()
        if len({s[axis] for s, axis in zip(shapes, at, strict=True) if axis is not None}) > 1
    ]
    assert (problem is None) == (not wrong)
    if problem is not None:
        _, rows, marks, _ = read(problem)
        assert [rows[""][at] for at in marks] == wrong
        assert [[int(size) for size in rows[name] if size] for name in ("query", "key", "value")] == [
            list(shape) for shape in shapes
        ]
    if query[2] > key[2] and not wrong:
        _, rows, marks, note = read(
            raised(lambda: Attention.check(zeros(query), zeros(key), zeros(value), causal=True))
        )
        assert [rows[""][at] for at in marks] == ["T", "S"] and note.startswith(
            f"T is {query[2]}, S is {key[2]};"
        )


@given(logits=SHAPES, targets=SHAPES)
def test_cross_entropy_marks_what_targets_and_logits_must_share(
    logits: tuple[int, ...], targets: tuple[int, ...]
) -> None:
    """All axes of the logits but the last."""
    from tinygpt_core.kernels import CrossEntropy

    def check() -> None:
        with contextlib.suppress(IndexError):  # without classes, 0 is the id of none
            CrossEntropy.check(zeros(logits), Buffer.full((), 0).expand(targets), None)

    problem = raised(check)
    assert (problem is None) == (logits != () and targets == logits[:-1])
    if problem is not None and logits:
        title, rows, marks, _ = read(problem)
        assert title.endswith(f"targets must have the shape {logits[:-1]}, not {targets}")
        width = max(len(logits), len(targets))
        assert rows["logits"] == [*map(str, logits), *[None] * (width - len(logits))]
        assert rows["targets"] == [*map(str, targets), *[None] * (width - len(targets))]
        wanted = [*logits[:-1], *[None] * (width - len(logits) + 1)]
        assert marks == [at for at in range(width) if (*targets, None, None, None, None)[at] != wanted[at]]


# But for a backend that is not there: that message lists those that are.
WRONG = [(row.name, wrong) for row in table.ROWS if row.name != "to" for wrong in row.errors]


@pytest.mark.parametrize(("name", "wrong"), WRONG, ids=[f"{name}: {wrong.what}" for name, wrong in WRONG])
def test_all_backends_say_the_same(name: str, wrong: table.Wrong) -> None:
    """The text is the core's, whatever lies beneath, but for the name of a backend."""
    if reason := backends.why_not("numpy"):
        pytest.skip(f"there is no second backend to compare with: {reason}")
    texts = []
    for backend in ("python", "numpy"):
        with backends.use(backend), pytest.raises(wrong.exception) as caught:
            wrong.call(backends.get(backend))
        texts.append(str(caught.value).replace(backend, "…"))
    assert texts[0] == texts[1]


@given(first=SHAPES, second=SHAPES)
def test_a_message_without_pictures_keeps_what_is_said_in_words(
    first: Sequence[int], second: Sequence[int]
) -> None:
    problem = raised(lambda: broadcast_shapes(first, second))
    if problem is not None:
        picture = read(problem)
        assert (
            shape_errors.without_pictures(f"before: {problem}") == f"before: {picture.title}: {picture.note}"
        )


@pytest.mark.parametrize(
    "message",
    ["", "one line", "two\nlines", "a list:\n    one\n    two", "no picture ^ here", "a caret:\n  ^ here"],
)
def test_only_pictures_are_left_out(message: str) -> None:
    assert shape_errors.without_pictures(message) == message


def test_weights_that_do_not_fit_are_named_and_on_the_command_line_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, other = FullyConnectedLayer(3, 12), FullyConnectedLayer(3, 4)
    other.save_weights(tmp_path / "weights.safetensors")
    with pytest.raises(ValueError) as caught:
        model.load_weights(tmp_path / "weights.safetensors")
    assert str(caught.value) == (
        "weights: loaded weights must have the shape (3, 12), not (3, 4)\n"
        "    model           3  12\n"
        "    loaded weights  3   4\n"
        "                       ^^ axis 1 of loaded weights is 4, not 12"
    )
    assert messages.complain(*messages.describe_error(caught.value)) == 2
    assert capsys.readouterr().err == (
        "tinygpt: error: weights: loaded weights must have the shape (3, 12), not (3, 4): "
        "axis 1 of loaded weights is 4, not 12\n"
    )
