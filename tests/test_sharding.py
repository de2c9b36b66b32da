"""The number of processes changes no bit: laws of the tree, of the row of gradients, and of whole runs with
several ranks in one process.
"""

from __future__ import annotations

import math
import random as python_random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi_runs import log_of
from rank_threads import run_ranks

from tinygpt_core import Buffer, DType, backends
from tinygpt_core.dataset.batches import DocumentBatches, StreamBatches, shard_rows
from tinygpt_core.random import Generator
from tinygpt_core.training import PRESETS, SettingError, Trainer, TrainingConfig
from tinygpt_core.training.communicator import (
    ONE_PROCESS,
    CommunicationError,
    Communicator,
    connect,
    launched,
    require_agreement,
)
from tinygpt_core.training.origin import Origin
from tinygpt_core.training.sharding import (
    ShardedStep,
    halves,
    nodes_within,
    owners,
    plan_buckets,
    shard_generator,
    shards_of,
    tree_sum,
)

USABLE = [status.name for status in backends.available() if status.available]
BACKENDS = [name for name in ("python", "numpy") if name in USABLE]

# ---------------------------------------------------------------- the tree


@given(st.integers(1, 70), st.data())
def test_the_blocks_of_ranks_are_all_shards_once(shards: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, shards))
    blocks = [shards_of(rank, size, shards) for rank in range(size)]
    assert [number for block in blocks for number in block] == list(range(shards))
    lengths = {len(block) for block in blocks}
    assert max(lengths) - min(lengths) <= 1 and 0 not in lengths


@given(st.integers(2, 200))
def test_halves_are_of_a_power_of_two_and_the_rest(count: int) -> None:
    (start, middle), (again, stop) = halves((7, 7 + count))
    assert (start, middle, stop) == (7, again, 7 + count)
    assert (middle - start).bit_count() == 1
    assert stop - middle <= middle - start < count


@settings(max_examples=200)
@given(st.integers(1, 40), st.data())
def test_a_sum_is_the_same_however_the_shards_are_divided(shards: int, data: st.DataObject) -> None:
    """Each rank reduces its block to the nodes, and the tree is put together again here."""
    size = data.draw(st.integers(1, shards))
    draw = python_random.Random(data.draw(st.integers(0, 2**32)))
    numbers = [draw.uniform(-1, 1) * 10 ** draw.uniform(-8, 8) for _ in range(shards)]
    known = {}
    for rank in range(size):
        for start, stop in nodes_within(shards_of(rank, size, shards), shards):
            known[start, stop] = tree_sum(numbers[start:stop])

    def total(node: tuple[int, int]) -> float:
        if node in known:
            return known[node]
        first, second = halves(node)
        return total(first) + total(second)

    assert total((0, shards)) == tree_sum(numbers)
    assert math.isclose(tree_sum(numbers), math.fsum(numbers), rel_tol=1e-9, abs_tol=1e-6)


def test_the_tree_of_four_and_of_six_shards() -> None:
    a, b, c, d, e, f = (0.1, 1e16, -1e16, 3.0, 1e-3, 7.5)
    assert tree_sum([a, b, c, d]) == (a + b) + (c + d)
    assert tree_sum([a, b, c, d, e, f]) == ((a + b) + (c + d)) + (e + f)


