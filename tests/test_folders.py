"""Folders: of texts, which become documents, and of token ids, which stay in their files."""

from __future__ import annotations

import os
import warnings
from array import array
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinygpt_core.dataset import TokenStream, token_folders
from tinygpt_core.dataset import corpora as folders
from tinygpt_core.dataset.corpora import CorpusError, load_corpus
from tinygpt_core.dataset.tokens import PIECE, FileIds, first_outside
from tinygpt_core.tokenizer import BPETokenizer, CharTokenizer, Tokenizer, TokenizerError, save_tokenizer
from tinygpt_core.training import BOUNDARY, PRESETS, StepEvent, Trainer, TrainingConfig, prepare_data

GPT2 = Path(__file__).parents[2] / "shared" / "data" / "gpt2"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for path, content in {
        "b.py": b"print(1)\r\n",
        "a/z.txt": b"\xef\xbb\xbfzeta",
        "a/b/c.md": "gamma é".encode(),
        "a.txt": b"alpha",
        "B.txt": b"beta",
        "empty.txt": b"",
        "blank.txt": b" \n",
        "latin.txt": b"caf\xe9",
        "image.png": b"\x89PNG\0\0",
        ".git/config": b"hidden",
        ".hidden": b"hidden",
        "a/__pycache__/x.pyc": b"cache",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    return tmp_path


def test_text_files_become_documents_in_the_order_of_their_paths(tree: Path) -> None:
    with pytest.warns(RuntimeWarning, match=r"5 files read, skipped: 2 not UTF-8 text"):
        corpus = load_corpus("text", tree)
    assert corpus == ("text", ["beta", "gamma é", "zeta", "alpha", "print(1)\n"], None)
    with pytest.warns(RuntimeWarning):
        assert load_corpus("stdlib", str(tree)).documents == corpus.documents


def test_links_loops_and_pipes_are_not_followed(tree: Path) -> None:
    (tree / "a" / "loop").symlink_to(tree, target_is_directory=True)
    (tree / "again.txt").symlink_to(tree / "a.txt")
    (tree / "broken").symlink_to(tree / "nowhere")
    os.mkfifo(tree / "pipe")
    with pytest.warns(
        RuntimeWarning, match=r"5 files read, skipped: 4 links or special files, 2 not UTF-8 text"
    ):
        assert len(folders.read_folder(tree)) == 5


def test_sizes_are_bounded(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MAXIMUM_DOCUMENT", 7)
    # The seventh byte and the one read beyond it are one character
    (tree / "cut.txt").write_bytes("123456é".encode())
    with pytest.warns(
        RuntimeWarning, match=r"3 files read, skipped: 3 larger than 7 bytes, 2 not UTF-8 text"
    ):
        assert folders.read_folder(tree) == ["beta", "\ufeffzeta", "alpha"]
    monkeypatch.setattr(folders, "MAXIMUM_FOLDER", 10)
    with pytest.raises(CorpusError, match=r"more than 10 bytes of text.*train\.bin"):
        folders.read_folder(tree)


def test_deep_and_unreadable_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path.joinpath(*["d"] * 200)
    deep.mkdir(parents=True)
    (deep / "deep.txt").write_text("deep")
    (tmp_path / "shut").mkdir()
    scan = os.scandir

    def refusing(path: str) -> object:
        if path.endswith("shut"):
            raise PermissionError
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.warns(RuntimeWarning, match="1 files read, skipped: 1 unreadable"):
        assert folders.read_folder(tmp_path) == ["deep"]


def test_a_folder_without_texts(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\0")
    with pytest.raises(CorpusError, match=r"without a UTF-8 text file \(1 not UTF-8 text\)"):
        load_corpus("text", tmp_path)
    with pytest.raises(FileNotFoundError):
        folders.read_folder(tmp_path / "nowhere")


def test_a_folder_with_nothing_to_skip_is_read_in_silence(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("one")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert folders.read_folder(tmp_path) == ["one"]


# ---- ids that fit a vocabulary


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from("BHI"))
def test_the_first_id_outside_is_found(data: st.DataObject, typecode: str) -> None:
    largest = {"B": 2**8, "H": 2**16, "I": 2**31}[typecode] - 1
    vocab_size = data.draw(st.integers(1, largest + 1) | st.sampled_from([256, 50257, 50176, 65536, 2**31]))
    near = st.integers(-2, 2).map(lambda offset: min(max(0, vocab_size + offset), largest))
    ids = data.draw(
        st.lists(near | st.integers(0, min(vocab_size - 1, largest)) | st.integers(0, largest), max_size=30)
    )
    expected = next((place for place, idx in enumerate(ids) if idx >= vocab_size), None)
    assert first_outside(memoryview(array(typecode, ids)), vocab_size) == expected


@pytest.mark.parametrize("place", [0, PIECE - 1, PIECE, 2 * PIECE + 5])
def test_the_first_id_outside_is_found_in_every_piece(place: int) -> None:
    ids = array("H", [50256]) * (2 * PIECE + 6)
    assert first_outside(memoryview(ids), 50257) is None
    ids[place] = 50257
    assert first_outside(memoryview(ids), 50257) == place


# ---- token ids as nanoGPT writes them


TEXT = "the cat sat on the mat, the other cat sat on the hat.\n" * 20


def write_ids(path: Path, ids: list[int]) -> None:
    path.write_bytes(b"".join(idx.to_bytes(2, "little") for idx in ids))


def token_folder(path: Path, tokenizer: Tokenizer, validation: bool = True) -> TrainingConfig:
    path.mkdir()
    save_tokenizer(tokenizer, path / "tokenizer")
    ids = tokenizer.encode(TEXT)
    cut = len(ids) * 9 // 10
    write_ids(path / "train.bin", ids[:cut] if validation else ids)
    if validation:
        write_ids(path / "val.bin", ids[cut:])
    return replace(
        PRESETS["debug"][1], corpus="text", data_file=str(path), steps=4, context_length=8, checkpoint_every=2
    )


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(validation=st.booleans(), seed=st.integers(0, 99))
def test_batches_of_a_token_folder_are_those_of_the_text(
    tmp_path_factory: pytest.TempPathFactory, validation: bool, seed: int
) -> None:
    place = tmp_path_factory.mktemp("ids")
    tokenizer = CharTokenizer.train(TEXT)
    config = replace(token_folder(place / "ids", tokenizer, validation), seed=seed)
    (place / "text.txt").write_text(TEXT)
    mapped, read = prepare_data(config), prepare_data(replace(config, data_file=str(place / "text.txt")))
    for _ in range(3):
        assert mapped.training_batches.next_batch() == read.training_batches.next_batch()
    assert mapped.validation_batches == read.validation_batches
    assert (mapped.num_tokens, mapped.opening, mapped.is_documents) == (
        read.num_tokens,
        read.opening,
        read.is_documents,
    )
    if not validation:
        assert token_folders.open_token_folder(place / "ids", tokenizer).tokenizer is tokenizer


def test_a_run_on_token_ids_resumes_and_knows_its_data(tmp_path: Path) -> None:
    config = token_folder(tmp_path / "ids", CharTokenizer.train(TEXT))
    whole = [
        event.loss
        for event in Trainer.start(config, str(tmp_path / "whole")).run()
        if isinstance(event, StepEvent)
    ]
    trainer = Trainer.start(config, str(tmp_path / "run"))
    for event in trainer.run():
        trainer.stop_requested = event.step == 2
    resumed = Trainer.resume(str(tmp_path / "run"))
    assert resumed.step == 2 and resumed.data.tokenizer.characters == trainer.data.tokenizer.characters
    assert [event.loss for event in resumed.run() if isinstance(event, StepEvent)] == whole[2:]
    write_ids(tmp_path / "ids" / "val.bin", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    with pytest.raises(ValueError, match="not the text that the run began with"):
        Trainer.resume(str(tmp_path / "run"))


def test_frequencies_of_a_long_stream_are_those_of_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = TokenStream(array("H", [0, 1, 1, 2] * 2_000))
    folder = token_folders.TokenFolder(stream, stream, CharTokenizer("abc"), "")
    assert folder.counts() == {0: 2_000, 1: 4_000, 2: 2_000}
    monkeypatch.setattr(token_folders, "SAMPLE", 640)
    assert sum(folder.counts().values()) == 640 and set(folder.counts()) == {0, 1, 2}


def test_bad_token_folders(tmp_path: Path) -> None:
    config = token_folder(tmp_path / "ids", CharTokenizer.train(TEXT))
    size = CharTokenizer.train(TEXT).vocab_size
    for content, message in {
        b"abc": r"train\.bin has 3 bytes",
        b"": r"train\.bin has 0 bytes",
        b"\1\0\xff\0": rf"train\.bin: token id 255 at position 1 does not fit vocab_size {size}",
        b"\1\0\2\0": "2 tokens, but a context of 8",
    }.items():
        (tmp_path / "ids" / "train.bin").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            prepare_data(config)
    (tmp_path / "ids" / "tokenizer").unlink()
    with pytest.raises(
        TokenizerError, match=r"no tokenizer in .*ids.*--tokenizer.*token ids need the one that made them"
    ):
        prepare_data(config)
    with pytest.raises(ValueError, match="absolute path"):
        replace(config, tokenizer="words")


def test_a_tokenizer_that_is_there_is_used_on_a_text(tmp_path: Path) -> None:
    trained = BPETokenizer()
    trained.train(TEXT, 270)
    save_tokenizer(trained, tmp_path / "t")
    (tmp_path / "texts").mkdir()
    for number in range(4):
        (tmp_path / "texts" / f"{number}.txt").write_text(TEXT)
    config = replace(
        PRESETS["debug"][1], corpus="text", data_file=str(tmp_path / "texts"), tokenizer=str(tmp_path / "t")
    )
    data = prepare_data(config)
    assert data.tokenizer.merges == trained.merges and data.tokenizer.special_tokens == {BOUNDARY: 270}
    assert data.num_tokens == 4 * len(trained.encode(TEXT)) + 4


@pytest.mark.skipif(not GPT2.is_dir(), reason="vocab.json and merges.txt of GPT-2 are not beside the project")
def test_ids_of_gpt2_need_only_its_own_files(tmp_path: Path) -> None:
    tokenizer = BPETokenizer.from_gpt2(GPT2 / "vocab.json", GPT2 / "merges.txt")
    ids = [*tokenizer.encode(2 * TEXT), tokenizer.special_tokens[BOUNDARY]]
    write_ids(tmp_path / "train.bin", ids)
    config = replace(PRESETS["debug"][1], corpus="text", data_file=str(tmp_path), tokenizer=str(GPT2))
    data = prepare_data(config)
    assert (
        data.tokenizer.vocab_size == 50257
        and data.tokenizer.vocab == tokenizer.vocab
        and data.opening == "\n"
    )
    assert (
        data.num_tokens == len(ids)
        and tokenizer.decode(data.training_batches.next_batch().inputs[:8]) in 2 * TEXT
    )
    write_ids(tmp_path / "train.bin", [*ids, 50257])
    with pytest.raises(
        ValueError, match=rf"token id 50257 at position {len(ids)} does not fit vocab_size 50257"
    ):
        prepare_data(config)


# ---- how wide an id is


def write_wide(path: Path, typecode: str, ids: list[int]) -> None:
    path.write_bytes(array(typecode, ids).tobytes())


def test_wide_ids_are_read_as_stated_and_refused_where_nothing_is_stated(tmp_path: Path) -> None:
    tokenizer = CharTokenizer.train(TEXT)
    config = token_folder(tmp_path / "ids", tokenizer, validation=False)
    ids = tokenizer.encode(TEXT)
    expected = list(token_folders.open_token_folder(tmp_path / "ids", tokenizer).training)
    for typecode in "IQ":  # of 4 and of 8 bytes
        write_wide(tmp_path / "ids" / "train.bin", typecode, ids)
        with pytest.raises(ValueError, match=r"train\.bin: every second id is 0.*read as uint16.*meta\.json"):
            prepare_data(config)
    for typecode, dtype in (("B", "uint8"), ("H", "uint16"), ("I", "uint32")):
        write_wide(tmp_path / "ids" / "train.bin", typecode, ids)
        (tmp_path / "ids" / "meta.json").write_text(f'{{"dtype": "{dtype}"}}')
        assert list(token_folders.open_token_folder(tmp_path / "ids", tokenizer).training) == expected
        assert prepare_data(config).ids_dtype == dtype


def test_a_vocabulary_that_uint16_cannot_number_is_read_as_uint32(tmp_path: Path) -> None:
    tokenizer = CharTokenizer(map(chr, range(0x10000, 0x10000 + 70_000)))
    ids = list(range(65_000, 70_000))
    write_wide(tmp_path / "train.bin", "I", ids)
    folder = token_folders.open_token_folder(tmp_path, tokenizer)
    assert [*folder.training, *folder.validation] == ids and folder.dtype == "uint32"
    (tmp_path / "meta.json").write_text('{"dtype": "uint16"}')
    with pytest.raises(ValueError, match=r"uint16 cannot number a vocabulary of 70,000 tokens"):
        token_folders.open_token_folder(tmp_path, tokenizer)
    (tmp_path / "meta.json").unlink()
    write_wide(tmp_path / "train.bin", "H", [7, 65_000, 9, 65_001])
    with pytest.raises(ValueError, match=r"does not fit vocab_size 70000; nothing states the dtype"):
        token_folders.open_token_folder(tmp_path, tokenizer)
    write_wide(tmp_path / "train.bin", "Q", ids)
    with pytest.raises(ValueError, match="every second id is 0"):
        token_folders.open_token_folder(tmp_path, tokenizer)


def test_ids_that_may_be_0_are_no_reason_to_refuse(tmp_path: Path) -> None:
    tokenizer = CharTokenizer("abc")
    for ids in ([0] * 8, [1, 0, 1, 0, 1, 0, 1], [1, 0, 2, 0, 1, 1]):
        write_wide(tmp_path / "train.bin", "H", ids)
        assert len(token_folders.open_token_folder(tmp_path, tokenizer).training)


def test_a_damaged_meta_json_and_a_lone_val_bin(tmp_path: Path) -> None:
    write_wide(tmp_path / "train.bin", "H", [0, 1, 2])
    for text in ('{"dtype": "int64"}', '{"dtype": 4}', "[]", "{", '{"dtype": ["uint16"]}'):
        (tmp_path / "meta.json").write_text(text)
        with pytest.raises(ValueError, match=r"meta\.json"):
            token_folders.open_token_folder(tmp_path, CharTokenizer("abc"))
    (tmp_path / "train.bin").rename(tmp_path / "val.bin")
    with pytest.raises(ValueError, match=r"val\.bin, but no train\.bin"):
        token_folders.is_token_folder(tmp_path)


# ---------------------------------------------------------------- numbered files


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_numbered_files_are_one_row(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Wherever the files end, a slice is that of the ids in one list."""
    place = tmp_path_factory.mktemp("numbered")
    ids = data.draw(st.lists(st.integers(0, 500), min_size=1, max_size=60))
    ends = data.draw(st.lists(st.integers(0, len(ids)), max_size=4))
    cuts = sorted({0, len(ids), *ends})
    paths = []
    for number, (start, stop) in enumerate(pairwise(cuts)):
        paths.append(place / f"train_{number:03}.bin")
        write_ids(paths[-1], ids[start:stop])
    stream = TokenStream.joined([TokenStream.open(path, "H") for path in paths], 501)
    assert len(stream) == len(ids) and list(stream) == ids
    start = data.draw(st.integers(-70, 70))
    stop = data.draw(st.integers(-70, 70))
    step = data.draw(st.sampled_from([1, 2, -1]))
    assert stream[start:stop:step].tolist() == ids[start:stop:step]
    view = stream.view(max(start, 0), max(stop, 0))
    assert list(view) == ids[max(start, 0) : max(stop, 0)]
    assert stream[len(ids) - 1] == ids[-1]
    with pytest.raises(IndexError):
        stream[len(ids)]


def test_a_run_on_numbered_files_is_that_on_one(tmp_path: Path) -> None:
    config = token_folder(tmp_path / "ids", CharTokenizer.train(TEXT))
    expected = prepare_data(config)
    batches = [expected.training_batches.next_batch() for _ in range(20)]
    whole = (tmp_path / "ids" / "train.bin").read_bytes()
    (tmp_path / "ids" / "train.bin").unlink()
    half = len(whole) // 4 * 2
    (tmp_path / "ids" / "train_000.bin").write_bytes(whole[:half])
    (tmp_path / "ids" / "train_001.bin").write_bytes(whole[half:])
    data = prepare_data(config)
    assert [data.training_batches.next_batch() for _ in range(20)] == batches
    assert data.validation_batches == expected.validation_batches
    assert data.num_tokens == expected.num_tokens
    assert data.sha256 == prepare_data(config).sha256
    (tmp_path / "ids" / "train_001.bin").write_bytes(whole[half + 2 :] + whole[half : half + 2])
    assert data.sha256 != prepare_data(config).sha256


def test_bad_numbered_files(tmp_path: Path) -> None:
    tokenizer = CharTokenizer("abc")
    for name in ("train_000.bin", "train_002.bin"):
        write_ids(tmp_path / name, [0, 1, 2] * 10)
    with pytest.raises(ValueError, match="of the train files number 1 is missing"):
        token_folders.is_token_folder(tmp_path)
    write_ids(tmp_path / "train_1.bin", [0, 1, 2])
    write_ids(tmp_path / "train_01.bin", [0, 1, 2])
    with pytest.raises(ValueError, match="train file number 1 twice"):
        token_folders.is_token_folder(tmp_path)
    (tmp_path / "train_01.bin").unlink()
    write_ids(tmp_path / "train_1.bin", [0, 1, 3])
    training = token_folders.open_token_folder(tmp_path, tokenizer).training
    with pytest.raises(ValueError, match=r"train_1\.bin: token id 3 at position 2 does not fit vocab_size 3"):
        training[25:35]
    write_wide(tmp_path / "train_000.bin", "I", [1, 2, 1, 2])
    with pytest.raises(ValueError, match="every second id is 0"):
        token_folders.open_token_folder(tmp_path, tokenizer)
    for path in tmp_path.glob("train*"):
        path.unlink()
    write_ids(tmp_path / "val_000.bin", [0, 1, 2])
    with pytest.raises(ValueError, match=r"has a val_000\.bin, but no train\.bin"):
        token_folders.is_token_folder(tmp_path)


def test_gigabytes_of_numbered_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sparse files of 6 GiB, of which a run with two shards reads less than 8 MB."""
    tokenizer = CharTokenizer("abc")
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    for number in range(3):
        with open(tmp_path / f"train_{number:03}.bin", "wb") as file:
            file.truncate(2 << 30)
    write_ids(tmp_path / "val_000.bin", [0, 1, 2] * 100)
    read = 0
    read_bytes = FileIds._read_bytes

    def counted(self: FileIds, offset: int, size: int) -> bytes:
        nonlocal read
        read += size
        return read_bytes(self, offset, size)

    monkeypatch.setattr(FileIds, "_read_bytes", counted)
    config = replace(
        PRESETS["debug"][1], corpus="text", data_file=str(tmp_path), steps=2, context_length=8, eval_batches=1
    )
    data = prepare_data(config)
    assert data.num_tokens == 3 * (1 << 30) + 300
    before = read
    shards = data.training_batches.next_shards(2, [1])
    assert read - before == 2 * 9 * 2  # two rows of nine ids of two bytes: this rank's part
    assert shards.num_targets == 4 * 8
    assert read < 8_000_000
