"""The validation loss: the mean over all targets, whoever has computed which batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import SMALLEST

from tinygpt_core.tensor import no_grad
from tinygpt_core.training import Trainer

CONFIG = replace(SMALLEST, steps=1, batch_size=3, eval_batches=5)


class Rank:
    """One of two processes, which notes what it computes and is given what both have."""

    size = 2

    def __init__(self, rank: int, others: list[float]) -> None:
        self.rank = rank
        self.others = others
        self.own: list[float] = []

    def all_reduce(self, values: list[float]) -> list[float]:
        self.own = list(values)
        return [a + b for a, b in zip(values, self.others or [0.0] * len(values), strict=True)]


def test_ranks_compute_every_batch_once_and_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer.start(CONFIG, str(tmp_path / "run"))
    batches = trainer.data.validation_batches
    with no_grad():
        losses = [trainer.total_loss(batch).item() for batch in batches]
    targets = sum(batch.num_targets for batch in batches)
    alone = trainer.validate()
    assert len(losses) == 5 and alone == pytest.approx(sum(losses) / targets, rel=1e-12)
    first, second = Rank(0, []), Rank(1, [])
    for rank in (first, second):
        monkeypatch.setattr(trainer, "communicator", rank)
        trainer.validate()
    assert first.own == [losses[0], 0.0, losses[2], 0.0, losses[4]]
    assert second.own == [0.0, losses[1], 0.0, losses[3], 0.0]
    for rank, other in ((0, second), (1, first)):
        monkeypatch.setattr(trainer, "communicator", Rank(rank, other.own))
        assert trainer.validate() == alone