@given(st.integers(1, 9), st.integers(1, 40))
def test_rows_of_a_batch_are_divided_evenly(shards: int, rows: int) -> None:
    if rows < shards:
        with pytest.raises(ValueError, match=f"batch of {rows} rows cannot be cut into {shards} shards"):
            shard_rows(rows, shards, 0)
        return
    cut = [shard_rows(rows, shards, number) for number in range(shards)]
    assert [row for each in cut for row in each] == list(range(rows))
    assert {len(each) for each in cut} <= {rows // shards, rows // shards + 1}


# ---------------------------------------------------------------- the row of gradients


@given(
    st.lists(st.integers(0, 500), min_size=1, max_size=12),
    st.integers(1, 5),
    st.booleans(),
    st.integers(1, 4000),
)
def test_buckets_hold_every_parameter_once_and_parts_their_owners(
    sizes: list[int], ranks: int, divided: bool, bucket_bytes: int
) -> None:
    parameters = [Buffer.zeros((size,), DType.float64 if size % 7 == 3 else DType.float32) for size in sizes]
    owned_by = owners(sizes, ranks) if divided else None
    buckets = plan_buckets(parameters, ranks, owned_by, bucket_bytes)
    seen: list[int] = []
    for bucket in buckets:
        assert len(bucket.bounds) == ranks + 1
        assert list(bucket.bounds) == sorted(bucket.bounds) and bucket.bounds[0] == 0
        end = 0
        for number, start, stop in bucket.places:
            assert parameters[number].dtype is bucket.dtype
            assert stop - start == sizes[number] and start >= end and stop <= bucket.bounds[-1]
            end = stop
            seen.append(number)
            if owned_by is not None and stop > start:
                owner = owned_by[number]
                assert bucket.bounds[owner] <= start and stop <= bucket.bounds[owner + 1]
    assert sorted(seen) == list(range(len(sizes)))
    assert divided or seen == list(reversed(range(len(sizes))))


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30), st.integers(1, 8))
def test_owners_have_about_the_same(sizes: list[int], ranks: int) -> None:
    loads = [0] * ranks
    for size, owner in zip(sizes, owners(sizes, ranks), strict=True):
        loads[owner] += size
    assert max(loads) <= sum(sizes) / ranks + max(sizes)


def test_the_dropout_of_a_shard_depends_on_its_number_and_the_step() -> None:
    keys = {shard_generator(5, number, step).reserve(4) for number in range(4) for step in range(4)}
    assert len(keys) == 16
    assert shard_generator(5, 2, 3).reserve(4) == shard_generator(5, 2, 3).reserve(4)


# ---------------------------------------------------------------- batches


def test_shards_of_a_batch_of_windows_are_the_batch() -> None:
    def batches() -> StreamBatches:
        return StreamBatches(range(1000), 8, 7, Generator(3))

    whole, cut = batches(), batches()
    for _ in range(3):
        batch = whole.next_batch()
        shards = cut.next_shards(3, range(3))
        assert shards.num_targets == batch.num_targets
        assert [list(shards.batches[k].shape) for k in range(3)] == [[2, 8], [2, 8], [3, 8]]
        joined = [idx for k in range(3) for idx in shards.batches[k].inputs]
        assert joined == list(batch.inputs)
        assert whole.get_state() == cut.get_state()


def test_shards_of_a_batch_of_documents_are_the_batch_without_padding() -> None:
    draw = python_random.Random(1)
    documents = [[draw.randrange(9) for _ in range(draw.randrange(14))] for _ in range(23)]

    def batches() -> DocumentBatches:
        return DocumentBatches(documents, 8, 5, Generator(3), boundary_id=9)

    whole, cut = batches(), batches()
    for _ in range(12):
        batch = whole.next_batch()
        shards = cut.next_shards(2, [0, 1])
        assert shards.num_targets == batch.num_targets
        assert sum(shards.batches[k].num_targets for k in range(2)) == batch.num_targets
        rows = [batch.targets[i : i + batch.shape[1]] for i in range(0, len(batch.targets), batch.shape[1])]
        found = []
        for k in range(2):
            part = shards.batches[k]
            found += [part.targets[i : i + part.shape[1]] for i in range(0, len(part.targets), part.shape[1])]
        strip = [[idx for idx in row if idx >= 0] for row in rows]
        assert [[idx for idx in row if idx >= 0] for row in found] == strip
        assert cut.next_shards(2, [1]).batches.keys() == {1}
        whole.next_batch()
        assert whole.get_state() == cut.get_state()


# ---------------------------------------------------------------- whole runs, with threads for ranks

SMALL = replace(
    PRESETS["debug"].config,
    steps=4,
    batch_size=6,
    accumulation=2,
    dropout=0.2,
    gradient_clip=0.4,
    weight_decay=0.1,
    eval_every=2,
    eval_batches=3,
    checkpoint_every=2,
    context_length=8,
)


