"""What can be explained: a run's next step, its model on a prompt, a script's first backward(), a Tensor."""

from __future__ import annotations

import os
import runpy
import sys
from dataclasses import replace
from types import TracebackType
from typing import Any

from .. import backends, random
from ..buffer.base import Buffer
from ..dataset.batches import Batch
from ..dtype import DType
from ..generation import generate_ids
from ..instrumentation import Method, WrappedMethod
from ..tape import no_grad
from ..tensor import Tensor
from ..tokenizer.base import Tokenizer
from ..training import checkpoint
from ..training.config import TrainingConfig, describe_sizes
from ..training.conversations import saved_template
from ..training.data import BOUNDARY, prepare_data
from ..training.loop import Trainer
from ..training.runs import LOG, load_model
from ..training.statistics import SAMPLE, copies, statistics
from . import history, page, text
from .recorder import MOST_POSITIONS, Recorder, RecordingError
from .tape import differentiate, recorded_from_tape

MOST_TOKENS = 1024  # of a batch that is recorded; of more, the first rows
CONTINUATION = 24  # tokens written after a prompt
SAMPLED = f"Of large parameters {SAMPLE:,} evenly spaced elements are counted."


def explain_run(directory: str, prompt: str | None = None, backend: str | None = None) -> dict[str, Any]:
    """Returns the page's data for a run: its next training step, or its model continuing a prompt.

    Nothing of the step is kept in the run.

    Raises:
        ValueError: no usable checkpoint; or, without a prompt, a corpus that is not there any more.
    """
    return _training_step(directory, backend) if prompt is None else _generation(directory, prompt, backend)


def _training_step(directory: str, backend: str | None) -> dict[str, Any]:
    saved = checkpoint.load_checkpoint(directory)
    try:
        config = TrainingConfig.from_dict(saved.config["training"])
        if backend is not None:
            config = replace(config, backend=backend)
        sha256 = saved.config["data"]["sha256"]
    except KeyError as problem:
        raise RecordingError(
            f"{directory} was not trained here (its checkpoint lacks {problem}), so there is no next step: "
            "pass --prompt TEXT to see it write"
        ) from None
    dtype_facts: list[list[str]] = []
    if config.dtype not in getattr(backends.get(config.backend), "compute_dtypes", ("float32",)):
        dtype_facts = [["computed in", f"float32 (the run: {config.dtype})"]]
        config = replace(config, dtype="float32")
    config = replace(config, shards=1)  # the page shows a batch as a whole
    data = prepare_data(config, saved.tokenizer, sha256, saved_template(saved.config))
    begins_elsewhere = config.init_from is not None  # with weights that no seed gives
    trainer = Trainer(config, directory, data, saved if begins_elsewhere else None)
    model = trainer.model
    initial = []
    if not begins_elsewhere:
        initial = [{"step": 0, "label": "step 0, before training", "parameters": statistics(model)}]
    if saved.state["step"] and not begins_elsewhere:
        trainer.restore(saved)
    with trainer.context():
        step = trainer.step
        whole = data.training_batches.next_batch()
        batch = first_rows(whole)
        before = copies(model)
        trainer.optimizer.learning_rate = trainer.schedule(step)
        model.train()
        counted = [
            sum(target >= 0 for target in batch.targets[i * batch.shape[1] :][: batch.shape[1]])
            for i in range(batch.shape[0])
        ]
        with Recorder(sequence=counted.index(max(counted))) as recorder:
            loss = trainer.update([batch])
        now = {
            "step": step + 1,
            "label": f"step {step + 1}, this one",
            "parameters": statistics(model, before),
        }
    recorder = recorder.only()
    curves = history.read_log(os.path.join(directory, LOG))
    snapshots = [
        *initial,
        *(
            {"label": f"step {entry['step']}", **entry}
            for entry in curves["snapshots"]
            if entry["step"] <= step
        ),
        now,
    ]
    shape = f"{batch.shape[0]} × {batch.shape[1]} tokens"
    if batch.shape != whole.shape:
        shape += f" (the first of {whole.shape[0]} rows)"
    if config.accumulation > 1:
        shape += f" (the first of {config.accumulation} batches)"
    norm = trainer.update.gradient_norm
    facts = [
        ["loss", f"{loss:.4f}"],
        ["gradient norm", "not read back" if norm is None else f"{norm:.3g}"],
        ["learning rate", f"{trainer.schedule(step):.3g}"],
        ["batch", shape],
        *dtype_facts,
    ]
    note = "The last is the step on this page. "
    if initial:
        note = (
            "Step 0 is drawn again from the run's seed, which gives the very numbers it began with; the last "
            "is the step on this page. "
        )
    result = assemble(
        recorder,
        f"Training step {step + 1} of {os.path.basename(os.path.realpath(directory))}",
        f"{model_line(model)}, on {config.backend}",
        facts=facts,
        tokenizer=saved.tokenizer,
        ids=list(batch.inputs[recorder.sequence * batch.shape[1] :][: batch.shape[1]]),
        story="One step of learning. The model reads text, says for each token how probable every possible "
        "next token is, and is told which one came. Then the chain rule finds for each of its "
        f"{model.num_parameters():,} parameters which way it must move to be surprised less.",
        training=curves | {"snapshots": snapshots, "note": note + SAMPLED},
    )
    return result | {"batch_tokens": [text.token_text(saved.tokenizer, idx) for idx in batch.inputs]}


