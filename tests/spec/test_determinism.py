"""The same computation twice gives the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt_core import operations
from tinygpt_core.buffer import Buffer
from tinygpt_core.random import Generator
from tinygpt_core.tensor import Tensor, apply_op

from .strategies import read
from .table import ROWS, Row
from .templates import buffers_of, draw_dtypes, draw_operands


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in ROWS if row.on_buffers])
@given(data=st.data())
def test_every_row_gives_the_same_bits_twice(backend: type[Buffer], row: Row, data: st.DataObject) -> None:
    case = data.draw(row.cases())
    made = draw_operands(data.draw, backend, row, case, draw_dtypes(data.draw, backend, row, case))
    first, second = (read(row.on_buffers(*buffers_of(made), **case.options)) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def _train(backend: type[Buffer]) -> list[bytes]:
    """A few steps of a small network with everything in it that could be done in another order."""
    generator = Generator(1)
    table = Tensor(backend.normal((7, 8), generator=generator), requires_grad=True)
    weights, gain = (
        Tensor(backend.normal((8, 7), generator=generator), requires_grad=True),
        Tensor(backend.ones((8,)), requires_grad=True),
    )
    ids = Tensor(backend([[0, 3, 3, 6], [3, 1, 0, 0]]))
    result = []
    for _ in range(3):
        x = apply_op(operations.Embedding, table, ids)
        x = apply_op(operations.Dropout, x, probability=0.2, key=generator.reserve(64))
        x = apply_op(operations.LayerNorm, x, gain, None)
        heads = x.reshape((2, 4, 2, 4)).transpose(1, 2)
        x = x + apply_op(operations.Attention, heads, heads, heads).transpose(1, 2).reshape((2, 4, 8))
        logits = apply_op(operations.Linear, x.gelu(), weights, None)
        loss = apply_op(operations.CrossEntropy, logits, ids).mean()
        loss.backward()
        result.append(read(loss.buffer).tobytes())
        parameters: list[Any] = [table, weights, gain]
        for parameter in parameters:
            parameter.buffer.assign(parameter.buffer - parameter.grad.buffer * 0.1)
            parameter.zero_grad()
            result.append(read(parameter.buffer).tobytes())
    return result


def test_training_gives_the_same_bits_twice(backend: type[Buffer]) -> None:
    first = _train(backend)
    assert first == _train(backend)
    losses = [np.frombuffer(bits, np.float32)[0] for bits in first[::4]]
    assert losses[-1] < losses[0], "the loss did not fall, so this law is about nothing"
