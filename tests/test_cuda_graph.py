"""A recorded training step without a GPU: the lifetimes of what a graph reads and writes, on the arena of
tests/cuda_on_cpu, whose replays do the recorded work and nothing else.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import emulation
from cuda_on_cpu.device import Capture, CaptureRefused, Chunk, Device, Pool
from cuda_on_cpu.training import CONFIG, Run

from tinygpt_accel.cuda_backend import step
from tinygpt_accel.cuda_backend.buffer import GraphTables, WaitingTerm
from tinygpt_accel.cuda_backend.kernels import rotary
from tinygpt_accel.cuda_backend.kernels.optimizer_steps import adamw
from tinygpt_accel.cuda_backend.step import CudaTrainingStep
from tinygpt_core import Tensor, backends, kernels, operations
from tinygpt_core.kernels.precision import autocast
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.module import Module
from tinygpt_core.optimizers import AdamW, Muon
from tinygpt_core.tensor import apply_op, no_grad
from tinygpt_core.training import TrainingStep, as_tensors

pytestmark = pytest.mark.skipif(bool(emulation.why_not()), reason=emulation.why_not())
FORMS = ["float32", "bfloat16"]


@pytest.fixture
def kind() -> Iterator[Any]:
    """The emulated Buffer class, active."""
    with backends.use("cuda-on-cpu") as backend:
        yield backend


def moments(run: Run) -> np.ndarray:
    return np.concatenate([np.ravel(b.to_python()) for _, b in sorted(run.optimizer.state_dict().items())])


# ---------------------------------------------------------------- the checker


def test_the_pool_is_cupys(kind: Any) -> None:
    """Best fit, split, merged with free neighbours, and asked of the device only where nothing fits."""
    pool = Pool()
    first, second, third = (pool.malloc(size) for size in (1000, 512, 700))
    assert [block.chunk.size for block in (first, second, third)] == [1024, 512, 1024]
    assert pool.total_bytes == 2560 and pool.used_bytes == 2560
    address = first.chunk.address
    del first
    small = pool.malloc(5)
    assert small.chunk.address == address and small.chunk.size == 512  # the one chunk that is large enough
    rest = pool.malloc(512)
    assert rest.chunk.address == address + 512 and pool.total_bytes == 2560
    del small, rest
    again = pool.malloc(1024)  # the two are one again
    assert again.chunk.address == address and pool.total_bytes == 2560
    held = pool.malloc(2048)
    assert pool.total_bytes == 2560 + 2048
    del held
    pool.free_all_blocks()
    assert pool.total_bytes == 2560


def test_a_recording_runs_nothing_and_replays_what_was_recorded(kind: Any) -> None:
    """Work is done at addresses, not on arrays: what has gone back to the pool is somebody else's."""
    xp = kind.xp
    x = xp.asarray(np.arange(4, dtype=np.float32))
    capture = Capture()
    with capture:
        graph, y = capture.record(lambda: (x + x) * x)
        assert np.isnan(kind.to_host(xp.empty(3, "float32"))).all()
    graph.launch()
    assert kind.to_host(y).tolist() == [0, 2, 8, 18] and graph.names() == [
        "add.__call__",
        "multiply.__call__",
    ]
    x[...] = xp.asarray(np.ones(4, np.float32))
    graph.launch()
    assert kind.to_host(y).tolist() == [2, 2, 2, 2]
    gc.collect()
    with capture:
        other = xp.zeros(4, "float32")  # takes the memory that the sum had
    graph.launch()
    assert kind.to_host(other).tolist() == [2, 2, 2, 2], "a replay writes there once more"
    for refused in (lambda: float(x.sum()), lambda: xp.asarray(np.zeros(3))):
        with pytest.raises(CaptureRefused):
            capture.record(refused)
    assert Device.graph is None


# ---------------------------------------------------------------- steps


