"""The protocol of the live microscope: a method's name and parameters in, plain JSON values out.

    {"method": "forward", "params": {"text": "get_"}}    ->    {"result": {...}}  or  {"error": "..."}

Whoever asks can reach nothing but these methods: no file is named by a parameter, no code is run. Two engines
serve them: `server` over a loopback socket, and the page's worker inside a browser. `METHODS` is the list.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .. import backends, random
from ..dataset.corpora import Corpus, load_corpus
from ..explain.text import loss_of, merges, token_text
from ..generation import sampling_candidates, without
from ..nn.gpt import OPTIONS
from ..nn.lora import lora_config
from ..printable import escape_unprintable
from ..tokenizer.base import Tokenizer
from ..training.checkpoint import load_checkpoint
from ..training.config import TrainingConfig, describe_sizes
from ..training.data import BOUNDARY
from ..training.runs import load_model
from .cells import explain_attention, explain_cell
from .session import TrainingSession
from .views import MOST_POSITIONS, PARTS, Switches, Trace, softmax, trace

MOST_CHARACTERS = 100_000  # of a text; of a longer one the end is read
MOST_CORPUS = 2_000_000  # characters of a text to train on
MOST_SHOWN = 50  # tokens of a distribution
MOST_CELLS = 20_000  # of a view that is sent whole
MOST_ROWS = 512  # of a parameter that are sent
LONGEST_REQUEST = 4 * MOST_CORPUS + 100_000  # bytes: a character has at most four
SHOWN_OPTIONS = {"ngram_tables", "ngram_prior"}  # of a model
SEED_LIMIT = 2**53  # integers of JSON that a browser keeps exact


class ProtocolError(ValueError):
    """A request that makes no sense; the message says why."""


class Parameters:
    """The parameters of a request, each checked as it is read.

    Args:
        values: as they came.

    Raises:
        ProtocolError: what was asked for does not fit; the message says what would.
    """

    def __init__(self, values: Any) -> None:
        if not isinstance(values, Mapping):
            raise ProtocolError("params must be an object of names and values")
        self.values = values

    def text(self, name: str, most: int, default: str | None = None) -> str:
        """Returns a text; one without surrogates, which no tokenizer takes.

        Raises:
            ProtocolError: what was asked for does not fit; the message says what would.
        """
        value = self.values.get(name, default)
        if not isinstance(value, str):
            raise ProtocolError(f"{name} must be a text")
        if len(value) > most:
            raise ProtocolError(f"{name} may have at most {most:,} characters, not {len(value):,}")
        return value.encode("utf-8", "replace").decode("utf-8")

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """Returns an integer from `low` to `high`.

        Raises:
            ProtocolError: what was asked for does not fit; the message says what would.
        """
        value = self.values.get(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise ProtocolError(f"{name} must be an integer from {low} to {high}, not {_short(value)}")
        return value

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """Returns a number from `low` to `high`.

        Raises:
            ProtocolError: what was asked for does not fit; the message says what would.
        """
        value = self.values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ProtocolError(f"{name} must be a number from {low} to {high}, not {_short(value)}")
        return float(value)

    def optional(self, name: str, read: Callable[[str], Any]) -> Any:
        """Returns None where a parameter is missing or null, else what `read` makes of it."""
        return None if self.values.get(name) is None else read(name)

    def flag(self, name: str) -> bool:
        """Returns a truth value, False by default.

        Raises:
            ProtocolError: what was asked for does not fit; the message says what would.
        """
        value = self.values.get(name, False)
        if not isinstance(value, bool):
            raise ProtocolError(f"{name} must be true or false, not {_short(value)}")
        return value

    def integers(self, name: str, most: int) -> list[int]:
        """Returns a list of integers that are not negative.

        Raises:
            ProtocolError: what was asked for does not fit; the message says what would.
        """
        value = self.values.get(name)
        if not isinstance(value, list) or len(value) > most:
            raise ProtocolError(f"{name} must be a list of at most {most} integers")
        if any(type(item) is not int or not 0 <= item < SEED_LIMIT for item in value):
            raise ProtocolError(f"{name} must be a list of integers of at least 0")
        return value

    def switches(self) -> Switches:
        """Returns what is to be switched off: lists `heads` and `parts` of pairs.

        Raises:
            ProtocolError: what was asked for does not fit; the message says what would.
        """
        found: dict[str, frozenset[Any]] = {}
        for name, kind in (("heads", int), ("parts", str)):
            pairs = self.values.get(name) or []
            if not isinstance(pairs, list) or len(pairs) > 10_000:
                raise ProtocolError(f"{name} must be a list of pairs")
            for pair in pairs:
                if (
                    not isinstance(pair, list)
                    or len(pair) != 2
                    or type(pair[0]) is not int
                    or type(pair[1]) is not kind
                ):
                    raise ProtocolError(f"{name} must be a list of pairs of a block and a {kind.__name__}")
            found[name] = frozenset((pair[0], pair[1]) for pair in pairs)
        return Switches(**found)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


class Microscope:
    """All that a page can ask of one run, or of several.

    Args:
        runs: the directories that may be opened, by the names that the page sees; the first is opened.
        corpora: text files, one document a line, by the names that the page sees; they stand for corpora that
            this Python cannot make.
        backend: where the models live; default: the one of each run.

    Attributes:
        session: the model in training, or None.

    Raises:
        ProtocolError: what was asked for does not fit; the message says what would.
    """

    def __init__(
        self, runs: Mapping[str, str], corpora: Mapping[str, str] | None = None, backend: str | None = None
    ) -> None:
        if not runs:
            raise ProtocolError("there is no run to look into")
        self.runs = dict(runs)
        self.corpora = dict(corpora or {})
        self.backend = backend
        self.session: TrainingSession | None = None
        self._trace: Trace | None = None
        self._baseline: Trace | None = None
        self._key: Any = None
        self._is_training_shown = False
        self._open(next(iter(self.runs)))

    # ---- requests

    def answer(self, request: Any) -> dict[str, Any]:
        """Returns the answer to a request: an object with `result`, or with `error`, one line of text."""
        try:
            if not isinstance(request, Mapping) or not isinstance(request.get("method"), str):
                raise ProtocolError("a request is an object with a method and params")
            method = METHODS.get(request["method"])
            if method is None:
                raise ProtocolError(f"there is no method {_short(request['method'])}")
            with backends.use(self.backend_name):
                return {"result": method(self, Parameters(request.get("params") or {}))}
        except (
            ValueError,
            ArithmeticError,
            OSError,
            TypeError,
            LookupError,
            MemoryError,
            RuntimeError,
        ) as problem:
            return {"error": escape_unprintable(" ".join(str(problem).split())) or type(problem).__name__}

    def answer_text(self, text: str | bytes) -> str:
        """Returns the answer, as JSON text, to a request in JSON."""
        if len(text) > LONGEST_REQUEST:
            return json.dumps({"error": f"a request may have at most {LONGEST_REQUEST:,} bytes"})
        try:
            request = json.loads(text)
        except (ValueError, RecursionError):
            return json.dumps({"error": "a request is JSON, and this is none"})
        answer = self.answer(request)
        try:
            return json.dumps(answer, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
        except ValueError:
            return json.dumps(finite(answer), ensure_ascii=True, separators=(",", ":"), allow_nan=False)

    # ---- the run

    def _open(self, name: str) -> None:
        if name not in self.runs:
            raise ProtocolError(f"there is no run {_short(name)}")
        model, tokenizer, config = load_model(self.runs[name], self.backend)
        unshown = sorted(model.config.to_dict().keys() & OPTIONS.keys() - SHOWN_OPTIONS)
        if lora_config(model) is not None:
            raise ProtocolError(
                f"run {_short(name)} has adapters (LoRA), which are not shown here: "
                "`convert --merge --to native` makes one model of it"
            )
        if unshown:
            raise ProtocolError(f"run {_short(name)} has {', '.join(unshown)}, which is not shown here yet")
        self.model = model
        self.tokenizer = tokenizer
        self.config = config
        self.name = name
        self._forget()

    def _forget(self) -> None:
        self._trace = self._baseline = self._key = None

    @property
    def backend_name(self) -> str:
        """Where the model lives."""
        return str(self.config["training"]["backend"])

    @property
    def boundary(self) -> int | None:
        """The token before and after a document, where the run is of documents."""
        if not self.config["data"]["is_documents"]:
            return None
        boundary: int = self.tokenizer.special_tokens[BOUNDARY]
        return boundary

    def about(self, params: Parameters) -> dict[str, Any]:
        """Returns what there is: the runs, the model that is open, the corpora one can train on."""
        config = self.model.config
        return {
            "runs": list(self.runs),
            "run": self.name,
            "shows_training": self._is_training_shown,
            "model": config.to_dict(),
            "sizes": describe_sizes(config),
            "context_length": min(config.context_length, MOST_POSITIONS),
            "layers": config.num_layers,
            "heads": config.num_heads,
            "key_value_heads": config.key_value_heads,
            "parameters": self.model.num_parameters(),
            "tokenizer": self.tokenizer.kind,
            "vocabulary": self.tokenizer.vocab_size,
            "is_documents": self.config["data"]["is_documents"],
            "opening": self.config["data"]["opening"],
            "backend": self.backend_name,
            "corpora": self._corpora(),
            "parts": list(PARTS),
        }

    def open(self, params: Parameters) -> dict[str, Any]:
        """Opens another of the runs; returns what `about` does.

        Raises:
            ProtocolError: what was asked for does not fit; the message says what would.
        """
        self._open(params.text("run", 1000))
        self._is_training_shown = False
        return self.about(params)

    # ---- reading a text

    def _ids(self, text: str) -> tuple[list[int], int]:
        """Returns the tokens that the model reads, and how many it does not since there is no room."""
        start = [] if self.boundary is None else [self.boundary]
        ids = start + list(self.tokenizer.encode(text, "none"))
        if not ids:
            ids = list(self.tokenizer.encode(self.config["data"]["opening"], "none"))
        if not ids:
            raise ProtocolError("the text is empty, and there is nothing to begin with")
        room = min(self.model.config.context_length, MOST_POSITIONS)
        return ids[-room:], max(0, len(ids) - room)

    def _traced(self, params: Parameters) -> Trace:
        text = params.text("text", MOST_CHARACTERS)
        switches = params.switches()
        key = (text, switches)
        if self._trace is None or self._key != key:
            ids, self._dropped = self._ids(text)
            self._trace = trace(self.model, ids, switches)
            self._key = key
        return self._trace

    def forward(self, params: Parameters) -> dict[str, Any]:
        """Runs the model over a text.

        Returns:
            `tokens` with their texts and ids, and how many are `dropped`; `attention`, for each block the
            maps of its heads; `views`, what there is to be seen, in order; `stream`, the names of those that
            run through the model; `predictions`, for each position the best tokens and the loss of the one
            that came.

        Raises:
            ProtocolError: what was asked for does not fit; the message says what would.
        """
        found = self._traced(params)
        layers = self.model.config.num_layers
        streams = ["stream", *(f"blocks.{layer}.stream" for layer in range(layers))]
        return {
            "tokens": [{"id": idx, "text": token_text(self.tokenizer, idx)} for idx in found.ids],
            "dropped": self._dropped,
            "attention": [found.views[f"blocks.{layer}.attention"].matrices for layer in range(layers)],
            "views": [
                {
                    "name": view.name,
                    "title": view.title,
                    "axes": list(view.axes),
                    "shape": view.shape,
                    "formula": view.formula,
                    "inputs": list(view.inputs),
                    "section": view.section,
                }
                for view in found.views.values()
            ],
            "embedding": found.matrix("embedding"),
            "streams": [{"name": name, "values": found.matrix(name)} for name in streams],
            "predictions": self._predictions(found),
        }

    def _predictions(self, found: Trace) -> list[dict[str, Any]]:
        entries = []
        rows = zip(found.matrix("logits"), found.matrix("probabilities"), strict=True)
        for place, (logits, shares) in enumerate(rows):
            best = max(range(len(shares)), key=shares.__getitem__)
            came = found.ids[place + 1] if place + 1 < len(found.ids) else None
            entries.append(
                {
                    "best": token_text(self.tokenizer, best),
                    "probability": shares[best],
                    "loss": None if came is None else loss_of(logits, came),
                }
            )
        return entries

    def view(self, params: Parameters) -> dict[str, Any]:
        """Returns the matrices of a view.

        Raises:
            ProtocolError: what was asked for does not fit; the message says what would.
        """
        found = self._traced(params)
        name = params.text("view", 200)
        view = found.views.get(name)
        if view is None:
            raise ProtocolError(f"there is no view {_short(name)}")
        head = params.optional("head", lambda key: params.integer(key, 0, len(view.matrices) - 1))
        matrices = view.matrices if head is None else [view.matrices[head]]
        cells = sum(len(rows) * len(rows[0]) for rows in matrices)
        columns = len(matrices[0][0])
        cut = None
        if cells > MOST_CELLS:  # a large vocabulary, say
            kept = max(1, MOST_CELLS // max(1, sum(len(rows) for rows in matrices)))
            matrices = [[row[:kept] for row in rows] for rows in matrices]
            cut = f"Of {columns:,} columns the first {kept:,} are shown."
        labels = None
        if view.axes[-1] == "token":
            labels = [token_text(self.tokenizer, idx) for idx in range(len(matrices[0][0]))]
        return {"name": name, "matrices": matrices, "columns": labels, "cut": cut}

    def cell(self, params: Parameters) -> dict[str, Any]:
        """Returns how a cell of a view was made, see `cells.explain_cell`.

        Raises:
            ProtocolError: what was asked for does not fit; the message says what would.
        """
        found = self._traced(params)
        row, column = (params.integer(name, 0, SEED_LIMIT) for name in ("row", "column"))
        head = params.integer("head", 0, SEED_LIMIT, 0)
        return explain_cell(found, params.text("view", 200), row, column, head)

    def attention(self, params: Parameters) -> dict[str, Any]:
        """Returns how one position of one head looks back, see `cells.explain_attention`.

        Raises:
            ProtocolError: what was asked for does not fit; the message says what would.
        """
        found = self._traced(params)
        layer, head, row = (params.integer(name, 0, SEED_LIMIT) for name in ("layer", "head", "row"))
        return explain_attention(found, layer, head, row)

    def merges(self, params: Parameters) -> dict[str, Any]:
        """Returns how the tokenizer makes tokens of a text, merge by merge."""
        return merges(self.tokenizer, params.text("text", MOST_CHARACTERS))

    # ---- what comes next

    def distribution(self, params: Parameters) -> dict[str, Any]:
        """Returns what the model expects at a position, and what is left of it to draw from.

        Returns:
            `tokens`, the most probable first: the `logit`, the `probability` as the model gives it, what the
            temperature makes of it, and the `share` with which it would be drawn, 0 where it is cut off;
            `kept`, how many may be drawn; `others` and `other_probability`; `entropy` in nats; and where
            something is switched off, the probability `without` that; for a model that builds on counts the
            probability `counted` of each token, and the `trust` in them, c, at this position.

        Raises:
            ProtocolError: what was asked for does not fit; the message says what would.
        """
        found = self._traced(params)
        row = params.integer("position", 0, len(found.ids) - 1, len(found.ids) - 1)
        logits = found.matrix("logits")[row]
        baseline = None
        if found.switches:
            baseline = self._all_on(found).matrix("probabilities")[row]
        counted = trust = None
        if "counting" in found.views:
            counted = list(map(math.exp, found.matrix("counting")[row]))
            trust = found.matrix("confidence")[row][0]
        return self._distribution(logits, params, baseline, counted) | {"trust": trust}

    def _all_on(self, found: Trace) -> Trace:
        """Returns the pass over the same tokens with nothing switched off."""
        if self._baseline is None or self._baseline.ids != found.ids:
            self._baseline = trace(self.model, found.ids)
        return self._baseline

    def _distribution(
        self,
        logits: Sequence[float],
        params: Parameters,
        baseline: Sequence[float] | None,
        counted: Sequence[float] | None,
    ) -> dict[str, Any]:
        temperature, candidates, weights = self._candidates(logits, params)
        total = math.fsum(weights)
        shares = {idx: weight / total for idx, weight in zip(candidates, weights, strict=True)}
        plain = softmax(logits)
        reshaped = softmax([logit / temperature for logit in logits]) if temperature else None
        order = sorted(range(len(logits)), key=lambda idx: -plain[idx])
        tokens = [
            {
                "id": idx,
                "text": token_text(self.tokenizer, idx),
                "logit": logits[idx],
                "probability": plain[idx],
                "reshaped": reshaped[idx] if reshaped else float(idx == candidates[0]),
                "share": shares.get(idx, 0.0),
                "baseline": None if baseline is None else baseline[idx],
                "counted": None if counted is None else counted[idx],
            }
            for idx in order[:MOST_SHOWN]
        ]
        divergence = None
        if baseline is not None:
            pairs = zip(baseline, plain, strict=True)
            divergence = math.fsum(p * math.log(p / q) for p, q in pairs if p > 0 and q > 0)
        return {
            "tokens": tokens,
            "kept": len(candidates),
            "vocabulary": len(logits),
            "others": len(order) - len(tokens),
            "other_probability": math.fsum(plain[idx] for idx in order[MOST_SHOWN:]),
            "entropy": -math.fsum(p * math.log(p) for p in plain if p > 0),
            "divergence": divergence,
        }

    def _candidates(
        self, logits: Sequence[float], params: Parameters
    ) -> tuple[float, list[int], list[float]]:
        """Returns the temperature that is asked for, the tokens that may be drawn, and their weights."""
        temperature = params.number("temperature", 0.0, 100.0, 1.0)
        top_k = params.optional("top_k", lambda name: params.integer(name, 1, SEED_LIMIT))
        top_p = params.optional("top_p", lambda name: params.number(name, 1e-9, 1.0))
        known = without(logits, self.tokenizer.unknown_ids(len(logits)))
        return temperature, *sampling_candidates(known, temperature=temperature, top_k=top_k, top_p=top_p)

    def draw(self, params: Parameters) -> dict[str, Any]:
        """Draws the token that comes next, as `tinygpt generate --seed` draws it.

        The `draw` counts from 0: draw n of a seed is the same number every time, so that one can go back.

        Returns:
            `candidates` with the `share` of each and where it ends between 0 and 1 (`until`); `number`, the
            one that was drawn between 0 and 1; the token (`id`, `text`); `is_end` where it ends a document;
            `text`, all that is written now.

        Raises:
            ProtocolError: what was asked for does not fit; the message says what would.
        """
        found = self._traced(params)
        temperature, candidates, weights = self._candidates(found.matrix("logits")[-1], params)
        generator = random.Generator(params.integer("seed", 0, SEED_LIMIT, 0))
        for _ in range(params.integer("draw", 0, 100_000, 0)):
            generator.uniform()
        number = None
        if temperature == 0:
            chosen = 0
        else:
            state = generator.get_state()
            number = generator.uniform()
            generator.set_state(state)
            chosen = generator.choice(weights)
        total = math.fsum(weights)
        shown = []
        until = 0.0
        for place, (idx, weight) in enumerate(zip(candidates, weights, strict=True)):
            until += weight / total
            if place < MOST_SHOWN or place == chosen:
                text = token_text(self.tokenizer, idx)
                shown.append({"id": idx, "text": text, "share": weight / total, "until": until})
        token = candidates[chosen]
        is_end = token == self.boundary
        text = params.text("text", MOST_CHARACTERS)
        return {
            "candidates": shown,
            "count": len(candidates),
            "number": number,
            "id": token,
            "token": token_text(self.tokenizer, token),
            "is_end": is_end,
            "text": text if is_end else text + self._written(token),
        }

    def _written(self, token: int) -> str:
        text: str = self.tokenizer.decode([token])
        return text

    # ---- training

    def _corpora(self) -> list[str]:
        names = list(self.corpora)
        if "identifiers" not in names:
            names.append("identifiers")
        return names

    def _corpus(self, params: Parameters) -> Corpus:
        own = params.optional("own_text", lambda name: params.text(name, MOST_CORPUS))
        if own is not None:
            if not own.strip():
                raise ProtocolError("own_text is empty: a model needs some text to learn from")
            if params.flag("by_line"):
                return Corpus("own text", [line.strip() for line in own.split("\n") if line.strip()], None)
            return Corpus("own text", None, own)
        name = params.text("corpus", 100)
        if name not in self._corpora():
            raise ProtocolError(f"there is no corpus {_short(name)}: one of {', '.join(self._corpora())}")
        if name in self.corpora:
            return load_corpus("names", self.corpora[name])
        return load_corpus(name)

    def train_new(self, params: Parameters) -> dict[str, Any]:
        """Begins a training: of a new model, or of the run that is open, from where it ended.

        Returns:
            What `train_state` does.

        Raises:
            ProtocolError: what was asked for does not fit; the message says what would.
        """
        corpus = self._corpus(params)
        if params.flag("continue_run"):
            saved = load_checkpoint(self.runs[self.name])
            config = TrainingConfig.from_dict(saved.config["training"])
            config = replace(config, backend=self.backend_name)
            if config.optimizer != "adamw":
                raise ProtocolError(
                    f"run {_short(self.name)} was trained by {config.optimizer}, "
                    "whose steps are not shown here yet"
                )
            if not saved.config["data"]["is_documents"] and corpus.documents is not None:
                corpus = Corpus(corpus.name, None, "\n".join(corpus.documents))
            self.session = TrainingSession(config, corpus, saved)
        else:
            self.session = TrainingSession(self._new_config(params), corpus)
        self._show_training(params.flag("show"))
        return self.train_state(params)

    def _new_config(self, params: Parameters) -> TrainingConfig:
        heads = params.integer("heads", 1, 16, 2)
        width = params.integer("width", 2, 256, 16)
        rate = params.number("learning_rate", 1e-6, 1.0, 0.015)
        steps = params.integer("steps", 1, 1_000_000, 1100)
        return TrainingConfig(
            corpus="text",
            backend=self.backend_name,
            seed=params.integer("seed", 0, SEED_LIMIT, 1337),
            context_length=params.integer("context_length", 2, 256, 32),
            num_layers=params.integer("layers", 1, 12, 1),
            num_heads=heads,
            embedding_dim=width,
            positions="rotary" if width % heads == 0 and width // heads % 2 == 0 else "learned",
            batch_size=params.integer("batch_size", 1, 64, 8),
            learning_rate=rate,
            minimum_learning_rate=rate / 20,
            warmup_steps=min(20, steps - 1),
            steps=steps,
        )

    def _require_session(self) -> TrainingSession:
        if self.session is None:
            raise ProtocolError("no training has begun: ask for train_new first")
        return self.session

    def _show_training(self, shows: bool) -> None:
        """Looks at the model in training from now on, or at the run."""
        if shows:
            session = self._require_session()
            trainer = session.trainer
            self.model, self.tokenizer = trainer.model, session.tokenizer
            data = {"is_documents": trainer.data.is_documents, "opening": trainer.data.opening}
            self.config = {"training": {"backend": trainer.config.backend}, "data": data}
            self._forget()
        elif self._is_training_shown:
            self._open(self.name)
        self._is_training_shown = shows

    def train_show(self, params: Parameters) -> dict[str, Any]:
        """Looks at the model in training (`show`), or at the run again; returns what `about` does.

        Raises:
            ProtocolError: what was asked for does not fit; the message says what would.
        """
        self._show_training(params.flag("show"))
        return self.about(params)

    def train_state(self, params: Parameters) -> dict[str, Any]:
        """Returns where the training stands: its settings, the curve, the parameters.

        Raises:
            ProtocolError: what was asked for does not fit; the message says what would.
        """
        session = self._require_session()
        trainer = session.trainer
        return {
            "step": trainer.step,
            "steps": trainer.config.steps,
            "sizes": describe_sizes(trainer.config),
            "parameters": [
                {"name": name, "shape": list(tensor.shape)}
                for name, tensor in trainer.model.named_parameters()
            ],
            "count": trainer.model.num_parameters(),
            "vocabulary": session.tokenizer.vocab_size,
            "uniform": math.log(session.tokenizer.vocab_size),
            "unigram": trainer.data.unigram_entropy,
            "losses": [list(point) for point in session.losses],
            "has_recorded": session.recorded is not None,
        }

    def train_run(self, params: Parameters) -> dict[str, Any]:
        """Makes steps until some milliseconds are over; returns them.

        Raises:
            ProtocolError: what was asked for does not fit; the message says what would.
        """
        session = self._require_session()
        steps = params.integer("steps", 1, 10_000, 1000)
        seconds = params.number("milliseconds", 0.0, 2000.0, 200.0) / 1000
        left = session.trainer.config.steps - session.trainer.step
        if left <= 0:
            return {"steps": [], "is_done": True}
        events = session.run(min(steps, left), seconds)
        self._forget_where_training_is_shown()
        return {"steps": events, "is_done": session.trainer.step >= session.trainer.config.steps}

    def _forget_where_training_is_shown(self) -> None:
        if self._is_training_shown:
            self._forget()

    def train_step(self, params: Parameters) -> dict[str, Any]:
        """Makes one step that can be looked into; returns it, its batch with losses, and what moved most.

        Raises:
            ProtocolError: what was asked for does not fit; the message says what would.
        """
        session = self._require_session()
        event = session.step()
        self._forget_where_training_is_shown()
        assert session.recorded is not None
        return event | {"batch": session.recorded.texts(), "movers": session.recorded.movers()}

    def train_sample(self, params: Parameters) -> dict[str, Any]:
        """Returns some texts of the model in training.

        Raises:
            ProtocolError: what was asked for does not fit; the message says what would.
        """
        from ..generation import generate

        session = self._require_session()
        trainer = session.trainer
        tokenizer: Tokenizer = session.tokenizer
        stop = tokenizer.special_tokens[BOUNDARY] if trainer.data.is_documents else None
        generator = random.Generator(params.integer("seed", 0, SEED_LIMIT, 0))
        texts = []
        for _ in range(params.integer("count", 1, 20, 3)):
            pieces = generate(
                trainer.model,
                tokenizer,
                "" if stop is not None else trainer.data.opening,
                tokens=params.integer("tokens", 1, 200, 24),
                temperature=params.number("temperature", 0.0, 10.0, 0.7),
                generator=generator,
                stop_id=stop,
            )
            texts.append("".join(pieces))
        return {"step": trainer.step, "texts": texts}

    def train_weights(self, params: Parameters) -> dict[str, Any]:
        """Returns the values of a parameter of the model in training, as a matrix.

        Raises:
            ProtocolError: what was asked for does not fit; the message says what would.
        """
        session = self._require_session()
        name = params.text("parameter", 300)
        parameters = dict(session.trainer.model.named_parameters())
        if name not in parameters:
            raise ProtocolError(f"there is no parameter {_short(name)}")
        buffer = parameters[name].buffer
        matrix = buffer if buffer.ndim == 2 else buffer.reshape((1, buffer.numel))
        count, width = matrix.shape
        kept = max(1, min(MOST_ROWS, MOST_CELLS // width))
        cut = f"Of {count:,} rows the first {kept:,} are shown." if count > kept else None
        names = None
        if name in ("embedding_layer.embeddings", "head.weights"):
            names = [token_text(session.tokenizer, idx) for idx in range(session.tokenizer.vocab_size)]
        return {
            "name": name,
            "shape": list(buffer.shape),
            "rows": matrix[:kept].to_python(),
            "cut": cut,
            "tokens": names,
        }

    # ---- why a weight moved

    def _recorded(self) -> Any:
        session = self._require_session()
        if session.recorded is None:
            raise ProtocolError("the last step was not recorded: make one with train_step")
        return session.recorded

    def movers(self, params: Parameters) -> dict[str, Any]:
        """Returns the weights that the recorded step moved most.

        Raises:
            ProtocolError: what was asked for does not fit; the message says what would.
        """
        name = params.optional("parameter", lambda key: params.text(key, 300))
        recorded = self._recorded()
        if name is not None and name not in recorded.parameters:
            raise ProtocolError(f"there is no parameter {_short(name)}")
        return {"movers": recorded.movers(params.integer("count", 1, 100, 12), name)}

    def weight(self, params: Parameters) -> dict[str, Any]:
        """Returns why a weight moved, see `RecordedStep.explain_weight`.

        Raises:
            ProtocolError: what was asked for does not fit; the message says what would.
        """
        explained: dict[str, Any] = self._recorded().explain_weight(
            params.text("parameter", 300), params.integers("index", 2)
        )
        return explained

    def weight_loss(self, params: Parameters) -> dict[str, Any]:
        """Returns the loss of the batch where only this weight moves, see `RecordedStep.loss_along`.

        Raises:
            ProtocolError: what was asked for does not fit; the message says what would.
        """
        along: dict[str, Any] = self._recorded().loss_along(
            params.text("parameter", 300), params.integers("index", 2)
        )
        return along


METHODS: dict[str, Callable[[Microscope, Parameters], dict[str, Any]]] = {
    method.__name__: method
    for method in (
        Microscope.about,
        Microscope.open,
        Microscope.forward,
        Microscope.view,
        Microscope.cell,
        Microscope.attention,
        Microscope.merges,
        Microscope.distribution,
        Microscope.draw,
        Microscope.train_new,
        Microscope.train_show,
        Microscope.train_state,
        Microscope.train_run,
        Microscope.train_step,
        Microscope.train_sample,
        Microscope.train_weights,
        Microscope.movers,
        Microscope.weight,
        Microscope.weight_loss,
    )
}
"""What can be asked, by name."""


def finite(value: Any) -> Any:
    """Returns JSON values in which numbers that JSON lacks are null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def runs_of(directories: Sequence[str]) -> dict[str, str]:
    """Returns directories of runs by the last parts of their paths, which are made different."""
    named: dict[str, str] = {}
    for directory in directories:
        name = os.path.basename(os.path.realpath(directory)) or directory
        while name in named:
            name += "'"
        named[name] = directory
    return named
