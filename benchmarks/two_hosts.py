"""A run between two hosts that lie on one machine: network namespaces with addresses of their own, joined by
a cable that can be cut.

    sudo python benchmarks/two_hosts.py [--check]

Needs Linux, root, iproute2 (`ip`), and mpi4py with MPICH (`pip install mpi4py mpich`), whose mpiexec starts
the second rank in the second namespace by a stand-in for ssh. UCX, which carries MPICH's messages, would use
the shared memory of the one machine that both hosts are; it is told not to, so the messages go over the
cable, and the bytes that went over it are counted. Then a run is cut off in the middle, and resumed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pairing  # beside this file; puts the repository on sys.path

sys.path.insert(0, str(pairing.ROOT / "tests"))

from mpi_runs import MPIEXEC, environment, log_of

HOSTS = ("10.77.0.1", "10.77.0.2")
NAMESPACES = ("tinygpt-a", "tinygpt-b")
CABLE = ("tinygpt-0", "tinygpt-1")  # the ends of it
TIMEOUT = 4  # seconds that a rank waits for the other
REMOTE_SHELL = """#!/bin/sh
# mpiexec calls this as it would call ssh: [options] HOST COMMAND...
while [ "${1#-}" != "$1" ]; do shift; done
case "$1" in %s) name=%s ;; %s) name=%s ;; *) exit 255 ;; esac
shift
exec ip netns exec $name /bin/sh -c "$*"
"""


def ip(*arguments: str, check: bool = True) -> str:
    """Returns what the command `ip` prints."""
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=check).stdout


def join() -> None:
    """Makes two namespaces and joins them by a cable."""
    for name in NAMESPACES:
        ip("netns", "add", name)
    ip("link", "add", CABLE[0], "type", "veth", "peer", "name", CABLE[1])
    for name, end, host in zip(NAMESPACES, CABLE, HOSTS, strict=True):
        ip("link", "set", end, "netns", name)
        ip("-n", name, "addr", "add", f"{host}/24", "dev", end)
        ip("-n", name, "link", "set", end, "up")
        ip("-n", name, "link", "set", "lo", "up")


def part() -> None:
    """Removes what `join` made."""
    for name in NAMESPACES:
        ip("netns", "delete", name, check=False)


def bytes_on_the_cable() -> int:
    """Returns how many bytes have gone over the cable, both ways."""
    path = f"/sys/class/net/{CABLE[0]}/statistics"
    found = subprocess.run(
        ["ip", "netns", "exec", NAMESPACES[0], "cat", f"{path}/rx_bytes", f"{path}/tx_bytes"],
        capture_output=True,
        text=True,
        check=True,
    )
    return sum(map(int, found.stdout.split()))


def begin(place: Path, *options: object) -> subprocess.Popen[str]:
    """Starts a run with a rank on each host."""
    command = ["ip", "netns", "exec", NAMESPACES[0], str(MPIEXEC)]
    command += ["-genv", "UCX_TLS", "tcp,self", "-genv", "MPIR_CVAR_NOLOCAL", "1"]
    command += ["-launcher", "ssh", "-launcher-exec", str(place / "shell"), "-iface", CABLE[0]]
    command += ["-hosts", ",".join(HOSTS), "-n", "2", sys.executable, "-m", "tinygpt_core", "train"]
    known = environment()
    known["PATH"] = f"{Path(str(MPIEXEC)).parent}:{known['PATH']}"
    return subprocess.Popen(
        [*command, *map(str, options)], env=known, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def left_over(directory: Path) -> int:
    """How many processes of a run there still are."""
    count = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        count += b"tinygpt_core" in words and str(directory).encode() in words
    return count


def measure(place: Path) -> dict[str, Any]:
    """Returns what came of a run as a whole, and of one that was cut off and resumed."""
    shell = place / "shell"
    shell.write_text(REMOTE_SHELL % (HOSTS[0], NAMESPACES[0], HOSTS[1], NAMESPACES[1]))
    shell.chmod(0o755)
    settings = ["--preset", "debug", "--backend", "python", "--steps", 30, "--quiet", "--checkpoint-every", 5]
    one = [sys.executable, "-m", "tinygpt_core", "train", *settings, "--shards", 2, "--out", place / "one"]
    subprocess.run(list(map(str, one)), env=environment(), stdout=subprocess.DEVNULL, check=True)
    found: dict[str, Any] = {}

    def same(directory: Path) -> bool:
        files = ("model.safetensors", "optimizer.safetensors")
        equal = all((directory / name).read_bytes() == (place / "one" / name).read_bytes() for name in files)
        return equal and log_of(directory) == log_of(place / "one")

    before = bytes_on_the_cable()
    run = begin(place, *settings, "--out", place / "two")
    said = run.communicate(timeout=300)[0]
    if run.returncode:
        sys.exit(said)
    found["bytes on the cable"] = bytes_on_the_cable() - before
    found["same bits"] = same(place / "two")

    directory = place / "cut"
    run = begin(place, *settings, "--out", directory, "--collective-timeout", TIMEOUT)
    while not (directory / "log.jsonl").exists() or len(log_of(directory)) < 12:
        time.sleep(0.05)
        if run.poll() is not None:
            sys.exit(run.communicate()[0])
    ip("-n", NAMESPACES[1], "link", "set", CABLE[1], "down")
    cut = time.monotonic()
    found["said"] = run.communicate(timeout=60)[0].strip()
    found["seconds to the end"] = time.monotonic() - cut
    while left_over(directory) and time.monotonic() < cut + 60:
        time.sleep(0.1)
    found["seconds to the end of all"] = time.monotonic() - cut
    ip("-n", NAMESPACES[1], "link", "set", CABLE[1], "up")
    run = begin(place, "--resume", directory, "--quiet")
    said = run.communicate(timeout=300)[0]
    found["resumed to the same bits"] = run.returncode == 0 and same(directory)
    return found


def main() -> int:
    """Trains over the cable and cuts it; returns 1 where --check finds a missed promise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", metavar="FILE", help="write what came of it")
    parser.add_argument("--check", action="store_true", help="a promise that is not kept is an error")
    arguments = parser.parse_args()
    if MPIEXEC is None or os.geteuid() != 0:
        sys.exit("this needs root, and mpi4py with an mpiexec: pip install mpi4py mpich")
    part()
    join()
    try:
        with tempfile.TemporaryDirectory() as place:
            found = measure(Path(place))
    finally:
        part()
    print(f"# Two hosts\n\n{pairing.machine('mpi4py', 'mpich')}\n")
    print(pairing.table(["what", "found"], [[name, value] for name, value in found.items()]) + "\n")
    promises = pairing.Promises()
    promises.say(found["same bits"], "two ranks on two hosts give the bits of one process")
    promises.say(found["bytes on the cable"] > 30 * 2 * 7648, "the gradients went over the cable")
    promises.say(
        found["seconds to the end of all"] < 15 and found["said"].count("tinygpt: error:") == 1,
        "one that is cut off ends all within 15 s, with one line",
    )
    promises.say(found["resumed to the same bits"], "and is resumed to the same bits")
    pairing.write_json(arguments.json, found)
    return int(arguments.check and promises.missed)


if __name__ == "__main__":
    sys.exit(main())