def test_tables_lie_where_no_graph_writes(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the host fills once before the first launch overlaps with nothing that a recorded kernel
    writes, be it tables of addresses or rotary angles. It is looked at before the first replay, which would
    follow whatever addresses such a table holds: hence this test is the first of those that record a step.
    """
    run = Run("bfloat16", replace(CONFIG, positions="rotary"))
    with monkeypatch.context() as patch:
        patch.setattr(CudaTrainingStep, "_replay", lambda *given: 0.0)
        run.losses(3)
    assert len(run.step.recording.tables) >= 4  # of the norm and of AdamW, cosines and sines
    assert chunks_of(run.step.capture.pool) and not tables_in_the_pool(run)
    losses = run.losses(2)
    assert np.isfinite(losses).all()


def tables_in_the_pool(run: Run) -> int:
    """How many tables of a recording lie where its graph writes."""
    return sum(
        chunk.address < address + table.nbytes and address < chunk.address + chunk.size
        for table in run.step.recording.tables
        for address in [table.__array_interface__["data"][0]]
        for chunk in chunks_of(run.step.capture.pool)
    )


def chunks_of(pool: Pool) -> list[Any]:
    """All that the device gave to a pool, whole."""
    return [
        Chunk(np.frombuffer(memory, "u1").__array_interface__["data"][0], len(memory))
        for memory in pool.from_device
    ]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_replayed_steps_are_steps(kind: Any, form: str, positions: str) -> None:
    """With new data, another learning rate and other dropout masks each time, bit for bit; and other shapes
    are recorded anew.
    """
    found = []
    for eager in (True, False):
        run = Run(form, replace(CONFIG, positions=positions), eager=eager)
        losses = []
        for i in range(8):
            run.optimizer.learning_rate = 1e-2 / (i + 1)
            losses += run.losses(1)
        assert eager or (run.step.capture.launches == 6 and run.step.reason == "")
        losses.append(run.step([run.batches.next_batch()]))  # without accumulation, so not the recorded step
        assert run.optimizer.step == 9 and run.step.recording is None
        found.append((losses, run.weights(), moments(run)))
    assert found[0][0] == found[1][0]
    assert np.array_equal(found[0][1], found[1][1]) and np.array_equal(found[0][2], found[1][2])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_validation_changes_no_step(kind: Any, form: str, after: int) -> None:
    """Also between the last launched step and the recording, where it leaves converted weights behind: a
    recording that found them would compute with these for ever.
    """
    expected = Run(form, eager=True)
    losses = expected.losses(6)
    run = Run(form)
    found = run.losses(after)
    run.validate()
    found += run.losses(6 - after)
    assert run.step.reason == "" and found == losses and np.array_equal(run.weights(), expected.weights())


@pytest.mark.parametrize("form", FORMS)
def test_a_recording_holds_as_many_casts_whatever_ran_before(kind: Any, form: str) -> None:
    """None of a weight that learns, whose copy AdamW writes; and one each of one that does not."""

    def casts(frozen: bool, validate: bool) -> int:
        run = Run(form, replace(CONFIG, dropout=0.0))
        if frozen:
            for _, parameter in run.model.transformer_blocks[0].named_parameters():
                parameter.requires_grad = False
        run.losses(2)
        if validate:
            run.validate()
        run.losses(1)
        weights = {kind.address_of(p.buffer.stored) for _, p in run.model.named_parameters()}
        return sum(
            piece.name == "cast" and any(x.__array_interface__["data"][0] in weights for x in piece.arrays)
            for piece in run.step.recording.graph.work
        )

    expected = 0 if form == "float32" else 8  # two norms apart, of weights and biases of four maps
    assert casts(False, False) == casts(False, True) == 0
    assert casts(True, False) == casts(True, True) == expected


@pytest.mark.parametrize("eager", [False, True])
def test_adamw_writes_the_16_bit_copies(kind: Any, monkeypatch: pytest.MonkeyPatch, eager: bool) -> None:
    """They are the weights rounded, bit for bit, and no step after the first one makes them again."""
    run = Run("bfloat16", eager=eager)
    run.losses(1)
    made: list[Any] = []
    monkeypatch.setattr(kind, "convert_into", lambda self, copy: made.append(copy))
    run.losses(4)
    assert made == [] and len(run.step.copies) == len(run.step.parameters)
    for name, parameter in run.step.parameters:
        copy = run.step.copies[name]
        assert np.array_equal(copy, kind.convert(parameter.buffer.array, "bfloat16")), name
        assert parameter.buffer.in_format("bfloat16") is copy


def test_a_replay_makes_other_copies_old(kind: Any) -> None:
    """What a validation in 16 bits has converted between two replays of float32 is not read after them."""
    run = Run("float32")
    run.losses(4)
    before = [p.buffer.in_format("bfloat16") for _, p in run.step.parameters]
    run.losses(1)
    assert run.step.capture.launches == 3
    for (name, p), old in zip(run.step.parameters, before, strict=True):
        copy = p.buffer.in_format("bfloat16")
        assert copy is not old and np.array_equal(copy, kind.convert(p.buffer.array, "bfloat16")), name


def test_a_step_with_experts_is_launched_anew_each_time(kind: Any) -> None:
    """How many tokens an expert gets is known only when the router has run."""
    config = replace(CONFIG, num_experts=3, experts_per_token=2)
    run = Run("float32", config)
    losses = run.losses(4)
    assert run.step.recording is None
    assert run.step.reason.startswith("transformer_blocks.0.mlp is a MixtureOfExperts, whose shapes follow")
    expected = Run("float32", config, eager=True)
    assert losses == expected.losses(4) and losses[-1] < losses[0]
    assert np.array_equal(run.weights(), expected.weights())


def test_a_step_after_many_lengths(kind: Any) -> None:
    """Rotary angles of more lengths than are kept for eager work, before a recording and between replays."""
    config = replace(CONFIG, positions="rotary", context_length=24)
    expected = Run("bfloat16", config, eager=True)
    losses = expected.losses(5)
    run = Run("bfloat16", config)
    found = []
    for _ in range(5):
        found += run.losses(1)
        run.model.eval()
        with no_grad(), autocast("bfloat16"):
            for length in range(1, 24):
                if length != 12:  # that of the batches
                    run.model(Tensor(kind(np.zeros((1, length), np.int32))))
        run.model.train()
    assert run.step.reason == "" and run.step.recording is not None and found == losses


@pytest.mark.parametrize("change", ["assign", "load", "replace", "weight_decay", "moments", "clip"])
def test_what_a_graph_takes_for_granted(kind: Any, change: str) -> None:
    """New weights count from the next step on, wherever they lie, with their 16-bit copies; other settings
    and other arrays than those of the recording are recorded anew.
    """
    found = []
    for eager in (True, False):
        run = Run("bfloat16", eager=eager)
        run.losses(4)
        recording = run.step.recording
        weight = run.model.transformer_blocks[0].mlp.layers[0].weights
        if change == "assign":
            weight.assign(weight.detach() * 0.5)
        elif change == "load":
            run.model.load_weights({name: p.buffer.copy() for name, p in Run().model.named_parameters()})
        elif change == "replace":
            weight.buffer = (weight.detach() * 0.5).buffer
        elif change == "weight_decay":
            run.optimizer.weight_decay = 0.0
        elif change == "moments":
            run.optimizer.load_state_dict(run.optimizer.state_dict())
        else:
            run.step.gradient_clip = 0.1
        losses = run.losses(4)
        found.append((losses, run.weights()))
        if not eager:
            assert (run.step.recording is recording) == (change in ("assign", "load"))
    assert found[0][0] == found[1][0] and np.array_equal(found[0][1], found[1][1])


def test_replayed_steps_walk_over_no_model(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parameters are found once."""
    run = Run("bfloat16")
    run.losses(3)
    walks: list[Any] = []
    monkeypatch.setattr(Module, "named_parameters", lambda *given: walks.append(given))
    run.losses(3)
    assert walks == [] and run.step.capture.launches == 4


@pytest.mark.parametrize(
    "change", ["parameter", "module", "block", "new", "filled", "gone", "container", "nothing"]
)
def test_what_is_put_into_a_model_counts_from_the_next_step_on(kind: Any, change: str) -> None:
    """Wherever in it a part is replaced, added or taken away."""
    found = []
    for eager in (True, False):
        run = Run("bfloat16", replace(CONFIG, dropout=0.0), eager=eager)
        run.model.room = None
        run.losses(4)
        recording = run.step.recording
        model, other = run.model, Run("bfloat16", replace(CONFIG, dropout=0.0)).model
        mlp = model.transformer_blocks[0].mlp
        if change == "parameter":
            mlp.layers[0].weights = other.transformer_blocks[0].mlp.layers[0].weights
        elif change == "module":
            model.transformer_blocks[0].mlp = other.transformer_blocks[0].mlp
        elif change == "block":
            model.transformer_blocks[1] = other.transformer_blocks[1]
        elif change == "new":
            model.more = Tensor.zeros((3,), requires_grad=True)
        elif change == "filled":
            model.room = Tensor.zeros((3,), requires_grad=True)
        elif change == "gone":
            mlp.layers[0].bias = None
        elif change == "container":
            model.transformer_blocks = [*other.transformer_blocks]
        losses = run.losses(4)
        found.append((losses, run.weights()))
        if not eager:
            assert (run.step.recording is recording) == (change == "nothing")
            assert [id(p) for _, p in run.step.parameters] == [id(p) for _, p in model.named_parameters()]
    assert found[0][0] == found[1][0] and np.array_equal(found[0][1], found[1][1])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("eager", [False, True])
def test_a_gradient_that_is_not_finite_changes_nothing(kind: Any, eager: bool, form: str) -> None:
    """Launched piece by piece and replayed: the step is skipped, does not count, and the next one does."""
    run = Run(form, replace(CONFIG, dropout=0.0), eager=eager)
    run.losses(4)
    weights, before = run.weights(), moments(run)
    poisoned = run.model.named_parameters()[-1][1].buffer
    kept = poisoned.array.copy()
    poisoned.assign(float("inf"))
    run.losses(1)
    poisoned.assign(kind.wrap(kept, poisoned.dtype))
    assert run.step.is_skipped and np.array_equal(run.weights(), weights)
    assert np.array_equal(moments(run), before)
    run.losses(1)
    assert not run.step.is_skipped and run.optimizer.step == 5 and np.isfinite(run.weights()).all()
    assert eager or run.step.capture.launches == 4


# ---------------------------------------------------------------- recordings that fail


@pytest.mark.parametrize("pieces", [0, 30, 70, 105])
def test_a_recording_that_fails_leaves_nothing_behind(
    kind: Any, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    """A reason, and a run like any other: no copy that was recorded and not computed, and no memory."""
    config = replace(CONFIG, positions="rotary")
    expected = Run("bfloat16", config, eager=True).losses(5)
    monkeypatch.setattr(Device, "default_pool", Pool())  # in which nothing is free that others have left
    monkeypatch.setattr(Device, "pool", Device.default_pool)
    run = Run("bfloat16", config)
    found = run.losses(2)
    freed: list[Any] = []
    free = Capture.free
    monkeypatch.setattr(Capture, "free", lambda self: (freed.append(self), free(self)))
    pools = (Device.default_pool, run.step.capture.pool)
    held = sum(pool.total_bytes for pool in pools)
    left = [pieces]
    launch = type(kind).__getattribute__(kind, "launch")

    def refuse(*arguments: Any, **options: Any) -> None:
        left[0] -= 1
        if left[0] < 0 and Device.graph is not None:
            raise CaptureRefused("operation not permitted when stream is capturing")
        launch(*arguments, **options)

    monkeypatch.setattr(kind, "launch", refuse)
    found += run.losses(1)
    assert "not permitted" in run.step.reason and run.step.recording is None and len(freed) == 1
    used = Device.default_pool.peak_bytes = Device.default_pool.used_bytes
    found += run.losses(2)
    more = Device.default_pool.peak_bytes - used
    assert more < used / 10, "launched steps use the memory of the step, which is there"
    # What was allocated while it was recorded has gone back, and launched steps use the same memory
    assert sum(pool.total_bytes for pool in pools) < 1.2 * held
    assert found == expected


def test_copies_of_a_recording_that_failed_are_made_again(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of weights that do not learn, too, of which the step keeps none: they were recorded and never
    computed.
    """

    def frozen(eager: bool) -> Run:
        run = Run("bfloat16", eager=eager)
        for _, parameter in run.model.transformer_blocks[0].named_parameters():
            parameter.requires_grad = False
        return run

    run = frozen(False)
    found = run.losses(2)

    def refuse(*given: Any, **options: Any) -> None:
        if Device.graph is not None:
            raise CaptureRefused("operation not permitted when stream is capturing")
        adamw(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(step, "adamw", refuse)
        found += run.losses(1)
    assert "not permitted" in run.step.reason
    assert found + run.losses(1) == frozen(True).losses(4)


def test_only_what_a_capture_refuses_is_caught(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of ours while recording is raised, and not a reason that few read."""
    run = Run("float32")
    run.losses(2)

    def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("a mistake of ours")

    with monkeypatch.context() as patch:
        patch.setattr(kind, "product", broken)
        with pytest.raises(RuntimeError, match="a mistake of ours"):
            run.losses(1)
    assert run.step.reason == "" and Device.graph is None
    assert np.isfinite(run.losses(2)).all() and run.step.recording is not None


def test_a_bad_id_is_found_before_a_replay(kind: Any) -> None:
    run = Run()
    run.losses(4)
    batch = run.batches.next_batch()
    batch.inputs[0] = 29
    with pytest.raises(IndexError, match="vocabulary of 29"):
        run.step([batch, run.batches.next_batch()])


# ---------------------------------------------------------------- the laws notice mistakes


def test_tables_from_the_pool_of_the_graph_are_noticed(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake that was there: best fit gives them memory that earlier kernels of the graph wrote."""
    monkeypatch.setattr(GraphTables, "add", add_inside)
    monkeypatch.setattr(CudaTrainingStep, "_replay", lambda *given: 0.0)  # which would read anywhere
    run = Run("bfloat16", replace(CONFIG, positions="rotary"))
    run.losses(3)
    assert tables_in_the_pool(run)


def add_inside(self: GraphTables, kind: Any, host: Any) -> Any:
    """`GraphTables.add`, with memory from wherever it comes."""
    device = kind.xp.empty(host.shape, host.dtype)
    self.to_fill.append((device, host))
    self.kept.append(device)
    return device


def test_casts_that_a_recording_found_made_are_noticed(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake that was there: after a validation, replays compute with the weights of that time."""
    monkeypatch.setattr(CudaTrainingStep, "_refresh_copies", lambda self: None)
    monkeypatch.setattr(CudaTrainingStep, "_forget_conversions", lambda self: None)
    expected = Run("bfloat16", eager=True).losses(5)
    run = Run("bfloat16")
    found = run.losses(2)
    run.validate()
    found += run.losses(3)
    assert run.step.reason == "" and found[:3] == expected[:3] and found != expected


def test_rotary_tables_that_were_dropped_are_noticed(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake that was there: a table that no cache holds any more is uploaded while a step is recorded."""
    monkeypatch.setattr(rotary, "_angles", rotary._device_angles)
    run = Run("bfloat16", replace(CONFIG, positions="rotary"))
    run.losses(2)
    rotary._device_angles.cache_clear()
    run.losses(1)
    assert "copy from the host" in run.step.reason and run.step.recording is None


# ---------------------------------------------------------------- work that waits


@pytest.mark.parametrize("refused", [(), ("bias",), ("gelu",), ("gelu_gradient",), ("column_sums",)])
@pytest.mark.parametrize("form", ["float32", "bfloat16", "float16"])
def test_a_step_is_the_textbooks(
    kind: Any, form: str, refused: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever cuBLASLt refuses, losses and weights are those of the textbook step with the same kernels, to
    the roundings of the form.
    """
    config = replace(CONFIG, dropout=0.0)
    plain = Run(form, config, step=TrainingStep)
    expected = plain.losses(4)
    monkeypatch.setattr(kind, "refused_epilogues", refused)
    run = Run(form, config)
    rounding = {"float32": 1e-6, "bfloat16": 2e-3, "float16": 3e-4}[form]
    assert np.allclose(run.losses(4), expected, rtol=rounding)
    # AdamW makes much of the roundings of a gradient that is almost 0: so on average
    difference = np.abs(run.weights() - plain.weights())
    assert np.max(difference) < 2e-5 if form == "float32" else np.mean(difference) < 1e-3


@pytest.mark.parametrize("room", [0, 120])
@pytest.mark.parametrize("form", FORMS)
def test_a_block_with_little_shared_memory(
    kind: Any, monkeypatch: pytest.MonkeyPatch, form: str, room: int
) -> None:
    """Where a row of logits (29 numbers) or the sums of a norm (2 times 16) do not fit, it goes without: the
    emulation refuses a launch that asks for more than there is.
    """
    config = replace(CONFIG, dropout=0.0)
    expected = Run(form, config).losses(4)
    monkeypatch.setattr(kind, "shared_memory", room)
    run = Run(form, config)
    assert np.allclose(run.losses(4), expected, rtol={"float32": 1e-6, "bfloat16": 2e-3}[form])
    names = run.step.recording.graph.names()
    assert "normalize" not in names and "cross_entropy_both" in names


def test_logits_can_be_read_after_their_gradient_lies_there(kind: Any) -> None:
    """The cross-entropy of a step writes over them, and whoever asks gets them again: bit for bit, and views
    of them, too. Where somebody has looked before, nothing is written over.
    """

    class Looking(Run):
        when = "never"

        def total_loss(self, batch: Any) -> Tensor:
            inputs, targets = as_tensors(batch)
            with autocast(self.dtype):
                logits = self.model(inputs)
                view = logits[0] if self.when == "before" else None
                loss = CrossEntropyLoss()(logits=logits, labels=targets).sum()
            if self.when == "after":
                view = logits[0]
            if view is not None:
                self.seen.append(np.array(view.to_python()))
            return loss

    found = {}
    for when in ("never", "after", "before"):
        run = Looking("bfloat16", eager=True)
        run.when, run.seen = when, []
        found[when] = [*run.losses(3), run.weights(), *run.seen]
    assert len(found["after"]) == 10
    for one, other in zip(found["after"], found["before"], strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(found["never"][3], found["after"][3])


@pytest.mark.parametrize("count", [1, 5, 36])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("form", ["float32", "bfloat16", "float16"])
def test_logits_a_few_rows_at_a_time(
    kind: Any, monkeypatch: pytest.MonkeyPatch, form: str, tied: bool, count: int
) -> None:
    """Losses and weights are those of the textbook step, whether the number of rows divides that of the batch
    (36) or not; the step is recorded; and no array holds the logits of more rows.
    """
    config = replace(CONFIG, dropout=0.0, tied_head=tied, vocab_size=203)
    # Of tokens that never come the gradients are so small that dividing by their size would show how the last
    # bit of a sum was rounded
    optimizer = partial(AdamW, eps=1e-5)
    plain = Run(form, config, step=TrainingStep, optimizer=optimizer)
    expected = plain.losses(4)
    monkeypatch.setenv("TINYGPT_CUDA_LOGIT_ROWS", str(count))
    run = Run(form, config, optimizer=optimizer)
    rounding = {"float32": 1e-6, "bfloat16": 2e-3, "float16": 3e-4}[form]
    assert np.allclose(run.losses(4), expected, rtol=rounding)
    difference = np.abs(run.weights() - plain.weights())
    assert np.max(difference) < 5e-6 if form == "float32" else np.mean(difference) < 1e-3
    assert kind.logit_rows == 0
    if form != "float16":  # whose steps are not recorded
        arrays = [x for work in run.step.recording.graph.work for x in work.arrays if x is not None]
        assert max(len(x) for x in arrays if x.shape[1:] == (203,) and len(x) != 16) == count


def test_logits_that_somebody_reads_are_whole(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the loss was computed a few rows at a time, and with losses that are weighted."""
    weights = np.linspace(0.0, 2.0, 36).astype(np.float32).reshape(3, 12)

    class Looking(Run):
        def total_loss(self, batch: Any) -> Tensor:
            inputs, targets = as_tensors(batch)
            with autocast(self.dtype):
                logits = self.model(inputs)
                losses = CrossEntropyLoss()(logits=logits, labels=targets)
            seen.append(np.array(logits.to_python()))
            return (losses * Tensor(weights.tolist())).sum()

    found = []
    for count in ("0", "7"):
        monkeypatch.setenv("TINYGPT_CUDA_LOGIT_ROWS", count)
        seen: list[np.ndarray] = []
        run = Looking("float32", replace(CONFIG, dropout=0.0), eager=True)
        found.append((run.losses(3), run.weights(), seen))
    assert np.allclose(found[0][0], found[1][0], rtol=1e-6) and len(found[1][2]) == 6
    assert np.allclose(found[0][1], found[1][1], atol=2e-5)
    for one, other in zip(found[0][2], found[1][2], strict=True):
        assert np.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("text", ["-1", "many", "1.5", "٣"])
def test_a_number_of_logit_rows_that_is_none(kind: Any, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TINYGPT_CUDA_LOGIT_ROWS", text)
    with pytest.raises(ValueError, match=r"\$TINYGPT_CUDA_LOGIT_ROWS is a number of rows"):
        Run()


class OwnModel(Module):
    """A user's model, of products of Tensors: of matrices, of one with many, and of many with many."""

    def __init__(self) -> None:
        self.config = CONFIG
        self.table = Tensor.normal((29, 16), requires_grad=True)
        self.weights = Tensor.normal((16, 16), requires_grad=True)

    def __call__(self, ids: Tensor) -> Tensor:
        x = apply_op(operations.Embedding, self.table, ids) @ self.weights
        scores = x @ x.transpose(1, 2)
        mixed = scores.softmax() @ (self.weights @ x.transpose(1, 2)).transpose(1, 2)
        return mixed @ self.table.transpose(0, 1)


@pytest.mark.parametrize("form", FORMS)
def test_products_of_a_model_of_ones_own_are_recorded(
    kind: Any, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """By the library that can be recorded, forward and backward; none is left to CuPy's matmul."""
    found = []
    for eager in (True, False):
        run = Run(form, eager=eager, model=OwnModel)
        found.append((run.losses(6), run.weights()))
    names = run.step.recording.graph.names()
    assert run.step.reason == "" and names.count("product") >= 8 and names.count("batched_product") >= 6
    assert not [name for name in names if "matmul" in name]
    assert found[0][0] == found[1][0] and np.array_equal(found[0][1], found[1][1])
    with backends.use("numpy"):
        assert np.allclose(Run(model=OwnModel).losses(6), found[0][0], rtol=1e-4)


def test_another_gradient_than_expected_rescales(kind: Any) -> None:
    """A loss that is weighted after the cross-entropy: the gradient that lies over the logits is brought to
    that of the losses.
    """
    weights = np.linspace(0.0, 2.0, 36).astype(np.float32).reshape(3, 12)

    class Weighted(Run):
        def total_loss(self, batch: Any) -> Tensor:
            inputs, targets = as_tensors(batch)
            with autocast(self.dtype):
                losses = CrossEntropyLoss()(logits=self.model(inputs), labels=targets)
            return (losses * Tensor(weights.tolist())).sum()

    config = replace(CONFIG, dropout=0.0)
    plain = Weighted("float32", config, step=TrainingStep)
    run = Weighted("float32", config)
    assert np.allclose(run.losses(5), plain.losses(5), rtol=1e-6)
    assert np.allclose(run.weights(), plain.weights(), atol=2e-5)


def test_what_waits_is_launched_before_a_write(kind: Any) -> None:
    """A product and a sum whose operands are written to meanwhile are of what stood there."""
    r = np.random.default_rng(1)
    x, w, other = (kind(r.normal(size=size).astype(np.float32)) for size in ((4, 8), (8, 16), (4, 16)))
    expected = None
    for waits in (False, True):
        kind.may_wait = waits
        try:
            tensors = [Tensor(b.copy()) for b in (x, w, other)]
            with autocast("bfloat16"), no_grad():
                y = apply_op(operations.Linear, tensors[0], tensors[1], None)
                total = tensors[2] + y
            assert not waits or len(kind.all_waiting) >= 1
            tensors[1].assign(0.0)
            tensors[2].assign(0.0)
            found = (y.to_python(), total.to_python())
        finally:
            kind.may_wait = False
        expected = expected or found
        assert found == expected


def test_a_sum_with_work_that_waits_changes_neither(kind: Any) -> None:
    """Rows of an embedding's gradient and the gradient of a norm are added to something, and that stays."""
    r = np.random.default_rng(1)
    table, x, grad = (kind(r.normal(size=size).astype(np.float32)) for size in ((7, 8), (5, 8), (5, 8)))
    ids = kind(np.array([3, 0, 3, 6, 1], np.int32))
    embedding, norm = (kernels.lookup(kernel, kind) for kernel in (kernels.Embedding, kernels.LayerNorm))
    for to, kernel, inputs in ((table, embedding, (table, ids)), (x, norm, (x,))):
        expected = None
        for waits in (False, True):
            other = to.copy()
            kind.may_wait = waits
            try:
                term = kernel.backward(kernel.forward(*inputs)[1], grad)[0]()
                assert bool(term.waiting_for(WaitingTerm)) == waits
                total = (other + term).to_python()
            finally:
                kind.may_wait = False
            assert other.to_python() == to.to_python()
            expected = expected or total
            assert np.allclose(total, expected, rtol=1e-6) and term.shape == to.shape


class Smoothed(Run):
    """With label smoothing and z-loss, whose gradient is another one than the fused cross-entropy's."""

    def total_loss(self, batch: Any) -> Tensor:
        inputs, targets = as_tensors(batch)
        with autocast(self.dtype):
            changed = CrossEntropyLoss(label_smoothing=0.1, z_loss=1e-2)
            return changed(logits=self.model(inputs), labels=targets).sum()


def test_smoothed_losses_are_those_of_the_textbooks_step(kind: Any) -> None:
    textbook = Smoothed(step=TrainingStep)
    expected = textbook.losses(5)
    ours = Smoothed()  # which seeds anew
    assert ours.losses(5) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(ours.weights(), textbook.weights(), atol=2e-3)


def test_muon_takes_the_textbooks_step(kind: Any) -> None:
    run = Run(optimizer=Muon)
    found = run.losses(4)
    assert "the optimizer is Muon" in run.step.reason
    with backends.use("numpy"):
        assert Run(optimizer=Muon).losses(4) == pytest.approx(found, rel=1e-4)
