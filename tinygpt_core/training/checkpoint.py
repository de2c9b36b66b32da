"""A directory that holds all of a training run, whole at every moment.

    config.json              the settings of the run and of the model, and the format's version
    tokenizer                the trained tokenizer
    model.safetensors        the weights
    optimizer.safetensors    the optimizer's moments
    state.json               the step, the data order, the random numbers; and of each of the four files
                             above its size and SHA-256, and the SHA-256 of the state itself
    log.jsonl                one line a step (written by the training loop, not part of a checkpoint)

Several files cannot be replaced at once, so saving has two phases. First all of them are written beside the
old ones as `NAME.next` and flushed to the disk. Then state.json is replaced: that one rename is the moment at
which the new checkpoint is the checkpoint. Last, the `.next` files are renamed into place. A process that
dies before the rename leaves the old checkpoint; one that dies after it leaves the new one, and whoever saves
or resumes there next finishes the renames. The digests in state.json tell which file is which. Whoever reads
changes nothing, and may read while another process saves: if a file was replaced meanwhile, it reads again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from typing import Any, NamedTuple

from ..buffer.base import Buffer
from ..files.atomic import Path, Written, atomic_write, remove_temporary_files, sync_directory, write_durably
from ..files.json_objects import (
    SerializationError,
    json_bytes,
    parse_json_object,
    read_json_object,
    write_json,
)
from ..files.reading import open_file
from ..files.safetensors import OpenSafetensors, load_safetensors, safetensors_chunks
from ..tokenizer.files import load_tokenizer, save_tokenizer
from .log_reading import LONGEST_LINE

FORMAT_VERSION = 1
CONFIG = "config.json"
TOKENIZER = "tokenizer"
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
FILES = (CONFIG, TOKENIZER, MODEL, OPTIMIZER)
NEXT = ".next"
ATTEMPTS = 100  # to read while another process saves, a hundredth of a second apart


class CheckpointError(ValueError):
    """A directory that holds no usable checkpoint; the message names the file and what would work."""


class Checkpoint(NamedTuple):
    """What `load_checkpoint` found."""

    config: dict[str, Any]
    tokenizer: Any
    model_tensors: Mapping[str, Buffer]
    optimizer_tensors: dict[str, Buffer]
    state: dict[str, Any]


def save_checkpoint(
    directory: Path,
    *,
    config: Mapping[str, Any],
    tokenizer: Any,
    model_tensors: Mapping[str, Buffer],
    optimizer_tensors: Mapping[str, Buffer],
    state: Mapping[str, Any],
) -> None:
    """Replaces the checkpoint in `directory` (made if needed) by a new one; one of them is always there.

    Tensors are of any shape and stand under their names.

    Raises:
        CheckpointError: the directory cannot be made or written to.
    """
    directory = os.fspath(directory)
    config_bytes = json_bytes({"format_version": FORMAT_VERSION, **config})
    try:
        os.makedirs(directory, exist_ok=True)
        finish_renames(directory)
        # Everything beside the old files
        written = {
            CONFIG: write_durably(_next(directory, CONFIG), config_bytes),
            MODEL: write_durably(_next(directory, MODEL), safetensors_chunks(model_tensors)),
            OPTIMIZER: write_durably(_next(directory, OPTIMIZER), safetensors_chunks(optimizer_tensors)),
        }
        save_tokenizer(tokenizer, _next(directory, TOKENIZER))
        written[TOKENIZER] = _digest(_next(directory, TOKENIZER))
        sync_directory(directory)
        # The moment at which the new checkpoint is the checkpoint
        files = {name: {"size": size, "sha256": digest} for name, (size, digest) in written.items()}
        whole_state = {
            "format_version": FORMAT_VERSION,
            "files": files,
            "state": dict(state),
            "state_sha256": _state_digest(state),
        }
        write_json(os.path.join(directory, STATE), whole_state, replace_anything=True)
        # Everything into its place
        for name in written:
            os.replace(_next(directory, name), os.path.join(directory, name))
        sync_directory(directory)
    except OSError as problem:
        raise CheckpointError(
            f"cannot write a checkpoint to {directory}: {problem}; choose another directory"
        ) from problem


def load_checkpoint(directory: Path, optimizer: bool = True, *, opened: bool = False) -> Checkpoint:
    """Returns the checkpoint in `directory`; without the optimizer's tensors where only the model is wanted.

    Args:
        opened: whether the model's tensors are an `OpenSafetensors`, which reads each when it is asked for.
            They stay those of this checkpoint while another is saved there.

    Raises:
        CheckpointError: there is none, a file is missing, truncated or changed since it was written, or the
            format is newer.
    """
    directory = os.fspath(directory)
    paths = [os.path.join(directory, STATE)]
    for name in FILES:
        paths += [os.path.join(directory, name), _next(directory, name)]
    for _ in range(ATTEMPTS):
        before = {path: _stamp(path) for path in paths}
        problem: Exception | None = None
        used = paths
        try:
            found, used = _load(directory, optimizer, opened)
        except (OSError, ValueError) as raised:
            problem = raised
        is_unchanged = all(_stamp(path) == before[path] for path in used)
        if is_unchanged and problem is None:
            return found
        if is_unchanged and isinstance(problem, CheckpointError):
            raise problem
        if is_unchanged:
            raise CheckpointError(f"the checkpoint in {directory} cannot be read: {problem}") from problem
        time.sleep(0.01)  # another process has saved meanwhile
    raise CheckpointError(
        f"the checkpoint in {directory} changes faster than it can be read: try again later"
    )


def _load(directory: str, optimizer: bool, opened: bool) -> tuple[Checkpoint, list[str]]:
    """Returns the checkpoint and the files that it was read from."""
    files, state = _read_state(directory)
    paths = {
        name: _locate(directory, name, expected)
        for name, expected in files.items()
        if optimizer or name != OPTIMIZER
    }
    config = read_json_object(paths[CONFIG])
    _check_version(config, paths[CONFIG])
    found = Checkpoint(
        config={name: value for name, value in config.items() if name != "format_version"},
        optimizer_tensors=load_safetensors(paths[OPTIMIZER]) if optimizer else {},
        tokenizer=load_tokenizer(paths[TOKENIZER]),
        state=state,
        model_tensors=OpenSafetensors(paths[MODEL]) if opened else load_safetensors(paths[MODEL]),
    )
    return found, [os.path.join(directory, STATE), *paths.values()]


def _stamp(path: str) -> tuple[int, ...] | None:
    """Returns what changes when a file is replaced or written to; None where there is no file."""
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_ino, about.st_mtime_ns, about.st_size


def _next(directory: str, name: str) -> str:
    """Returns where the next version of a file is written."""
    return os.path.join(directory, name + NEXT)


def _check_version(value: Mapping[str, Any], path: str) -> None:
    version = value.get("format_version")
    if type(version) is not int or version < 1:
        raise CheckpointError(f"{path} has no format_version: it is not a file of a tinygpt checkpoint")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}, newer than the {FORMAT_VERSION} read here: upgrade tinygpt"
        )


def _read_state(directory: str) -> tuple[dict[str, Written], dict[str, Any]]:
    """Returns what state.json says of the other files, and the run's own state."""
    path = os.path.join(directory, STATE)
    if not os.path.isdir(directory):
        raise CheckpointError(f"there is no directory {directory}: pass the DIR that `tinygpt train` printed")
    if not os.path.isfile(path):
        raise CheckpointError(
            f"{directory} holds no checkpoint (no {STATE}): "
            "it is not the directory of a run of `tinygpt train`"
        )
    value = read_json_object(path)
    _check_version(value, path)
    files = value.get("files")
    state = value.get("state")
    if not isinstance(files, dict) or set(files) != set(FILES) or not isinstance(state, dict):
        raise CheckpointError(f"{path} is not the state of a checkpoint: it lists other files, or none")
    result = {}
    for name, entry in files.items():
        size = entry.get("size") if isinstance(entry, dict) else None
        digest = entry.get("sha256") if isinstance(entry, dict) else None
        if type(size) is not int or not isinstance(digest, str):
            raise CheckpointError(f"{path} gives no size and SHA-256 for {name}")
        result[name] = Written(size, digest)
    # Runs of earlier versions lack it
    if "state_sha256" in value and value["state_sha256"] != _state_digest(state):
        raise CheckpointError(
            f"the state in {path} does not have the SHA-256 it was written with: "
            "it was changed; restore it from a copy, or train again"
        )
    return result, state