def _run(directory: Path, ranks: int, config: TrainingConfig | None, **options: Any) -> list[Trainer]:
    """Trains with several ranks; without a config the run that is there goes on, with these changes."""

    def work(communicator: Communicator) -> Trainer:
        if config is not None:
            trainer = Trainer.start(config, str(directory), communicator=communicator, **options)
        else:
            trainer = Trainer.resume(str(directory), communicator=communicator, **options)
        for _ in trainer.run():
            pass
        return trainer

    if ranks == 1:
        return [work(ONE_PROCESS)]
    return run_ranks(ranks, work)


def _same(first: Path, second: Path) -> None:
    assert log_of(first) == log_of(second)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(("ranks", "shard_optimizer"), [(2, False), (4, False), (3, True), (2, True)])
def test_the_number_of_ranks_changes_no_bit(
    tmp_path: Path, name: str, ranks: int, shard_optimizer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinygpt_core.training.sharding.BUCKET_BYTES", 1500)
    config = replace(SMALL, backend=name, shards=4)
    _run(tmp_path / "one", 1, config)
    trainers = _run(tmp_path / "many", ranks, config, shard_optimizer=shard_optimizer)
    _same(tmp_path / "one", tmp_path / "many")
    # And every rank has the model, not the first alone
    weights = [[p.to_python() for _, p in trainer.model.named_parameters()] for trainer in trainers]
    assert all(each == weights[0] for each in weights)


@pytest.mark.parametrize("shard_optimizer", [False, True])
def test_muon_and_averages_are_the_same_for_many_ranks(tmp_path: Path, shard_optimizer: bool) -> None:
    config = replace(SMALL, backend="python", shards=2, optimizer="muon", ema_decay=0.5)
    _run(tmp_path / "one", 1, config)
    _run(tmp_path / "two", 2, config, shard_optimizer=shard_optimizer)
    _same(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("shard_optimizer", [False, True])
def test_experts_are_the_same_for_many_ranks(tmp_path: Path, name: str, shard_optimizer: bool) -> None:
    """Also where a shard sends no token to one of them, as one of two rows does here."""
    config = replace(
        SMALL,
        backend=name,
        shards=4,
        num_experts=8,
        experts_per_token=1,
        balance_loss=0.1,
        router_z_loss=1e-3,
    )
    _run(tmp_path / "one", 1, config)
    _run(tmp_path / "three", 3, config, shard_optimizer=shard_optimizer)
    _same(tmp_path / "one", tmp_path / "three")


def test_many_ranks_keep_the_best_end_early_and_write_as_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = Trainer.validate  # whose course nobody can choose: here it is best after step 4
    monkeypatch.setattr(Trainer, "validate", lambda self: validate(self) + 10.0 * abs(self.step - 4))
    now_and_then = {"keep_best": True, "patience": 1, "sample_every": 3, "prompt": "ge"}
    config = replace(SMALL, backend="python", shards=2, steps=8, **now_and_then)
    _run(tmp_path / "one", 1, config)
    trainers = _run(tmp_path / "two", 2, config, shard_optimizer=True)
    assert all(trainer.has_lost_patience and trainer.step == 6 for trainer in trainers)
    assert [line["step"] for line in log_of(tmp_path / "two") if "sample" in line] == [3, 6]
    _same(tmp_path / "one", tmp_path / "two")
    for file in ("model.safetensors", "optimizer.safetensors", "state.json"):
        best = [(tmp_path / run / "best" / file).read_bytes() for run in ("one", "two")]
        assert best[0] == best[1]


def test_many_ranks_begin_with_a_model_as_one_does(tmp_path: Path) -> None:
    first = _run(tmp_path / "first", 1, replace(SMALL, backend="python", steps=1))[0]
    origin = Origin(str(tmp_path / "first"), str(tmp_path / "first"), first.model, first.data.tokenizer)
    config = origin.settings(replace(SMALL, backend="python", shards=2, steps=2, seed=7), ())
    _run(tmp_path / "one", 1, config, origin=origin)
    _run(tmp_path / "two", 2, config, origin=origin)
    _same(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("name", BACKENDS)
def test_a_run_of_four_goes_on_with_one_and_with_two(tmp_path: Path, name: str) -> None:
    whole = replace(SMALL, backend=name, shards=4)
    _run(tmp_path / "whole", 4, whole)
    half = replace(whole, steps=2, decay_steps=4)
    for ranks, shard_optimizer in ((1, False), (2, True)):
        directory = tmp_path / f"by-{ranks}"
        _run(directory, 4, half, shard_optimizer=True)
        _run(directory, ranks, None, steps=4, shard_optimizer=shard_optimizer)
        losses = [line["loss"] for line in log_of(directory) if "loss" in line]
        assert losses == [line["loss"] for line in log_of(tmp_path / "whole") if "loss" in line]
        for file in ("model.safetensors", "optimizer.safetensors"):
            assert (directory / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_more_ranks_than_shards_are_refused(tmp_path: Path) -> None:
    _run(tmp_path / "run", 2, replace(SMALL, steps=1, shards=2))
    with pytest.raises(CommunicationError, match="3 processes cannot share 2 shards"):
        _run(tmp_path / "run", 3, None, steps=2)


def test_more_shards_than_sequences_are_refused() -> None:
    with pytest.raises(SettingError, match=r"shards \(9\) must be at most batch_size \(8\)"):
        TrainingConfig(shards=9)


def test_one_shard_is_no_setting_of_earlier_versions() -> None:
    assert "shards" not in TrainingConfig().to_dict()
    assert TrainingConfig.from_dict(TrainingConfig(shards=2).to_dict()).shards == 2


def test_shards_give_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    """Up to rounding, against the textbook's step, which knows no shards."""
    config = replace(SMALL, dropout=0.0, steps=3)
    _run(tmp_path / "whole", 1, config)
    _run(tmp_path / "cut", 1, replace(config, shards=3))
    for whole, cut in zip(log_of(tmp_path / "whole"), log_of(tmp_path / "cut"), strict=True):
        for name in ("loss", "gradient_norm", "val_loss"):
            if name in whole:
                assert math.isclose(whole[name], cut[name], rel_tol=2e-5), name
        assert whole.get("tokens") == cut.get("tokens")


def test_a_divided_optimizer_remembers_a_part(tmp_path: Path) -> None:
    config = replace(SMALL, steps=1, shards=2)
    sizes = []
    for shard_optimizer in (False, True):
        trainers = _run(tmp_path / str(shard_optimizer), 2, config, shard_optimizer=shard_optimizer)
        sizes.append(
            [
                sum(
                    value.buffer.numel
                    for slots in trainer.optimizer.state.values()
                    for value in slots.values()
                )
                for trainer in trainers
            ]
        )
    whole, parts = sizes
    assert sum(parts) == whole[0]
    assert max(parts) < 0.6 * whole[0]


def test_gradients_travel_while_backward_goes_on(tmp_path: Path) -> None:
    """The first bucket is sent before the last gradient is there."""
    config = replace(SMALL, steps=1, accumulation=1, shards=2)
    events: list[str] = []

    def work(communicator: Communicator) -> None:
        trainer = Trainer.start(config, str(tmp_path / "run"), communicator=communicator)
        update = trainer.update
        assert isinstance(update, ShardedStep)
        if communicator.is_first:
            first = update._copy_gradient
            send = update.communicator.exchange

            def copy(number: int, row: int) -> None:
                events.append("gradient")
                first(number, row)

            def exchange(*arguments: Any) -> Any:
                events.append("exchange")
                return send(*arguments)

            update._copy_gradient = copy  # type: ignore[method-assign]
            communicator.exchange = exchange  # type: ignore[method-assign]
        trainer.train_step()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinygpt_core.training.sharding.BUCKET_BYTES", 1500)
        run_ranks(2, work)
    assert events.count("exchange") > 3
    assert events.index("exchange") < len(events) - 1 - events[::-1].index("gradient")


def test_a_stop_on_one_rank_stops_all_after_the_same_step(tmp_path: Path) -> None:
    config = replace(SMALL, steps=50, eval_every=0, checkpoint_every=0, shards=3)

    def work(communicator: Communicator) -> int:
        trainer = Trainer.start(config, str(tmp_path / "run"), communicator=communicator)
        for _ in trainer.run():
            if communicator.rank == 2 and trainer.step == 2:
                trainer.stop_requested = True
        return trainer.saved_step

    assert run_ranks(3, work) == [2, 2, 2]


# ---------------------------------------------------------------- agreement, and the base class


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 5}, "rank 1 of 3 .*its setting seed is 5, theirs is 1337"),
        ({"learning_rate": 0.5}, "rank 1 of 3 .*its setting learning_rate is 0.5"),
        ({"corpus": "docs"}, "rank 1 of 3 .*its setting corpus is docs"),
    ],
)
def test_a_rank_with_other_settings_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    config = replace(SMALL, shards=3)

    def work(communicator: Communicator) -> None:
        own = replace(config, **change) if communicator.rank == 1 else config
        Trainer.start(own, str(tmp_path / "run"), communicator=communicator)

    with pytest.raises(CommunicationError, match=message):
        run_ranks(3, work)
    assert not (tmp_path / "run").exists()


