"""The safetensors format: what is written is read back, the reference library agrees, and every rule is
enforced on hostile files.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinygpt_core import Buffer, DType
from tinygpt_core.files.atomic import atomic_write
from tinygpt_core.files.json_objects import (
    SerializationError,
    parse_json_object,
    read_json_object,
    write_json,
)
from tinygpt_core.files.safetensors import load_safetensors, read_safetensors_header, save_safetensors
from tinygpt_core.tokenizer import load_tokenizer
from tinygpt_core.tokenizer.vocabularies import read_ranks

few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
dtypes = st.sampled_from(DType.all)


def sample(shape: tuple[int, ...], dtype: DType, seed: int = 1) -> Buffer:
    count = math.prod(shape)
    values = [((i * 7919 + seed) % 251 - 125) / 8 for i in range(count)]
    return Buffer.from_array(dtype.pack([dtype.convert(v) for v in values]), shape, dtype)


@few
@given(st.dictionaries(st.text(min_size=1, max_size=8), st.tuples(shapes, dtypes), max_size=4))
def test_what_is_written_is_read_back(
    tmp_path: Path, kinds: dict[str, tuple[tuple[int, ...], DType]]
) -> None:
    kinds.pop("__metadata__", None)
    tensors = {name: sample(shape, dtype) for name, (shape, dtype) in kinds.items()}
    save_safetensors(tmp_path / "t", tensors, {"step": "7"})
    loaded = load_safetensors(tmp_path / "t")
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert (loaded[name].shape, loaded[name].dtype) == (tensor.shape, tensor.dtype)
        assert loaded[name].to_array() == tensor.to_array()
    header = read_safetensors_header(tmp_path / "t")
    assert header.metadata == {"step": "7"} and header.data_start % 8 == 0
    for entry in header.entries.values():  # every tensor begins at a multiple of its element's size
        assert entry.start % {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BOOL": 1}[entry.dtype_name] == 0


def test_views_special_values_and_single_tensors(tmp_path: Path) -> None:
    base = Buffer([[1.0, math.inf, -0.0], [math.nan, -math.inf, 5e-45]])
    views = {
        "transposed": base.permute((1, 0)),
        "sliced": base[:, ::-2],
        "expanded": base[0].expand((2, 3)),
        "scalar": base[1, 1],
    }
    save_safetensors(tmp_path / "t", views)
    loaded = load_safetensors(tmp_path / "t")
    for name, view in views.items():
        assert loaded[name].to_array().tobytes() == view.to_array().tobytes()
    assert set(load_safetensors(tmp_path / "t", ["scalar"])) == {"scalar"}
    with pytest.raises(KeyError):
        load_safetensors(tmp_path / "t", ["nothing"])


def test_the_reference_library_agrees(tmp_path: Path) -> None:
    reference = pytest.importorskip(
        "safetensors.numpy", reason="cross-checked only where the safetensors package is installed"
    )
    numpy = pytest.importorskip("numpy")
    tensors = {
        f"{dtype.name}.{i}": sample(shape, dtype)
        for dtype in DType.all
        for i, shape in enumerate([(), (3,), (2, 0), (2, 3, 4)])
    }
    save_safetensors(tmp_path / "ours", tensors, {"a": "b"})
    theirs = reference.load_file(tmp_path / "ours")
    for name, tensor in tensors.items():
        assert theirs[name].dtype.name == tensor.dtype.name and theirs[name].tolist() == tensor.to_python()
    reference.save_file(
        {"x": numpy.arange(6, dtype="float32").reshape(2, 3), "h": numpy.array([1.5, -2.0], "float16")},
        tmp_path / "theirs",
    )
    loaded = load_safetensors(tmp_path / "theirs")
    assert loaded["x"].to_python() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]] and loaded["h"].to_python() == [
        1.5,
        -2.0,
    ]


def make(path: Path, header: Any, data: bytes = b"", raw: bytes | None = None) -> Path:
    text = raw if raw is not None else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    values = [0.0, 1.0, -2.5, 65504.0, 6e-8, math.inf]
    data = struct.pack("<6e", *values)
    header = {
        "h": {"dtype": "F16", "shape": [6], "data_offsets": [0, 12]},
        "b": {"dtype": "BF16", "shape": [6], "data_offsets": [12, 24]},
    }
    brain = b"".join(
        struct.pack("<f", value)[2:] for value in (0.0, 1.0, -2.5, 3.3895314e38, 1e-40, -math.inf)
    )
    loaded = load_safetensors(make(tmp_path / "t", header, data + brain))
    assert loaded["h"].dtype is DType.float32 and loaded["b"].dtype is DType.float32
    assert loaded["h"].to_python() == list(struct.unpack("<6e", data))
    assert loaded["b"].to_python()[:4] == [0.0, 1.0, -2.5, struct.unpack("<f", b"\0\0" + brain[6:8])[0]]
    assert loaded["b"].to_python()[5] == -math.inf


F4 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
BAD_HEADERS: dict[str, tuple[Any, bytes]] = {
    "a list": ([], b""),
    "a hole at the front": ({"x": {**F4, "data_offsets": [4, 8]}}, bytes(8)),
    "a hole between": ({"x": F4, "y": {**F4, "data_offsets": [8, 12]}}, bytes(12)),
    "an overlap": ({"x": F4, "y": {**F4, "data_offsets": [2, 6]}}, bytes(6)),
    "the same bytes twice": ({"x": F4, "y": F4}, bytes(4)),
    "too little data": ({"x": F4}, bytes(3)),
    "too much data": ({"x": F4}, bytes(5)),
    "offsets backwards": ({"x": {**F4, "data_offsets": [4, 0]}}, bytes(4)),
    "offsets of text": ({"x": {**F4, "data_offsets": ["0", "4"]}}, bytes(4)),
    "offsets of floats": ({"x": {**F4, "data_offsets": [0.0, 4.0]}}, bytes(4)),
    "one offset": ({"x": {**F4, "data_offsets": [4]}}, bytes(4)),
    "huge offsets": ({"x": {**F4, "data_offsets": [0, 10**30]}}, bytes(4)),
    "a shape that needs more": ({"x": {**F4, "shape": [2]}}, bytes(4)),
    "a huge shape": ({"x": {**F4, "shape": [2**62, 2**62]}}, bytes(4)),
    "a negative size": ({"x": {**F4, "shape": [-1]}}, bytes(4)),
    "a size that is true": ({"x": {**F4, "shape": [True]}}, bytes(4)),
    "no shape": ({"x": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)),
    "an unknown dtype": ({"x": {**F4, "dtype": "Q7"}}, bytes(4)),
    "a dtype of endless text": ({"x": {**F4, "dtype": "F" * 1000}}, bytes(4)),
    "half a byte": ({"x": {"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}}, bytes(2)),
    "a dtype that is no text": ({"x": {**F4, "dtype": ["F32"]}}, bytes(4)),
    "metadata that is no text": ({"__metadata__": {"a": 1}, "x": F4}, bytes(4)),
    "metadata in a list": ({"__metadata__": [], "x": F4}, bytes(4)),
    "an entry that is no object": ({"x": 3}, b""),
}


@pytest.mark.parametrize(("header", "data"), BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
def test_every_rule_of_the_format(header: Any, data: bytes, tmp_path: Path) -> None:
    with pytest.raises(SerializationError):
        load_safetensors(make(tmp_path / "t", header, data))


RAW_HEADERS = {
    "no JSON": b"{nonsense",
    "not UTF-8": b'{"\xff": 1}',
    "space first": b' {"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    "a key twice": b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
    b'"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    "a field twice": b'{"x":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    "deeply nested": b'{"x":' + b"[" * 100_000,
}


@pytest.mark.parametrize("raw", RAW_HEADERS.values(), ids=RAW_HEADERS.keys())
def test_headers_that_are_no_headers(raw: bytes, tmp_path: Path) -> None:
    with pytest.raises(SerializationError):
        load_safetensors(make(tmp_path / "t", None, bytes(4), raw))


def test_padding_behind_the_header_is_allowed_and_unsupported_dtypes_are_named(tmp_path: Path) -> None:
    text = json.dumps({"x": F4}).encode() + b"    "
    assert load_safetensors(make(tmp_path / "t", None, bytes(4), text))["x"].to_python() == [0.0]
    with pytest.raises(SerializationError, match=r"'x'.*I16"):
        load_safetensors(
            make(tmp_path / "t", {"x": {"dtype": "I16", "shape": [2], "data_offsets": [0, 4]}}, bytes(4))
        )
    with pytest.raises(SerializationError, match="BOOL"):
        load_safetensors(
            make(tmp_path / "t", {"x": {"dtype": "BOOL", "shape": [2], "data_offsets": [0, 2]}}, b"\x01\x02")
        )


@pytest.mark.parametrize("length", [2**63, 2**40, 100_000_001, 5])
def test_header_lengths_are_checked_before_anything_is_read(length: int, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(SerializationError, match="header"):
        read_safetensors_header(tmp_path / "t")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_are_refused_or_hold_other_numbers(tmp_path: Path, data: st.DataObject) -> None:
    save_safetensors(tmp_path / "t", {"a": sample((2, 3), DType.float32), "b": sample((5,), DType.bool)})
    raw = bytearray((tmp_path / "t").read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "t").write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        loaded = load_safetensors(tmp_path / "t")
    except SerializationError:
        return
    assert sum(tensor.numel for tensor in loaded.values()) <= len(raw)


def test_names_that_the_format_forbids(tmp_path: Path) -> None:
    with pytest.raises(SerializationError):
        save_safetensors(tmp_path / "t", {"__metadata__": sample((1,), DType.float32)})
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "t"
    atomic_write(path, b"old")

    def chunks() -> Any:
        yield b"new"
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        atomic_write(path, chunks())
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["t"]
    assert atomic_write(path, b"newer").size == 5 and path.read_bytes() == b"newer"
    with pytest.raises(FileNotFoundError) as caught:
        atomic_write(tmp_path / "missing" / "t", b"x")
    assert caught.value.filename == str(tmp_path / "missing" / "t"), "not the temporary name"


def test_json_files(tmp_path: Path) -> None:
    value = {"pi": math.pi, "least": 5e-324, "inf": math.inf, "text": "é\n"}
    write_json(tmp_path / "j", value)
    assert read_json_object(tmp_path / "j") == value
    with pytest.raises(SerializationError, match="at most"):
        read_json_object(tmp_path / "j", maximum_bytes=3)
    for bad in ('{"a": 1, "a": 2}', "[]", "{", '"x"', "[" * 100_000):
        with pytest.raises(SerializationError, match="the text"):
            parse_json_object(bad, "the text")


@pytest.mark.parametrize(
    "read",
    [read_json_object, load_tokenizer, lambda path: read_ranks(path, ())],
    ids=["json", "tokenizer", "ranks"],
)
def test_reading_a_small_file_takes_little_memory(read: Any, tmp_path: Path) -> None:
    """The bound on a file's size is a bound, not what is set aside for it; a device, which has no end, is
    read to no end.
    """
    for path in (tmp_path / "small", Path("/dev/zero")):
        (tmp_path / "small").write_text('{"a": 1}')
        tracemalloc.start()
        with contextlib.suppress(ValueError):
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1_000_000


def test_a_repeated_key_is_found_in_linear_time(tmp_path: Path) -> None:
    names = [f"a{number}" for number in range(60_000)]
    text = "{" + ",".join(f'"{name}":0' for name in [*names, names[-1]]) + "}"
    (tmp_path / "x.json").write_text(text)
    start = time.perf_counter()
    with pytest.raises(SerializationError, match="the key 'a59999' stands twice"):
        read_json_object(tmp_path / "x.json")
    assert time.perf_counter() - start < 5.0  # one hundred times what it takes; n² would be minutes


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        ("F8_E8M0", [3], 3),
        ("F8_E4M3FNUZ", [3], 3),
        ("C64", [2], 16),
        ("F4", [2, 3], 3),
        ("F6_E2M3", [4], 3),
        ("Q7", [9], 1),
    ],
)
def test_only_who_touches_a_tensor_of_another_dtype_gets_an_error(
    dtype: str, shape: list[int], size: int, tmp_path: Path
) -> None:
    other = {"dtype": dtype, "shape": shape, "data_offsets": [4, 4 + size]}
    path = make(tmp_path / "t", {"x": {**F4, "extra": [1]}, "y": other}, bytes(4 + size))
    assert read_safetensors_header(path).entries["y"].shape == tuple(shape)
    assert load_safetensors(path, ["x"])["x"].to_python() == [0.0]
    for names in (None, ["y"]):
        with pytest.raises(SerializationError, match=f"'y' has dtype {dtype}; dtypes read are"):
            load_safetensors(path, names)


def test_null_is_no_metadata(tmp_path: Path) -> None:
    path = make(tmp_path / "t", {"__metadata__": None, "x": F4}, bytes(4))
    assert read_safetensors_header(path).metadata == {} and load_safetensors(path)["x"].to_python() == [0.0]


def test_messages_about_a_file_stay_short(tmp_path: Path) -> None:
    name = "n" * 1_000_000
    for header in (
        {name: 3},
        {name: {**F4, "dtype": "Q7"}},
        {name: {**F4, "shape": [1] * 65}},
        {name: {**F4, "dtype": name}},
        {name: {**F4, "data_offsets": [2, 6]}},
    ):
        with pytest.raises(SerializationError) as caught:
            load_safetensors(make(tmp_path / "t", header, bytes(4)))
        assert len(str(caught.value)) < 600