def _state_digest(state: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a run's state, whatever the order and the spaces it stands in."""
    text = json.dumps(state, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def _digest(path: str) -> Written:
    digest = sha256()
    size = 0
    with open_file(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
    return Written(size, digest.hexdigest())


def _matches(path: str, expected: Written) -> bool:
    """Whether a file is there with that size and those bytes; the size is looked at first."""
    return os.path.isfile(path) and os.path.getsize(path) == expected.size and _digest(path) == expected


def _locate(directory: str, name: str, expected: Written) -> str:
    """Returns where the file of the current checkpoint lies: in its place, or still beside it."""
    path = os.path.join(directory, name)
    for place in (path, _next(directory, name)):
        if _matches(place, expected):
            return place
    if not os.path.isfile(path):
        raise CheckpointError(f"{path} is missing: the checkpoint in {directory} is not whole")
    size = os.path.getsize(path)
    if size != expected.size:
        what = f"has {size:,} bytes instead of {expected.size:,}"
    else:
        what = "does not have the SHA-256 it was written with"
    raise CheckpointError(
        f"{path} {what}: it was truncated or changed; restore it from a copy, or train again"
    )


def finish_renames(directory: str) -> None:
    """Completes the renames of an interrupted save: new `.next` files may overwrite those that it needs.

    Raises:
        CheckpointError: a file of the checkpoint is missing or damaged.
    """
    pending = any(os.path.exists(_next(directory, name)) for name in FILES)
    if pending and os.path.isfile(os.path.join(directory, STATE)):
        files, _ = _read_state(directory)
        for name, expected in files.items():
            place = _locate(directory, name, expected)
            if place != os.path.join(directory, name):
                os.replace(place, os.path.join(directory, name))


def tidy(directory: str) -> None:
    """Makes the files in a directory those of its checkpoint, whenever the last save there was interrupted.

    Only for who has locked the directory.

    Raises:
        CheckpointError: a file of the checkpoint is missing or damaged.
    """
    finish_renames(directory)
    remove_unfinished(directory)


def remove_unfinished(directory: str) -> None:
    """Removes what an interrupted save has left: `.next` and temporary files. Never the checkpoint itself."""
    for name in FILES:
        with suppress(OSError):
            os.unlink(_next(directory, name))
    remove_temporary_files(directory, [name for file in (*FILES, STATE) for name in (file, file + NEXT)])


def fingerprint(directory: str) -> tuple[int, ...] | None:
    """Returns what changes whenever another checkpoint is saved in a directory; None where there is none."""
    return _stamp(os.path.join(directory, STATE))


def truncate_log(path: Path, step: int) -> None:
    """Drops the lines of a log that are later than `step` or half-written, atomically.

    A missing log stays missing. What an earlier call has left that was killed is removed.
    """
    folder, name = os.path.split(os.path.abspath(path))
    remove_temporary_files(folder, [name])
    if os.path.exists(path):
        atomic_write(path, _lines_until(path, step), replace_anything=True)


def _lines_until(path: Path, step: int) -> Iterator[bytes]:
    with open_file(path) as file:
        while line := file.readline(LONGEST_LINE):
            if not line.endswith(b"\n"):
                return
            try:
                found = parse_json_object(line, "a line").get("step")
            except SerializationError:
                return
            if type(found) is int and found <= step:
                yield line
