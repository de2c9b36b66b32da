"""What a step of data-parallel training takes on a cluster: a small simulator, its plan for 8, 64 and 1,024
GPUs, and its prediction for this machine beside a measurement.

    python benchmarks/cluster.py              # the plan, which is arithmetic
    python benchmarks/cluster.py --measure    # and two processes on this machine, predicted and measured

The second needs mpi4py, an mpiexec and NumPy. The simulator does what `tinygpt_core.training.sharding` does:
a bucket's reduce-scatter begins when backward has come to it and the link is free, the all-gathers follow
when backward is over. A rank sends each other rank its part of each bucket as a message of its own, which
takes what its bytes take on the link, and a fixed time beside that.

The numbers of GPUs are assumptions from data sheets, not measurements: an H100 or H200 with 989 TFLOP/s in
bf16, of which a training step reaches 40 %; 450 GB/s to the seven others in a machine, 50 GB/s to other
machines (400 Gbit/s each); 3 µs for each message. Gradients travel as float32. An update takes 6 operations
for each weight and token.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from statistics import median
from typing import NamedTuple

import pairing  # beside this file; puts the repository on sys.path

from tinygpt_core.training.sharding import BUCKET_BYTES, bucket_bytes

FLOPS = 0.4 * 989e12
INSIDE, BETWEEN = 450e9, 50e9  # bytes/s, of a GPU to others in its machine, and to other machines
IN_A_MACHINE = 8
MESSAGE = 3e-6  # seconds, beside the bytes
BACKWARD = 2 / 3  # of the arithmetic of a step
MODELS = {"124M": 124e6, "1.5B": 1.56e9}
BATCH = 2**19  # tokens of a step, of all GPUs together, as GPT-2 was trained with
CONTEXT = 1024


class Prediction(NamedTuple):
    """What the simulator says of a step.

    Attributes:
        seconds: of the whole step.
        exposed: of it, those in which a rank only waits for gradients or parameters.
        messages: that a rank sends.
        bytes_sent: by a rank.
    """

    seconds: float
    exposed: float
    messages: int
    bytes_sent: float


def simulate(
    compute: float,
    gradient_bytes: float,
    ranks: int,
    bandwidth: float,
    message: float = 0.0,
    size: float = BUCKET_BYTES,
    backward: float = BACKWARD,
) -> Prediction:
    """Returns what a step takes.

    Args:
        compute: seconds of forward and backward of a rank.
        gradient_bytes: of the whole model.
        ranks: how many share the work.
        bandwidth: bytes/s that a rank can send, and receive at the same time.
        message: seconds that each message takes beside its bytes.
        size: bytes of a bucket.
        backward: the part of `compute` in which gradients become ready, evenly.
    """
    buckets = max(1, -(-int(gradient_bytes) // int(size)))
    each = gradient_bytes / buckets * (ranks - 1) / ranks  # bytes that a rank sends of a bucket
    duration = (ranks - 1) * message + each / bandwidth
    begin_backward = compute * (1 - backward)
    link_is_free = 0.0
    reduced = []
    for number in range(buckets):
        ready = begin_backward + compute * backward * (number + 1) / buckets
        link_is_free = max(ready, link_is_free) + duration
        reduced.append(link_is_free)
    for done in reduced:
        link_is_free = max(done, compute, link_is_free) + duration
    seconds = link_is_free if ranks > 1 else compute
    return Prediction(seconds, seconds - compute, 2 * buckets * (ranks - 1), 2 * buckets * each)


def link_of(ranks: int) -> float:
    """Returns the bytes/s of a GPU when it sends to all others alike: the share that leaves the machine is
    what takes longest.
    """
    if ranks <= IN_A_MACHINE:
        return INSIDE
    outside = (ranks - IN_A_MACHINE) / (ranks - 1)
    return min(BETWEEN / outside, INSIDE / (1 - outside))


def plan() -> list[list[str]]:
    """Returns the rows of the plan: for each model and number of GPUs, with small buckets and with ours."""
    rows = []
    for name, parameters in MODELS.items():
        for ranks in (8, 64, 1024):
            tokens = BATCH / ranks
            compute = 6 * parameters * tokens / FLOPS
            size = bucket_bytes(ranks)
            found = simulate(compute, 4 * parameters, ranks, link_of(ranks), MESSAGE, size)
            small = simulate(compute, 4 * parameters, ranks, link_of(ranks), MESSAGE, BUCKET_BYTES)
            rows.append(
                [
                    f"{name}, {ranks:,}",
                    f"{tokens:,.0f}",
                    f"{1e3 * compute:,.1f}",
                    f"{found.bytes_sent / 1e9:.2f}",
                    f"{1e3 * small.seconds:,.1f}",
                    f"{1e3 * found.seconds:,.1f} ({size / 2**20:,.0f} MiB)",
                    f"{compute / found.seconds:.0%}",
                ]
            )
    return rows


HEADER = [
    "model, GPUs",
    "tokens a GPU",
    "arithmetic, ms",
    "GB sent a GPU",
    "step with buckets of 4 MiB, ms",
    "with ours, ms",
    "of it arithmetic",
]


# ---------------------------------------------------------------- this machine


def bandwidth_of_this_machine(num_bytes: int, count: int = 60) -> None:
    """Prints, on rank 0 of two, the seconds of an exchange of as many bytes in both directions, as JSON."""
    import time
    from array import array

    from tinygpt_core import Buffer, DType, backends
    from tinygpt_core.training.communicator import connect

    communicator = connect(backend="numpy")
    with backends.use("numpy"):
        here, there = (
            communicator.memory(
                Buffer.from_array(array("f", bytes(num_bytes)), (num_bytes // 4,), DType.float32)
            )
            for _ in range(2)
        )
    other = 1 - communicator.rank
    times = []
    for _ in range(count):
        communicator.barrier()
        started = time.perf_counter()
        communicator.exchange([(other, here)], [(other, there)]).wait()
        times.append(time.perf_counter() - started)
    communicator.close()
    if communicator.is_first:
        print(json.dumps(median(times)))


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Returns the step time of two processes on NumPy, predicted and measured.

    The prediction knows what one process alone takes for half a batch, the update included, and what an
    exchange takes. Half a batch is measured while another process does the same, since two cores share caches
    and memory.
    """
    import parallel

    half, both, sent, parameters = [], [], 0.0, 0
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(parallel.random_text())
        file.flush()
        options = argparse.Namespace(seconds=arguments.seconds)
        for _ in range(arguments.turns):
            two = parallel.turn("numpy", 2, 1, file.name, options)
            both.append(median(two["seconds"]))
            sent, parameters = two["bytes_sent"], two["parameters"]
            half.append(median(parallel.alone_beside_another("numpy-half", file.name, options)))
    own = [sys.executable, __file__, "--exchange", str(int(sent / 2) // 4 * 4)]
    said = subprocess.run(
        [parallel.mpiexec(), "-n", "2", *own], stdout=subprocess.PIPE, text=True, check=True, timeout=120
    ).stdout
    exchange = float(json.loads(said.strip().splitlines()[-1]))
    predicted = simulate(median(half), 4 * parameters, 2, (sent / 2) / exchange)
    return {
        "half a batch alone": median(half),
        "an exchange": exchange,
        "predicted": predicted.seconds,
        "measured": median(both),
    }


def main() -> int:
    """Prints the plan, or with --measure what was predicted and measured; returns 1 for a promise missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", action="store_true", help="predict and measure two processes here")
    parser.add_argument("--turns", type=int, default=4, help="of each side that is measured (default: 4)")
    parser.add_argument("--seconds", type=float, default=2.5, help="of steps in a turn (default: 2.5)")
    parser.add_argument("--json", metavar="FILE", help="write what was measured")
    parser.add_argument("--check", action="store_true", help="a promise that is not kept is an error")
    parser.add_argument("--exchange", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.exchange:
        bandwidth_of_this_machine(arguments.exchange)
        return 0
    print(f"# A plan: {BATCH:,} tokens a step, by arithmetic\n")
    print(pairing.table(HEADER, plan()) + "\n")
    promises = pairing.Promises()
    if arguments.measure:
        found = measure(arguments)
        print(f"# Two processes on this machine\n\n{pairing.machine('numpy', 'mpi4py')}\n")
        print(pairing.table(["what", "ms"], [[name, f"{1e3 * value:.2f}"] for name, value in found.items()]))
        error = found["predicted"] / found["measured"] - 1
        print()
        promises.say(abs(error) <= 0.15, f"the prediction is {error:+.1%} off the measurement (at most 15 %)")
        pairing.write_json(arguments.json, found)
    return int(arguments.check and promises.missed)


if __name__ == "__main__":
    sys.exit(main())