def first_rows(batch: Batch) -> Batch:
    """Returns the first rows of a batch: as many as make MOST_TOKENS tokens, but one at least."""
    rows, columns = batch.shape
    kept = min(rows, max(1, MOST_TOKENS // columns))
    count = kept * columns
    documents = None if batch.documents is None else batch.documents[:count]
    return Batch(batch.inputs[:count], batch.targets[:count], (kept, columns), documents)


def _generation(directory: str, prompt: str, backend: str | None) -> dict[str, Any]:
    model, tokenizer, config = load_model(directory, backend)
    data = config.get("data") or {}
    start = [tokenizer.special_tokens[BOUNDARY]] if data.get("is_documents") else []
    ids = start + list(tokenizer.encode(prompt or data.get("opening", ""), "none"))
    if not ids:
        raise RecordingError("there is nothing to begin with: pass some text with --prompt")
    with backends.use(config["training"]["backend"]):
        room = min(model.config.context_length, MOST_POSITIONS)
        ids = ids[:room]
        stop = start[0] if start else None
        unknown = tokenizer.unknown_ids(model.config.vocab_size)
        room = min(CONTINUATION, room - len(ids))
        for draw in range(8):  # a document may end at once, and little is to be seen in one letter
            written = list(
                generate_ids(
                    model, ids, tokens=room, generator=random.Generator(draw), stop_id=stop, excluded=unknown
                )
            )
            if len(written) >= min(room, 6):
                break
        whole = ids + written
        model.eval()
        with Recorder() as recorder, no_grad():
            logits = model(Tensor(Buffer([whole], DType.int32)))
        recorder = recorder.only(logits)
        recorder.logits = logits.buffer[0]
        recorder.targets = Buffer([*whole[1:], -1], DType.int32)
    training = history.read_log(os.path.join(directory, LOG))
    shown = {"step": 0, "label": "the weights that were used", "parameters": statistics(model)}
    training["snapshots"] = [
        *({"label": f"step {entry['step']}", **entry} for entry in training["snapshots"]),
        shown,
    ]
    result = assemble(
        recorder,
        f"{os.path.basename(os.path.realpath(directory))} writes",
        f"{model_line(model)}, on {config['training']['backend']}",
        facts=[["tokens read", f"{len(ids)}"], ["written", f"{len(written)}"]],
        tokenizer=tokenizer,
        ids=whole,
        story="A model writes. It reads what is there, says how probable every possible next token is, and "
        "one is drawn; then it reads that, too. Shown is one pass over all of the text: what it looked at, "
        "and what it expected in each place.",
        training=training | {"note": SAMPLED},
    )
    result["is_generation"] = True
    if result["tokens"]:
        result["tokens"]["prompt_length"] = len(ids)
    return result


class _Finished(BaseException):
    """The first backward() of a script is done.

    Not an Exception, so that the script's own handlers let it pass.
    """


def explain_script(path: str) -> dict[str, Any]:
    """Runs a script until its first `backward()` is done and returns the page's data for it.

    The script is really run: it can do anything.

    Raises:
        RecordingError: the script ended before any `backward()`, or raised something.
        OSError: there is no such file.
    """
    outcome: list[Tensor] = []

    def stop_after(original: Method) -> Method:
        def backward(tensor: Tensor, *arguments: Any, **options: Any) -> None:
            original(tensor, *arguments, **options)
            outcome.append(tensor)
            raise _Finished

        return backward

    arguments = sys.argv
    folder = os.path.dirname(os.path.abspath(path))
    tokenizer = None
    sys.argv = [path]
    sys.path.insert(0, folder)
    recorder = Recorder()
    try:
        with recorder, WrappedMethod(Tensor, "backward", stop_after):
            runpy.run_path(path, run_name="__main__")
    except _Finished as finished:
        tokenizer = _tokenizer_of(finished.__traceback__)
    except SystemExit:
        pass  # it ended before any backward(), as is said below
    except Exception as problem:
        if isinstance(problem, (RecordingError, OSError)) and not recorder.operations:
            raise
        raise RecordingError(f"{path} raised {type(problem).__name__}: {problem}") from problem
    finally:
        sys.argv = arguments
        sys.path.remove(folder)
    if not outcome:
        raise RecordingError(
            f"{path} ended before any backward(): there is no training step in it to explain"
        )
    return explain_recorded(recorder.only(outcome[0]), outcome[0], os.path.basename(path), tokenizer)


def _tokenizer_of(trace: TracebackType | None) -> Tokenizer | None:
    """Returns the tokenizer among the variables of the functions that led to the backward, if any."""
    found = None
    while trace is not None:
        for value in (*trace.tb_frame.f_globals.values(), *trace.tb_frame.f_locals.values()):
            found = value if isinstance(value, Tokenizer) else found
        trace = trace.tb_next
    return found


def explain_tensor(tensor: Tensor) -> dict[str, Any]:
    """Returns the page's data for what made a Tensor of any shape.

    That is what an open `Recorder` saw of it; where none is open, what the Tensor's own records show.
    """
    recorder = Recorder.current()
    if recorder is None:
        return explain_recorded(recorded_from_tape(tensor), tensor, "A Tensor and what made it", None)
    steps = list(recorder.steps)
    if tensor.grad_fn is not None and not any(phase == "backward" for phase, _ in steps):
        differentiate(tensor)
    part = recorder.only(tensor)
    recorder.steps = steps  # without the way back, which was walked for this page only
    return explain_recorded(part, tensor, "What was recorded", None)


def explain_recorded(
    recorder: Recorder, output: Tensor, title: str, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """Returns the page's data for a recording, of which `output`, of any shape, is the result."""
    ids: list[int] = []
    if recorder.targets is not None:
        length = recorder.targets.numel
        rows = (_ids(buffer, length) for buffer in recorder.recorded_buffers())
        ids = next((row for row in rows if row), [])
    facts = [
        ["result", f"{output.item():.5g}" if output.numel == 1 else str(output.shape)],
        ["backend", output.backend],
    ]
    return assemble(
        recorder,
        title,
        f"The way to a Tensor of shape {output.shape}",
        facts=facts,
        tokenizer=tokenizer,
        ids=ids,
        training=None,
        story="Operations made this Tensor, each from what others made, or from parameters and inputs. Going "
        "back the same way, the chain rule says how much it depends on each of them.",
    )


def _ids(buffer: Buffer, length: int) -> list[int]:
    """Returns the first row of a buffer that looks like the token ids that were read, or nothing.

    Those are integers, in rows as long as the targets.
    """
    if buffer.dtype.kind != "i" or buffer.ndim not in (1, 2) or buffer.shape[-1] < length:
        return []
    row: list[int] = (buffer if buffer.ndim == 1 else buffer[0])[:length].to_python()
    return row


def assemble(
    recorder: Recorder,
    title: str,
    about: str,
    *,
    facts: list[list[str]],
    tokenizer: Tokenizer | None,
    ids: list[int],
    story: str,
    training: Any,
) -> dict[str, Any]:
    """Returns all that a page shows."""
    graph = recorder.to_dict()
    forward = sum(operation.get("seconds", 0.0) for operation in graph["operations"])
    backward = sum(operation.get("backward_seconds", 0.0) for operation in graph["operations"])
    facts = [*facts, ["operations", f"{len(graph['operations']):,}"]]
    if forward:
        facts.append(["forward", _time(forward)])
    if backward:
        facts.append(["backward", _time(backward)])
    missing = {
        "attention": "No operation of attention was recorded, so there are no maps of it.",
        "tokens": "No CrossEntropy of token ids was recorded, so there are no token probabilities.",
        "merges": "No tokenizer is known here. Explain a run, or a script that has one among its variables.",
        "training": "There is no log here. Explain a run's directory to see its training over time.",
    }
    tokens = None
    if recorder.logits is not None and recorder.targets is not None and recorder.logits.ndim == 2:
        shown = ids[: recorder.targets.numel]
        counted = recorder.counted
        if counted is not None and counted.shape != recorder.logits.shape:  # of another pass
            counted = None
        targets = recorder.targets.to_python()
        tokens = text.predictions(tokenizer, shown, recorder.logits, targets, counted=counted)
        if recorder.num_positions > MOST_POSITIONS:
            tokens["cut"] = f"Of {recorder.num_positions} positions the first {MOST_POSITIONS} are shown."
    attention = [attention_layer(recorder, entry, graph["calls"]) for entry in recorder.attention] or None
    words = text.plain_text(tokenizer, ids) if tokenizer and ids else ""
    return {
        "title": title,
        "about": about,
        "story": story,
        "facts": facts,
        "graph": graph,
        "attention": attention,
        "tokens": tokens,
        "batch_tokens": tokens["texts"] if tokens else [],  # of all rows, one after the other
        "merges": text.merges(tokenizer, words) if tokenizer and words else None,
        "training": training,
        "missing": missing,
        "is_generation": False,
    }


def attention_layer(recorder: Recorder, entry: dict[str, Any], calls: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns one layer's attention maps, with its name."""
    operation = recorder.operations[entry["operation"]]
    if operation["call"] >= 0:
        name = recorder.calls[operation["call"]]["name"]
    else:
        name = f"operation {entry['operation'] + 1}"
    length = entry["length"]
    cut = f"Of {length} positions the first {MOST_POSITIONS} are shown." if length > MOST_POSITIONS else ""
    return {
        "name": name,
        "label": name,
        "operation": entry["operation"],
        "heads": [page.matrix(rows) for rows in entry["heads"]],
        "experts": entry.get("experts"),
        "cut": cut,
    }


def model_line(model: Any) -> str:
    """Returns a model in one line."""
    config = model.config
    sizes = f"{describe_sizes(config)}, context {config.context_length}"
    return f"GPT with {model.num_parameters():,} parameters: {sizes}"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
