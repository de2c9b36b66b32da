"""IDX files: what is written is read, hostile ones are refused before memory is taken; MNIST from a folder
and from the network.
"""

from __future__ import annotations

import gzip
import hashlib
import runpy
import struct
import sys
import tracemalloc
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt_core.dataset import images
from tinygpt_core.dataset.corpora import CorpusError, Download
from tinygpt_core.dataset.images import TYPECODES, load_mnist, read_idx
from tinygpt_core.dtype import DType

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT.parent / "shared" / "data" / "mnist"


def idx(shape, values, typecode="B"):
    """The bytes of an IDX file, by `struct` rather than `array`."""
    code = next(code for code, known in TYPECODES.items() if known == typecode)
    return (
        bytes([0, 0, code, len(shape)])
        + struct.pack(f">{len(shape)}I", *shape)
        + struct.pack(f">{len(values)}{typecode}", *values)
    )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_what_is_written_is_read(tmp_path_factory, data):
    shape = tuple(data.draw(st.lists(st.integers(0, 4), max_size=3)))
    typecode = data.draw(st.sampled_from("Bbhifd"))
    limits = {"B": (0, 255), "b": (-128, 127), "h": (-(2**15), 2**15 - 1), "i": (-(2**31), 2**31 - 1)}
    element = st.integers(*limits[typecode]) if typecode in limits else st.floats(width=32, allow_nan=False)
    count = 1
    for size in shape:
        count *= size
    values = data.draw(st.lists(element, min_size=count, max_size=count))
    content = idx(shape, values, typecode)
    path = tmp_path_factory.mktemp("idx") / "file.gz"  # the name says nothing: the content does
    path.write_bytes(gzip.compress(content) if data.draw(st.booleans()) else content)
    assert read_idx(path, hashlib.sha256(content).hexdigest()) == (shape, array(typecode, values))


GOOD = idx((2, 3), range(6))


@pytest.mark.parametrize("pack", [lambda content: content, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file: it starts with nothing"),
        (b"\x00\x00", "no IDX file: it starts with 00 00"),
        (b"PK\x03\x04" + GOOD, "no IDX file: it starts with 50 4b 03 04"),
        (b"\x00\x00\x07\x01" + GOOD[4:], "no IDX file: it starts with 00 00 07 01"),
        (GOOD[:9], "truncated"),
        (GOOD[:-1], r"truncated: shape \(2, 3\) takes 6 bytes, but only 5 follow"),
        (GOOD + b"\x00", r"too long: shape \(2, 3\) takes 6 bytes, but more follow"),
        (idx((2, 2), range(4)), "not the published file: its content has SHA-256"),
    ],
)
def test_bad_files(tmp_path, content, message, pack):
    path = tmp_path / "bad"
    path.write_bytes(pack(content))
    if pack(content) == content and message.startswith("truncated: "):
        message = "truncated"  # a plain file is known to be too short before it is read
    with pytest.raises(CorpusError, match=message) as caught:
        read_idx(path, hashlib.sha256(GOOD).hexdigest())
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("pack", [lambda content: content, gzip.compress], ids=["plain", "gzip"])
def test_a_header_takes_no_memory_that_the_file_cannot_fill(tmp_path, pack):
    path = tmp_path / "huge"
    path.write_bytes(pack(bytes([0, 0, 0x0E, 3]) + b"\xff" * 12 + b"few"))
    tracemalloc.start()
    with pytest.raises(CorpusError, match=r"4294967295, 4294967295, 4294967295.*but the file can hold"):
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_gzip_bomb_is_refused_before_it_goes_off(tmp_path):
    """A header that promises more than is ever read is wrong, although the compressed file could hold it."""
    bomb = tmp_path / "bomb"
    with gzip.open(bomb, "wb", compresslevel=1) as file:
        file.write(b"\0\0\x08\x02" + (1 << 11).to_bytes(4, "big") + (1 << 20).to_bytes(4, "big"))
        for _ in range(8):
            file.write(bytes(1 << 20))
    with open(bomb, "ab") as file:
        file.truncate(4_000_000)  # zeros after the end of the compressed stream: a hole
    tracemalloc.start()
    with pytest.raises(CorpusError, match="2,147,483,648 bytes, but the file can hold 1,073,741,824"):
        read_idx(bomb)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_damaged_gzip_files_missing_files_and_directories(tmp_path):
    whole = gzip.compress(idx((100,), range(100)))
    for damaged in (whole[:-9], whole[:20] + b"\xff\xff" + whole[22:], whole[:-8] + b"\0" * 8):
        path = tmp_path / "damaged"
        path.write_bytes(damaged)
        with pytest.raises(CorpusError, match="damaged"):
            read_idx(path)
    with pytest.raises(CorpusError, match=r"cannot read .*nowhere"):
        read_idx(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match="cannot read"):
        read_idx(tmp_path)


