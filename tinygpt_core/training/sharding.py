"""One update made in shards, by any number of processes, to the same bits.

The batch is cut into N shards, N being a setting of the run. A shard's loss and gradient are computed the
same way wherever that happens: its rows, its random numbers (`shard_generator`) and its threads do not depend
on how many processes there are. Rounding makes the order of a sum matter, so gradients are added in the order
of a binary tree over the shards, whoever computed them and whichever came first:

    N = 4:  (g0 + g1) + (g2 + g3)        N = 6:  ((g0 + g1) + (g2 + g3)) + (g4 + g5)

A rank has a block of neighbouring shards, and adds up what of the tree lies inside its block. For the rest
the gradient, in one long row, is divided among the ranks: each receives the others' sums of its part, and
adds them in the tree's order (a reduce-scatter by owner); then each sends its part to the others (an
all-gather).
A rank sends and receives 2 (W - 1) / W gradients where each of W ranks has one sum: as little as any
all-reduce. The row is cut into buckets in the order in which backward comes to them, and a bucket is on its
way while backward goes on.

With a divided optimizer (ZeRO-1: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion
Parameter Models", 2019, https://arxiv.org/abs/1910.02054) a rank owns whole parameters, remembers moments for
these alone, updates them, and sends them to the others instead of their gradients. An optimizer only looks at
a parameter's own gradient, so this changes no bit either.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from .. import random
from ..buffer.base import Buffer
from ..dataset.batches import Shards
from ..dtype import DType
from ..module import Module
from ..optimizers import Optimizer, clip_gradients, scale_gradients
from ..tape import GradientFunction, walk_back
from ..tensor import Tensor
from .communicator import CommunicationError, Communicator, Message, Pending
from .step import TrainingStep

SHARD_STREAMS = 1 << 32  # random stream of the run's seed for the dropout of shard 0; then come the others'
BLOCKS_PER_STEP = 1 << 32  # blocks of random words that a shard has to itself in a step
BUCKET_BYTES = 4 << 20
ALIGNMENT = 16  # elements: a parameter begins at a multiple of it

Node = tuple[int, int]  # of the tree: a sum over the shards from the first number to before the second


# ---------------------------------------------------------------- the tree


def shards_of(rank: int, size: int, shards: int) -> range:
    """Returns which of the shards a rank computes: neighbours, as evenly as there is."""
    return range(shards * rank // size, shards * (rank + 1) // size)


def halves(node: Node) -> tuple[Node, Node]:
    """Returns the two sums that a sum of several shards is made of, the first of a power of two of them."""
    start, stop = node
    middle = start + (1 << (stop - start - 1).bit_length() - 1)
    return (start, middle), (middle, stop)


def nodes_within(block: range, shards: int) -> list[Node]:
    """Returns the largest sums of the tree over `shards` shards that a block of neighbours suffices for."""

    def search(node: Node) -> list[Node]:
        start, stop = node
        if block.start <= start and stop <= block.stop:
            return [node]
        if stop <= block.start or block.stop <= start:
            return []
        first, second = halves(node)
        return search(first) + search(second)

    return search((0, shards))


def tree_sum(numbers: Sequence[float]) -> float:
    """Returns the sum of some numbers in the order of the tree."""

    def total(node: Node) -> float:
        if node[1] - node[0] == 1:
            return numbers[node[0]]
        first, second = halves(node)
        return total(first) + total(second)

    return total((0, len(numbers)))


def shard_generator(seed: int, number: int, step: int) -> random.Generator:
    """Returns where the dropout of a shard comes from, which depends on its number and the step alone."""
    generator = random.Generator(seed, SHARD_STREAMS + number)
    generator.position = step * BLOCKS_PER_STEP
    return generator


# ---------------------------------------------------------------- the row of all gradients


class Bucket(NamedTuple):
    """A piece of the row of all gradients, which is on its way as a whole.

    Attributes:
        dtype: of its elements.
        places: for each parameter in it its number, and where it begins and ends.
        bounds: where each rank's part begins; the last one is the length.
    """

    dtype: DType
    places: tuple[tuple[int, int, int], ...]
    bounds: tuple[int, ...]


def owners(sizes: Sequence[int], ranks: int) -> list[int]:
    """Returns which rank owns each parameter: the largest first, each to the rank that has least so far."""
    loads = [0] * ranks
    result = [0] * len(sizes)
    for number in sorted(range(len(sizes)), key=lambda number: (-sizes[number], number)):
        owner = loads.index(min(loads))
        result[number] = owner
        loads[owner] += sizes[number]
    return result


def bucket_bytes(ranks: int) -> int:
    """Returns how large a bucket is among as many ranks: the more there are, the more messages it becomes,
    each of which takes a time of its own whatever its length (`benchmarks/cluster.py` has the arithmetic).
    """
    return BUCKET_BYTES * max(1, ranks // 8)


def plan_buckets(
    parameters: Sequence[Buffer], ranks: int, owned_by: Sequence[int] | None, full: int
) -> list[Bucket]:
    """Returns the row of all gradients, in buckets.

    Args:
        parameters: in the order of the model; backward comes to the last ones first.
        ranks: among which each bucket is divided.
        owned_by: the rank that owns each parameter, where a part consists of whole parameters; None divides a
            bucket evenly.
        full: the bytes from which on a bucket gets no more.
    """
    groups: list[list[int]] = []
    size = full
    for number in reversed(range(len(parameters))):
        buffer = parameters[number]
        if size >= full or buffer.dtype is not parameters[groups[-1][-1]].dtype:
            groups.append([])
            size = 0
        groups[-1].append(number)
        size += buffer.numel * buffer.dtype.itemsize
    buckets = []
    for group in groups:
        if owned_by is not None:
            group.sort(key=lambda number: owned_by[number])
        places = []
        bounds = [0]
        start = 0
        for number in group:
            if owned_by is not None:
                bounds += [start] * (owned_by[number] + 1 - len(bounds))
            stop = start + parameters[number].numel
            places.append((number, start, stop))
            start = -(-stop // ALIGNMENT) * ALIGNMENT
        if owned_by is None:
            steps = -(-start // ALIGNMENT)
            bounds = [steps * rank // ranks * ALIGNMENT for rank in range(ranks)]
        bounds += [start] * (ranks + 1 - len(bounds))
        buckets.append(Bucket(parameters[group[0]].dtype, tuple(places), tuple(bounds)))
    return buckets


class _Row:
    """Memory for one row of all gradients.

    Attributes:
        flats: a flat Buffer for each bucket.
        parts: of each, what each rank owns of it.
        memories: of each part, as the communicator takes it; None where it is empty.
        views: for each parameter its place in the row, in its own shape.
    """

    def __init__(self, parameters: Sequence[Buffer], buckets: Sequence[Bucket], communicator: Communicator):
        kind = type(parameters[0])
        self.flats: list[Buffer] = []
        self.parts: list[list[Buffer]] = []
        self.memories: list[list[Any]] = []
        self.views: dict[int, Buffer] = {}
        for bucket in buckets:
            flat = kind.zeros((bucket.bounds[-1],), bucket.dtype)
            parts = [flat[start:stop] for start, stop in pairwise(bucket.bounds)]
            self.flats.append(flat)
            self.parts.append(parts)
            self.memories.append([communicator.memory(part) if part.numel else None for part in parts])
            for number, start, stop in bucket.places:
                self.views[number] = flat[start:stop].reshape(parameters[number].shape)


class _OwnedPart(Module):
    """A model of which only some parameters are seen, by an optimizer that updates no others."""

    def __init__(self, model: Module, owned: Iterable[Tensor]) -> None:
        super().__init__()
        self._model = model
        self._owned = {id(tensor) for tensor in owned}

    def named_parameters(self, trainable_only: bool = False) -> list[tuple[str, Tensor]]:
        named = self._model.named_parameters(trainable_only)
        return [(name, tensor) for name, tensor in named if id(tensor) in self._owned]


# ---------------------------------------------------------------- the step


class ShardedStep(TrainingStep):
    """A `TrainingStep` whose batches are `Shards`, of which each rank has its own.

    It is the textbook's step on each backend: a step that is recorded as a graph would end where ranks meet.

    Args:
        step_arguments: of `TrainingStep`.
        communicator: the ranks.
        shards: how many shards each batch is cut into, at least as many as there are ranks.
        seed: of the dropout.
        divides_optimizer: whether each rank keeps the optimizer's memory of a part of the parameters only.
            Then no parameter has a gradient after the update, unless `keeps_gradients`.

    Attributes:
        mine: the shards of this rank.
        number: of the step to make, from 0; `Trainer` sets it.
        keeps_gradients: whether the gradients of all parameters are wanted after the update.
        seconds: how long this rank has sent, received, added up and waited for others, in all.
        bytes_sent: how much this rank has sent to others, in all.

    Raises:
        CommunicationError: there are more ranks than shards.
    """

    def __init__(
        self,
        step_arguments: tuple[Any, ...],
        communicator: Communicator,
        shards: int,
        seed: int,
        divides_optimizer: bool = False,
    ) -> None:
        super().__init__(*step_arguments)
        size, rank = communicator.size, communicator.rank
        if size > shards:
            raise CommunicationError(
                f"{size} processes cannot share {shards} shards, as each needs one: "
                f"start {shards} processes or fewer (the shards of a run stay what they were at its start, "
                "where --shards says how many)"
            )
        self.communicator = communicator
        self.shards = shards
        self.seed = seed
        self.mine = shards_of(rank, size, shards)
        self.number = 0
        self.keeps_gradients = False
        self.seconds = 0.0
        self.bytes_sent = 0
        self.parameters = [tensor for _, tensor in self.model.named_parameters(trainable_only=True)]
        buffers = [tensor.buffer for tensor in self.parameters]
        self.owned_by: list[int] | None = None
        if divides_optimizer and size > 1:
            self.owned_by = owners([buffer.numel for buffer in buffers], size)
            self.owned = [n for n, owner in enumerate(self.owned_by) if owner == rank]
            self._restrict_optimizer(self.optimizer)
        self.buckets = plan_buckets(buffers, size, self.owned_by, bucket_bytes(size))
        self._place = {id(tensor): number for number, tensor in enumerate(self.parameters)}
        self._bucket_of = {
            number: b for b, bucket in enumerate(self.buckets) for number, _, _ in bucket.places
        }
        self._nodes = [nodes_within(shards_of(r, size, shards), shards) for r in range(size)]
        self._merges = self._count_merges()
        # The sums of the tree that are not yet part of larger ones stand in rows 0, 1, ... by their order
        self._rows = [_Row(buffers, self.buckets, communicator) for _ in range(self._depth())]
        self._received = self._receiving_buffers()
        # Of the backward that is going on
        self._awaited: list[set[int]] = []
        self._started = 0
        self._exchanges: list[Pending] = []

    def _restrict_optimizer(self, optimizer: Optimizer) -> None:
        optimizer.module = _OwnedPart(self.model, [self.parameters[number] for number in self.owned])
        names = {name for name, _ in optimizer.module.named_parameters()}
        for name in [name for name in optimizer.state if name not in names]:
            del optimizer.state[name]

    def _count_merges(self) -> dict[int, int]:
        """Returns how many sums of the tree are complete with each of this rank's shards."""
        merges = dict.fromkeys(self.mine, 0)

        def visit(node: Node) -> None:
            if node[1] - node[0] > 1:
                for half in halves(node):
                    visit(half)
                merges[node[1] - 1] += 1

        for node in self._nodes[self.communicator.rank]:
            visit(node)
        return merges

    def _depth(self) -> int:
        """Returns how many sums stand beside each other at most."""
        depth = deepest = 0
        for number in self.mine:
            depth += 1
            deepest = max(deepest, depth)
            depth -= self._merges[number]
        return deepest

    def _receiving_buffers(self) -> list[list[tuple[int, Node, Buffer, Any]]]:
        """Returns where the other ranks' sums of this one's part arrive: for each bucket the sender, which
        sum, and the memory.
        """
        kind = type(self.parameters[0].buffer)
        communicator = self.communicator
        result = []
        for bucket in self.buckets:
            start, stop = bucket.bounds[communicator.rank : communicator.rank + 2]
            arriving = []
            for rank, nodes in enumerate(self._nodes):
                if rank != communicator.rank and stop > start:
                    for node in nodes:
                        buffer = kind.zeros((stop - start,), bucket.dtype)
                        arriving.append((rank, node, buffer, communicator.memory(buffer)))
            result.append(arriving)
        return result

    # ---------------------------------------------------------------- one update

    def __call__(self, batches: Sequence[Any]) -> float:
        """Makes the update and returns the mean loss a target before it, of all shards.

        Args:
            batches: `Shards`, with this rank's in them.

        Raises:
            CommunicationError: a rank does not come.
        """
        cut: Sequence[Shards] = batches
        num_targets = sum(batch.num_targets for batch in cut)
        losses = []
        depth = 0
        for number in self.mine:
            is_last = number == self.mine[-1]
            self.model.zero_grad()
            with random.use_generator(shard_generator(self.seed, number, self.number)):
                losses.append(self._shard(number, cut, num_targets, depth, is_last))
            if not is_last:
                self._copy_gradients(depth)
                for _ in range(self._merges[number]):
                    depth -= 1
                    for left, right in zip(self._rows[depth].flats, self._rows[depth + 1].flats, strict=True):
                        left.add_in_place(right)
                depth += 1
        started = time.perf_counter()
        self._finish_reduction(depth)
        loss = self._total_loss(losses)
        self.seconds += time.perf_counter() - started
        self._update()
        return loss

    def _shard(
        self, number: int, batches: Sequence[Shards], num_targets: int, row: int, is_last: bool
    ) -> float:
        """Leaves the gradient of a shard in the parameters; returns its share of the loss."""
        loss = 0.0
        for batch in batches:
            part = self.total_loss(batch.batches[number]) / num_targets
            scaled = self._scaled(part)
            if is_last and batch is batches[-1]:
                self._backward(scaled, row)
            else:
                scaled.backward()
            loss += part.item()
        return loss

    def _total_loss(self, losses: Sequence[float]) -> float:
        """Returns the sum of all shards' losses, in the order of the tree."""
        longest = -(-self.shards // self.communicator.size)
        data = struct.pack(f"<{longest}d", *losses, *[0.0] * (longest - len(losses)))
        found: list[float] = []
        for rank, each in enumerate(self.communicator.all_gather(data)):
            count = len(shards_of(rank, self.communicator.size, self.shards))
            found += struct.unpack(f"<{longest}d", each)[:count]
        return tree_sum(found)

    def _update(self) -> None:
        """Clips the gradient and updates the parameters, or skips the step, like `TrainingStep`."""
        self._unscale_gradients()
        divided = self.owned_by is not None
        norm = self._clip_owned_gradients() if divided else clip_gradients(self.model, self.gradient_clip)
        self.is_skipped = not math.isfinite(norm)
        if self.scaler is not None:
            self.scaler.update(not self.is_skipped)
        if not self.is_skipped:
            before = self.optimizer.step
            self.optimizer.update()
            self.optimizer.step = before + 1  # also on a rank that owns nothing
        if divided:
            started = time.perf_counter()
            self._share_parameters()
            self.seconds += time.perf_counter() - started
        self.gradient_norm = None if self.is_skipped else norm

    # ---------------------------------------------------------------- gradients on their way

    def _backward(self, loss: Tensor, row: int) -> None:
        """Goes back from the last loss of this rank, and sends each bucket as soon as it is complete."""
        self._awaited = [{number for number, _, _ in bucket.places} for bucket in self.buckets]
        self._started = 0
        self._exchanges = []
        if loss.grad_fn is None or self.communicator.size == 1:
            loss.backward()
            return
        uses = _uses_of_leaves(loss.grad_fn)
        for tensor, part in walk_back(loss.grad_fn, type(loss.buffer).ones(loss.shape, loss.dtype)):
            tensor.accumulate_gradient(part)
            left = uses[id(tensor)] = uses.get(id(tensor), 0) - 1
            number = self._place.get(id(tensor))
            if left == 0 and number is not None:
                started = time.perf_counter()
                self._copy_gradient(number, row)
                self._awaited[self._bucket_of[number]].discard(number)
                self._send_what_is_complete(row)
                self.seconds += time.perf_counter() - started

    def _copy_gradients(self, row: int) -> None:
        for number in range(len(self.parameters)):
            self._copy_gradient(number, row)

    def _copy_gradient(self, number: int, row: int) -> None:
        """Puts a parameter's gradient into a row. This is the one place where gradients are looked at: one
        that is kept as single rows of a table comes whole from `grad`.
        """
        gradient = self.parameters[number].grad
        self._rows[row].views[number].assign(0.0 if gradient is None else gradient.buffer)

    def _send_what_is_complete(self, row: int) -> None:
        """Begins the exchange of buckets, in their order, that await no gradient; lets the others go on."""
        for pending in self._exchanges:
            pending.test()
        while self._started < len(self.buckets) and not self._awaited[self._started]:
            self._merge_last(self._started, row)
            self._exchanges.append(self._begin_exchange(self._started, row))
            self._started += 1

    def _merge_last(self, b: int, row: int) -> None:
        """Adds a bucket of the last shard to the sums that are complete with it."""
        for depth in range(row, row - self._merges[self.mine[-1]], -1):
            self._rows[depth - 1].flats[b].add_in_place(self._rows[depth].flats[b])

    def _begin_exchange(self, b: int, row: int) -> Pending:
        """Sends a bucket's sums to the owners of its parts, and receives those of this rank's part."""
        nodes = self._nodes[self.communicator.rank]
        outgoing = [
            (rank, self._rows[place].memories[b][rank])
            for rank in range(self.communicator.size)
            for place in range(len(nodes))
        ]
        incoming = [(rank, memory) for rank, _, _, memory in self._received[b]]
        bucket = self.buckets[b]
        others = bucket.bounds[-1] - self._rows[0].parts[b][self.communicator.rank].numel
        return self._exchange(outgoing, incoming, others * len(nodes) * bucket.dtype.itemsize)

    def _exchange(self, outgoing: Iterable[Message], incoming: Iterable[Message], num_bytes: int) -> Pending:
        """Begins to send `num_bytes` to the others, and to receive; leaves out itself and empty parts."""
        here = self.communicator.rank
        self.bytes_sent += num_bytes
        return self.communicator.exchange(
            [(rank, memory) for rank, memory in outgoing if rank != here and memory is not None],
            [(rank, memory) for rank, memory in incoming if rank != here and memory is not None],
        )

    def _finish_reduction(self, row: int) -> None:
        """Sends what has not been sent, adds up this rank's parts, and gives each parameter its gradient."""
        for b, awaited in enumerate(self._awaited):
            for number in awaited:
                self._copy_gradient(number, row)
            awaited.clear()
            if self.communicator.size == 1:
                self._merge_last(b, row)
        if self.communicator.size > 1:
            self._send_what_is_complete(row)
            gathers = []
            for b, pending in enumerate(self._exchanges):
                pending.wait()
                self._add_up(b)
                if self.owned_by is None or self.keeps_gradients:
                    gathers.append(self._begin_gather(b))
            for pending in gathers:
                pending.wait()
        views = self._rows[0].views
        for number, tensor in enumerate(self.parameters):
            if self.owned_by is None or self.keeps_gradients:
                view = views[number]
                tensor.grad = Tensor(view.copy() if self.owned_by is not None else view)
            else:
                is_owned = self.owned_by[number] == self.communicator.rank
                tensor.grad = Tensor(views[number]) if is_owned else None

    def _add_up(self, b: int) -> None:
        """Adds the sums of all ranks of this rank's part of a bucket, in the order of the tree."""
        here = self.communicator.rank
        pieces: dict[Node, Buffer] = {}
        for place, node in enumerate(self._nodes[here]):
            pieces[node] = self._rows[place].parts[b][here]
        for _, node, buffer, _ in self._received[b]:
            buffer.version[0] += 1  # written by the communicator
            pieces[node] = buffer
        result = self._rows[0].parts[b][here]
        if not result.numel:
            return

        def total(node: Node) -> Buffer:
            if node in pieces:
                return pieces[node]
            first, second = halves(node)
            left = total(first)
            return left.add_in_place(total(second))

        sum_of_all = total((0, self.shards))
        if sum_of_all is not result:
            result.assign(sum_of_all)

    def _begin_gather(self, b: int) -> Pending:
        """Sends this rank's part of a bucket to the others, and receives theirs, in row 0."""
        here = self.communicator.rank
        memories = self._rows[0].memories[b]
        outgoing = [(rank, memories[here]) for rank in range(self.communicator.size)]
        part = self._rows[0].parts[b][here]
        num_bytes = part.numel * part.dtype.itemsize * (self.communicator.size - 1)
        pending = self._exchange(outgoing, enumerate(memories), num_bytes)
        self._rows[0].flats[b].version[0] += 1
        return pending

    # ---------------------------------------------------------------- a divided optimizer

    def _clip_owned_gradients(self) -> float:
        """Does what `clip_gradients` does, where each rank has the gradients of its own parameters.

        Each rank's sums of squares are those that one rank would find, and are added in the model's order.
        """
        squares = [0.0] * len(self.parameters)
        for number in self.owned:
            gradient = self.parameters[number].grad
            squares[number] = 0.0 if gradient is None else gradient.buffer.sum_of_squares()
        form = f"<{len(squares)}d"
        gathered = self.communicator.all_gather(struct.pack(form, *squares))
        found = [struct.unpack(form, data) for data in gathered]
        assert self.owned_by is not None
        norm = math.sqrt(sum(found[owner][number] for number, owner in enumerate(self.owned_by)))
        scale_gradients(self.parameters, norm, self.gradient_clip)
        return norm

    def _share_parameters(self) -> None:
        """Sends this rank's parameters to the others, and takes over theirs."""
        views = self._rows[0].views
        if not self.is_skipped:
            for number in self.owned:
                views[number].assign(self.parameters[number].buffer)
            for pending in [self._begin_gather(b) for b in range(len(self.buckets))]:
                pending.wait()
        for number, tensor in enumerate(self.parameters):
            assert self.owned_by is not None
            if not self.is_skipped and self.owned_by[number] != self.communicator.rank:
                tensor.buffer.assign(views[number])
            if not self.keeps_gradients:
                tensor.grad = None

    def load_state(self, tensors: Sequence[tuple[str, Buffer]]) -> None:
        """Takes over the state of an optimizer in a checkpoint, tensors in the parameters' shapes: all of it,
        or what this rank owns.
        """
        if self.owned_by is None:
            self.optimizer.load_state(tensors)
            return
        restricted = self.optimizer.module
        self.optimizer.module = self.model  # so that names are checked against the whole model
        self.optimizer.load_state(tensors)
        self.optimizer.module = restricted
        self._restrict_optimizer(self.optimizer)

    def optimizer_state(self) -> dict[str, Buffer]:
        """Returns all that the optimizer remembers, in the parameters' shapes, on rank 0; on the others what
        they own. All call it.
        """
        state = self.optimizer.state_dict()
        if self.owned_by is None:
            return state
        import json

        communicator = self.communicator
        about = [(name, buffer.dtype.name, buffer.shape) for name, buffer in state.items()]
        found = [json.loads(data) for data in communicator.gather(json.dumps(about).encode())]
        kind = type(self.parameters[0].buffer)
        for rank in range(1, communicator.size):
            for name, dtype, shape in found[rank]:
                if name == "step":
                    continue
                if communicator.is_first:
                    state[name] = kind.zeros(tuple(shape), DType.from_name(dtype))
                    flat = state[name].reshape((-1,))
                    communicator.exchange([], [(rank, communicator.memory(flat))]).wait()
                    flat.version[0] += 1
                elif communicator.rank == rank:
                    flat = state[name].copy().reshape((-1,))
                    communicator.exchange([(0, communicator.memory(flat))], []).wait()
                else:
                    communicator.exchange([], []).wait()
        return state


def _uses_of_leaves(last: GradientFunction) -> dict[int, int]:
    """Returns how many gradients a walk back is going to bring to each leaf, by the leaf's identity."""
    uses: dict[int, int] = {}
    seen = {last}
    waiting = [last]
    while waiting:
        for parent in waiting.pop().parents:
            if isinstance(parent, GradientFunction):
                if parent not in seen:
                    seen.add(parent)
                    waiting.append(parent)
            elif parent is not None:
                uses[id(parent)] = uses.get(id(parent), 0) + 1
    return uses
