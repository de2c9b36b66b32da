"""Value embeddings: which layer has which table, what they add, and what cannot hold them.

The logits, the cache and the gradients are laws in spec/test_decoder_laws.py; a run that goes on to the bit
is in test_recipe.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tinygpt_core import random
from tinygpt_core.buffer import Buffer
from tinygpt_core.dtype import DType
from tinygpt_core.formats import FormatError, save_pretrained
from tinygpt_core.formats.families import why_not_elsewhere
from tinygpt_core.nn import GPT, CausalSelfAttention, GPTConfig
from tinygpt_core.nn.sizes import require_room
from tinygpt_core.optimizers import Muon
from tinygpt_core.shape_errors import ShapeError
from tinygpt_core.tensor import Tensor, no_grad
from tinygpt_core.training import TrainingConfig
from tinygpt_core.training.memory import least_memory
from tinygpt_core.training.settings import SettingError

CONFIG = GPTConfig(11, 8, 6, 2, 8, positions="rotary", value_embeddings=2)
IDS = [[1, 9, 3, 3, 0, 10]]


def ids_of(rows: list[list[int]]) -> Tensor:
    return Tensor(Buffer(rows, DType.int32))


@pytest.mark.parametrize(
    ("layers", "tables", "expected"),
    [
        (6, 2, [0, 1, None, None, 0, 1]),
        (8, 3, [0, 1, 2, None, None, 0, 1, 2]),
        (4, 2, [0, 1, 0, 1]),
        (3, 2, [0, 1, 1]),
        (3, 3, [0, 1, 2]),
        (2, 0, [None, None]),
        (1, 1, [0]),
    ],
)
def test_the_first_layers_and_the_last_share_tables(
    layers: int, tables: int, expected: list[int | None]
) -> None:
    config = replace(CONFIG, num_layers=layers, value_embeddings=tables)
    assert [config.value_table(layer) for layer in range(layers)] == expected
    names = [name for name, _ in GPT(config).named_parameters()]
    assert sum("value_embedding_layers" in name for name in names) == tables
    with_mix = [
        f"transformer_blocks.{i}.attn.value_mix" for i, table in enumerate(expected) if table is not None
    ]
    assert [name for name in names if "value_mix" in name] == with_mix


@pytest.mark.parametrize("key_value_heads", [1, 2])
def test_a_mix_of_one_and_zero_leaves_the_values_as_they_are(key_value_heads: int) -> None:
    with random.use_generator(random.Generator(5)):
        model = GPT(replace(CONFIG, num_key_value_heads=key_value_heads))
    plain = GPT(replace(CONFIG, num_key_value_heads=key_value_heads, value_embeddings=0))
    plain.load_weights(model.named_parameters(), strict=False)
    before = model(ids_of(IDS)).to_python()
    with no_grad():
        for block in model.transformer_blocks:
            if "value_mix" in block.attn:
                block.attn.value_mix.assign(Tensor([1.0, 0.0]))
    assert model(ids_of(IDS)).to_python() == plain(ids_of(IDS)).to_python() != before


def test_a_model_without_draws_the_weights_that_it_drew_before() -> None:
    assert "value_embeddings" not in replace(CONFIG, value_embeddings=0).to_dict()
    assert GPTConfig.from_dict(CONFIG.to_dict()) == CONFIG
    assert TrainingConfig.from_dict(TrainingConfig(value_embeddings=1).to_dict()).value_embeddings == 1
    assert "value_embeddings" not in TrainingConfig().to_dict()


def test_muon_leaves_the_tables_to_adamw() -> None:
    model = GPT(CONFIG)
    optimizer = Muon(model, 0.01)
    kinds = {name: optimizer.is_for(name, tensor) for name, tensor in model.named_parameters()}
    assert not any(kinds[name] for name in kinds if "value_embedding" in name or "value_mix" in name)
    assert any(kinds.values())


def test_the_memory_of_a_run_counts_them() -> None:
    config = TrainingConfig(num_layers=4)
    for tables, optimizer, numbers in ((2, "adamw", 4), (4, "muon", 4)):
        changed = replace(config, optimizer=optimizer)
        more = least_memory(replace(changed, value_embeddings=tables), 100) - least_memory(changed, 100)
        assert more == tables * 100 * config.embedding_dim * numbers * 4


@pytest.mark.parametrize(
    ("value", "problem"),
    [(-1, ValueError), (7, ValueError), (1.0, TypeError), (True, TypeError), (None, TypeError)],
)
def test_numbers_of_tables_that_are_none_are_refused(value: object, problem: type[Exception]) -> None:
    with pytest.raises(problem, match="value_embeddings must be"):
        replace(CONFIG, value_embeddings=value)  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"value_embeddings \(2\) must be at most num_layers \(1\)"):
        TrainingConfig(value_embeddings=2)
    with pytest.raises(ValueError, match=r"value_embeddings \* vocab_size 1,200 does not fit"):
        require_room(replace(CONFIG, vocab_size=600), [(100, 1)] * 7)
    assert "value_embeddings is 2, not 0" in why_not_elsewhere(CONFIG)
    with pytest.raises((FormatError, ValueError), match="value_embeddings is 2, not 0"):
        save_pretrained(GPT(CONFIG), str(tmp_path / "llama"), "llama")


def test_a_layer_is_called_as_it_was_made() -> None:
    x, embedding = Tensor.ones((1, 3, 8)), Tensor.ones((1, 3, 4))
    layer = CausalSelfAttention(8, 4, 2, num_key_value_heads=1, value_embedding=True)
    assert layer(x, value_embedding=embedding).shape == (1, 3, 8)
    assert "value_embedding=True" in repr(layer)
    with pytest.raises(TypeError, match="was made with value_embedding"):
        layer(x)
    with pytest.raises(TypeError, match="was made without value_embedding"):
        CausalSelfAttention(8, 4, 2)(x, value_embedding=embedding)
    for shape in ((1, 3, 8), (1, 2, 4), (3, 4), (1, 4, 3)):
        with pytest.raises(ShapeError, match="value_embedding"):
            layer(x, value_embedding=Tensor.ones(shape))
