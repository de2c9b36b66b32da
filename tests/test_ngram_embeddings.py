"""A GPT with tables of hashed n-grams: what it computes, that a cache changes nothing, and runs of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tinygpt_core import backends, random
from tinygpt_core.buffer import Buffer
from tinygpt_core.dtype import DType
from tinygpt_core.formats import FormatError, save_pretrained
from tinygpt_core.nn import GPT, GPTConfig, NgramEmbedding
from tinygpt_core.nn.embedding import SCALE
from tinygpt_core.tensor import Tensor, no_grad
from tinygpt_core.training import Trainer, TrainingConfig, load_model
from tinygpt_core.training.presets import PRESETS

BACKENDS = ["python"] if backends.why_not("numpy") else ["python", "numpy", "cuda-on-cpu"]
CONFIG = GPTConfig(11, 8, 1, 2, 8, ngram_tables=(32, 64, 128), positions="rotary")


def ids_of(rows: list[list[int]]) -> Tensor:
    return Tensor(Buffer(rows, DType.int32))


def filled(model: GPT) -> GPT:
    """The model with numbers in its tables, which begin at zero."""
    with no_grad():
        for table in model.ngram_embedding_layer.tables:
            table.embeddings.assign(Tensor.normal(table.embeddings.shape, 0.0, 0.05))
    return model


def assert_a_cache_changes_nothing(model: GPT, rows: list[list[int]], split: tuple[int, ...]) -> None:
    """Of two rows, whose positions come in parts of the lengths of `split`, which look at those before."""
    whole = model(ids_of(rows)).to_python()
    cache = model.new_cache(2)
    for _ in range(2):  # a cache that was reset forgets the tokens, too
        start = 0
        for length in split:
            part = model(ids_of([row[start : start + length] for row in rows]), cache).to_python()
            for row in range(2):
                for place in range(length):
                    expected = whole[row][start + place]
                    assert part[row][place] == pytest.approx(expected, rel=1e-5, abs=1e-6)
            start += length
        cache.reset()


def test_the_tables_start_at_zero_and_draw_nothing() -> None:
    models = []
    for config in (CONFIG, replace(CONFIG, ngram_tables=())):
        with random.use_generator(random.Generator(7)):
            models.append(GPT(config))
    ids = ids_of([[1, 2, 3, 4]])
    assert models[0](ids).to_python() == models[1](ids).to_python()
    with_tables = dict(models[0].named_parameters())
    for name, tensor in models[1].named_parameters():
        assert with_tables[name].to_python() == tensor.to_python()


def test_a_row_depends_on_its_n_gram_alone(usable: str) -> None:
    """y[t] is the scaled sum of the rows of the last two, three and four tokens, wherever they stand."""
    with backends.use(usable), random.use_generator(random.Generator(1)):
        layer = NgramEmbedding((32, 64, 128), 4)
        with no_grad():
            for table in layer.tables:
                table.embeddings.assign(Tensor.normal(table.embeddings.shape))
        found = layer(ids_of([[9, 8, 1, 2, 3, 4], [7, 7, 1, 2, 3, 4]])).to_python()
        assert found[0][5] == found[1][5] and found[0][4] != found[1][4]
        alone = layer(ids_of([[1, 2, 3, 4]])).to_python()
        assert alone[0][3] == found[0][5]
        doubled = NgramEmbedding((32,), 4)
        doubled.tables[0].embeddings.assign(Tensor.ones((32, 4)))
        assert doubled(ids_of([[5]])).to_python() == [[[SCALE] * 4]]


@pytest.mark.parametrize("split", [(1, 1, 1, 1, 1, 1), (2, 4), (5, 1), (3, 1, 2)])
def test_a_cache_changes_nothing(usable: str, split: tuple[int, ...]) -> None:
    with backends.use(usable), random.use_generator(random.Generator(2)):
        model = filled(GPT(CONFIG))
        assert_a_cache_changes_nothing(model, [[1, 2, 3, 2, 3, 4], [5, 5, 5, 1, 2, 3]], split)


def test_backends_agree() -> None:
    found = []
    for name in BACKENDS:
        if backends.why_not(name):
            continue
        with backends.use(name), random.use_generator(random.Generator(3)):
            found.append(filled(GPT(CONFIG))(ids_of([[1, 9, 3, 3, 0, 10]])).to_python()[0])
    if len(found) < 2:
        pytest.skip("one backend can run here")
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert one == pytest.approx(two, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        (3, TypeError),
        ("many", TypeError),
        ((0,), ValueError),
        ((4, -1), ValueError),
        ((2**31,), ValueError),
        ((4.0,), TypeError),
    ],
)
def test_tables_that_are_none_are_refused(tables: object, problem: type[Exception]) -> None:
    with pytest.raises(problem, match="ngram_tables"):
        GPTConfig(11, 8, 1, 2, 8, ngram_tables=tables)  # type: ignore[arg-type]


def test_configs_survive_json_and_earlier_ones_are_as_they_were() -> None:
    assert GPTConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG
    assert "ngram_tables" not in replace(CONFIG, ngram_tables=()).to_dict()
    settings = TrainingConfig(ngram_tables=(8, 16))
    assert TrainingConfig.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert "ngram_tables" not in TrainingConfig().to_dict()


def test_no_other_library_has_them(tmp_path: Path) -> None:
    config = replace(CONFIG, positions="learned", tied_head=True)
    with pytest.raises((FormatError, ValueError), match="ngram_tables"):
        save_pretrained(GPT(config), str(tmp_path / "gpt2"), "gpt2")


def test_a_run_that_was_stopped_goes_on_to_the_bit(usable: str, tmp_path: Path) -> None:
    config = replace(
        PRESETS["debug"].config,
        backend=usable,
        ngram_tables=(64, 128),
        weight_decay=0.1,
        steps=6,
        embedding_dim=4,
        batch_size=2,
        checkpoint_every=3,
        eval_every=0,
    )

    def losses(trainer: Trainer, stop: int) -> list[float]:
        found = []
        for event in trainer.run():
            if hasattr(event, "loss"):
                found.append(event.loss)
                trainer.stop_requested = event.step == stop
        return found

    whole = Trainer.start(config, str(tmp_path / "a"))
    expected = losses(whole, 6)
    begun = losses(Trainer.start(config, str(tmp_path / "b")), 3)
    resumed = Trainer.resume(str(tmp_path / "b"))
    assert begun + losses(resumed, 6) == expected
    for (name, one), (_, other) in zip(
        whole.model.named_parameters(), resumed.model.named_parameters(), strict=True
    ):
        assert one.to_python() == other.to_python(), name
    assert all(table.embeddings.sparse_grad for table in resumed.model.ngram_embedding_layer.tables)
    model, _, _ = load_model(str(tmp_path / "b"))
    assert model.config.ngram_tables == (64, 128)