# ---------------------------------------------------------------- MNIST


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Forty images of 8 by 8 in the place of MNIST's test part: the label is in the grey of a bar. The table
    has their sums.
    """
    contents = {
        "t10k-images-idx3-ubyte": idx(
            (40, 8, 8), [25 * (i % 10) if 16 <= p < 32 else p % 3 for i in range(40) for p in range(64)]
        ),
        "t10k-labels-idx1-ubyte": idx((40,), [i % 10 for i in range(40)]),
    }
    for name, content in contents.items():
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress(content))
        packed = path.read_bytes()
        download = Download(path.as_uri(), len(packed), hashlib.sha256(packed).hexdigest())
        monkeypatch.setitem(images.MNIST, name, (download, hashlib.sha256(content).hexdigest()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_images_are_grey_from_0_to_1_and_labels_integers(folder, backend):
    for x, y in (load_mnist("test", folder), load_mnist("test")):
        assert (x.shape, x.dtype, y.shape, y.dtype) == ((40, 1, 8, 8), DType.float32, (40,), DType.int32)
        assert type(x.buffer) is type(y.buffer) is backend
        assert y[:12].to_python() == [*range(10), 0, 1]
        assert (
            abs(x[9, 0, 2, 0].item() - 225 / 255) < 1e-7 and x[9, 0, 0, 1].item() == x[0, 0, 0, 1].item() > 0
        )
    x, y = load_mnist("test", folder, limit=3)
    assert (len(x), y.to_python()) == (3, [0, 1, 2])
    assert sorted(path.name for path in (folder / "cache" / "tinygpt" / "mnist").iterdir()) == [
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    ]


def test_what_is_not_mnist_is_refused_unless_wanted(folder):
    changed = idx((2, 8, 8), [7] * 128)
    (folder / "t10k-images-idx3-ubyte").write_bytes(changed)  # a plain file comes before a compressed one
    with pytest.raises(CorpusError, match="not the published file"):
        load_mnist("test", folder)
    with pytest.raises(CorpusError, match=r"\(2, 8, 8\) and labels of shape \(40,\) do not belong together"):
        load_mnist("test", folder, verify=False)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx((2,), [1, 2]))
    assert load_mnist("test", folder, verify=False)[1].to_python() == [1, 2]
    with pytest.raises(CorpusError, match=r"neither .*train-images-idx3-ubyte nor .*\.gz"):
        load_mnist("train", folder)
    with pytest.raises(CorpusError, match="'train' and 'test', not 'valid'"):
        load_mnist("valid", folder)


def test_without_a_network_the_error_says_what_to_pass(folder, monkeypatch):
    for path in folder.glob("*.gz"):
        path.unlink()
    with pytest.raises(CorpusError, match=r"t10k-images-idx3-ubyte cannot be fetched .*pass the folder"):
        load_mnist("test")


def test_the_sums_are_those_of_the_real_files():
    if not REAL.exists():
        pytest.skip("MNIST is not beside the project")
    x, y = load_mnist("test", REAL, limit=10)
    assert x.shape == (10, 1, 28, 28) and y.to_python() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_the_example_runs_from_top_to_bottom(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mnist_cnn.py", "--data", str(folder), "--steps", "2"])
    monkeypatch.syspath_prepend(ROOT)
    runpy.run_path(str(ROOT / "docs" / "examples" / "mnist_cnn.py"), run_name="__main__")
    text = capsys.readouterr().out
    assert (
        "step 2: loss" in text and "of 8 unseen digits read correctly" in text and "The network reads" in text
    )