def test_of_facts_the_one_that_differs_is_named_and_the_first_rank_can_be_wrong() -> None:
    def work(communicator: Communicator) -> str:
        version = "3.12" if communicator.rank == 0 else "3.11"
        with pytest.raises(CommunicationError) as raised:
            require_agreement(communicator, {"version of": {"Python": version}, "step": 3})
        return str(raised.value)

    said = run_ranks(3, work)
    assert len(set(said)) == 1
    assert said[0].startswith("rank 0 of 3 (on here) differs from the others: its version of Python is 3.12")


def test_what_every_communicator_has() -> None:
    def work(communicator: Communicator) -> list[Any]:
        rank = communicator.rank
        return [
            communicator.gather(b"x" * rank),
            communicator.broadcast(b"from %d" % rank),
            communicator.all_reduce([0.1 * rank, 1e16 if rank == 1 else 1.0, -1e16 if rank == 2 else 0.0]),
            communicator.any(rank == 2),
            communicator.any(False),
            communicator.describe(),
        ]

    expected = [
        [b"", b"x", b"xx"],
        b"from 0",
        [math.fsum([0.0, 0.1, 0.2]), 1e16 + 2.0, -1e16],
        True,
        False,
        "3 (threads): 3 on here",
    ]
    assert run_ranks(3, work) == [expected] * 3


