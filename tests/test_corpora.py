"""The corpora: what every Python carries, what is fetched and verified, and files of the user's own."""

from __future__ import annotations

import hashlib
import os
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from tinygpt_core.dataset import corpora
from tinygpt_core.dataset.corpora import MAXIMUM_FOLDER, Corpus, CorpusError, Download, load_corpus
from tinygpt_core.files import atomic as files

CONTENT = b"emma\nolivia\n\nava\n"


@pytest.fixture
def published(tmp_path, monkeypatch):
    """`names` published in a local file, with the sum and size of CONTENT, and an empty cache."""
    source = tmp_path / "published.txt"
    source.write_bytes(CONTENT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    download = Download(source.as_uri(), len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setitem(corpora.DOWNLOADS, "names", download)
    return source


def cached(tmp_path) -> Path:
    return tmp_path / "cache" / "tinygpt" / "names.txt"


def test_identifiers_are_unique_public_sorted_and_quick():
    started = time.perf_counter()
    corpus = load_corpus("identifiers")
    assert time.perf_counter() - started < 10  # 0.3 s on a quiet machine
    names = corpus.documents
    assert corpus.text is None and names is not None
    assert len(names) > 4000 and names == sorted(set(names))
    assert all(name.isidentifier() and name.isascii() and not name.startswith("_") for name in names)
    assert {"OrderedDict", "namedtuple", "dumps"} <= set(names)
    assert load_corpus("identifiers") == corpus


def test_docs_are_one_text_about_the_language():
    text = load_corpus("docs").text
    assert text is not None and len(text) > 300_000 and "augmented assignment" in text


def test_stdlib_is_documents_without_tests():
    documents = load_corpus("stdlib").documents
    assert documents is not None and len(documents) > 300
    assert any("class OrderedDict" in document for document in documents)
    assert not any("\r" in document or not document.strip() for document in documents)


def test_describe_counts():
    assert Corpus("names", ["ab", "bcd"], None).describe() == "names: 2 documents, 5 characters (4 different)"
    assert Corpus("text", None, "aab").describe() == "text: one text, 3 characters (2 different)"


def test_fetched_once_then_read_from_the_cache(published, tmp_path):
    assert load_corpus("names").documents == ["emma", "olivia", "ava"]
    assert cached(tmp_path).read_bytes() == CONTENT
    assert os.listdir(cached(tmp_path).parent) == ["names.txt"]
    published.unlink()
    assert load_corpus("names").documents == ["emma", "olivia", "ava"]


@pytest.mark.parametrize("damaged", [b"", CONTENT[:-1], CONTENT + b"x", CONTENT.replace(b"a", b"b")])
def test_a_damaged_cache_is_fetched_again(published, tmp_path, damaged):
    cached(tmp_path).parent.mkdir(parents=True)
    cached(tmp_path).write_bytes(damaged)
    assert load_corpus("names").documents == ["emma", "olivia", "ava"]
    assert cached(tmp_path).read_bytes() == CONTENT
    cached(tmp_path).write_bytes(damaged)
    published.unlink()
    with pytest.raises(CorpusError, match=r"is damaged.*--data FILE"):
        load_corpus("names")


@pytest.mark.parametrize("served", [b"", CONTENT[:-1], CONTENT + b"x" * 10_000, CONTENT.replace(b"a", b"b")])
def test_what_is_not_the_published_file_is_refused_and_not_kept(published, tmp_path, served):
    published.write_bytes(served)
    with pytest.raises(CorpusError, match=r"is not names.*not kept.*--data FILE"):
        load_corpus("names")
    assert not cached(tmp_path).exists()


def test_without_a_network_the_error_says_what_to_pass(published, monkeypatch):
    import urllib.error
    import urllib.request

    def unreachable(*_args, **_options):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    with pytest.raises(CorpusError, match=r"cannot be fetched from .*not known.*--data FILE.*identifiers"):
        load_corpus("names")


def test_a_cache_that_cannot_be_written_is_only_a_warning(published, tmp_path):
    (tmp_path / "cache").write_text("a file where the directory should be")
    with pytest.warns(RuntimeWarning, match="cannot be kept"):
        assert load_corpus("names").documents == ["emma", "olivia", "ava"]


def test_relative_cache_homes_are_ignored(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", os.path.abspath(os.sep + "home"))
    assert os.path.isabs(corpora.cache_directory()) and "relative" not in corpora.cache_directory()


@pytest.mark.parametrize("name", ["names", "shakespeare"])
def test_the_published_sums_are_those_of_the_real_files(name):
    file = (
        Path(__file__).parents[2]
        / "shared"
        / "data"
        / {"names": "names.txt", "shakespeare": "tinyshakespeare.txt"}[name]
    )
    if not file.exists():
        pytest.skip(f"{file.name} is not beside the project")
    data = file.read_bytes()
    download = corpora.DOWNLOADS[name]
    assert (len(data), hashlib.sha256(data).hexdigest()) == (download.size, download.sha256)


def test_data_files_are_one_text_or_documents_by_line(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo \n\n\nthree")
    assert load_corpus("text", file) == ("text", None, "one\ntwo \n\n\nthree")
    assert load_corpus("names", str(file)) == ("names", ["one", "two", "three"], None)
    assert load_corpus("text", file, documents_by_line=True).documents == ["one", "two", "three"]
    assert load_corpus("names", file, documents_by_line=False).documents is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"abc\xffdef", r"not UTF-8.*0xff at offset 3"),
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
    ],
)
def test_bad_data_files(tmp_path, content, message):
    file = tmp_path / "bad.txt"
    file.write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        load_corpus("text", file)


def test_a_file_beyond_all_bounds_is_not_read(tmp_path):
    huge = tmp_path / "huge.txt"
    with open(huge, "wb") as file:
        file.truncate(3 * MAXIMUM_FOLDER)  # a hole: takes no disk, but would fill the memory
    tracemalloc.start()
    with pytest.raises(CorpusError, match=r"huge\.txt has more than 1,000,000,000 bytes.*train\.bin"):
        load_corpus("text", huge)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_missing_files_directories_and_unknown_names(tmp_path):
    with pytest.raises(CorpusError, match=r"nowhere\.txt.*No such file.*--data FILE"):
        load_corpus("text", tmp_path / "nowhere.txt")
    with pytest.raises(CorpusError, match=r"is a directory without a UTF-8 text file \(it is empty\)"):
        load_corpus("text", tmp_path)
    with pytest.raises(CorpusError, match=r"'nope'.*identifiers.*--data"):
        load_corpus("nope")
    with pytest.raises(CorpusError, match="--data FILE"):
        load_corpus("text")
    assert issubclass(CorpusError, ValueError)


def test_a_python_without_sources_or_documents_says_what_else_there_is(tmp_path, monkeypatch):
    import sysconfig

    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(tmp_path / "python.zip"))
    for name in ("identifiers", "stdlib"):
        with pytest.raises(CorpusError, match=r"no sources.*docs"):
            load_corpus(name)
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(CorpusError, match=r"pydoc_data.*identifiers"):
        load_corpus("docs")


def test_the_order_of_the_stdlib_is_by_path(tmp_path, monkeypatch):
    import sysconfig

    for path in (
        "json/decoder.py",
        "json/tests/test_it.py",
        "json/__init__.py",
        "abc.py",
        "json/notes.txt",
        "site-packages/x.py",
    ):
        (tmp_path / path).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / path).write_text(
            f"def from_{Path(path).stem}(): pass  # {path}\n    class  Thing [T]:\nclass of things\n"
        )
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(tmp_path))
    documents = load_corpus("stdlib").documents
    assert [document.split("# ")[1].split("\n")[0] for document in documents] == [
        "abc.py",
        "json/__init__.py",
        "json/decoder.py",
    ]
    assert load_corpus("identifiers").documents == ["Thing", "from___init__", "from_abc", "from_decoder"]


def test_writing_is_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "kept"
    file.write_bytes(b"old")

    def full(*_paths):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        files.atomic_write(file, b"new")
    assert file.read_bytes() == b"old" and os.listdir(tmp_path) == ["kept"]