def test_one_process_has_nobody_to_talk_to() -> None:
    assert ONE_PROCESS.gather(b"a") == [b"a"]
    assert ONE_PROCESS.all_reduce([1.5, math.inf]) == [1.5, math.inf]
    assert ONE_PROCESS.any(True) and not ONE_PROCESS.any(False)
    ONE_PROCESS.exchange([], []).wait()
    ONE_PROCESS.close()
    with pytest.raises(CommunicationError, match="why"):
        ONE_PROCESS.abort("why")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, None),
        (
            {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"},
            (1, 2, 1, 2, "mpiexec"),
        ),
        ({"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"}, (3, 4, None, None, "mpiexec")),
        (
            {
                "SLURM_PROCID": "5",
                "SLURM_STEP_NUM_TASKS": "8",
                "SLURM_LOCALID": "1",
                "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
            },
            (5, 8, 1, 4, "srun"),
        ),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),  # in the batch script itself
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, (1, 2, 1, None, "torchrun")),
        ({"RANK": "one", "WORLD_SIZE": "2"}, None),
    ],
)
def test_what_a_launcher_has_started_is_read_from_the_environment(
    environment: dict[str, str], expected: tuple[Any, ...] | None
) -> None:
    assert launched(environment) == expected


def test_an_unknown_communicator_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no communicator 'pigeons'"):
        connect("pigeons")
    assert connect("none") is ONE_PROCESS
