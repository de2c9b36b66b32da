"""The microscope: what a page shows is what a plain run computes, however hostile the texts in it are."""

from __future__ import annotations

import base64
import json
import math
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import WORDS

from tinygpt_core import (
    Buffer,
    Module,
    Operation,
    Tensor,
    apply_op,
    backends,
    check_gradients,
    cli,
    explain,
    no_grad,
    random,
)
from tinygpt_core.explain import RecordingError, history, page, subjects, text
from tinygpt_core.explain.recorder import MOST_POSITIONS, Recorder, attention_maps
from tinygpt_core.explain.sources import describe, split_formula
from tinygpt_core.explain.values import spacing, summarize
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import GPT, MLP, GPTConfig
from tinygpt_core.operations import Add, Linear, Mul
from tinygpt_core.tokenizer import BPETokenizer, CharTokenizer, RegexPatterns
from tinygpt_core.training import PRESETS, StepEvent, Trainer, TrainingConfig, checkpoint
from tinygpt_core.training.runs import load_model
from tinygpt_core.training.statistics import BINS, SAMPLE, copies, histogram, statistics

BACKENDS = ["python", "numpy"] if backends.why_not("numpy") is None else ["python"]


def make_run(folder: Path, steps: int, **changes: object) -> tuple[str, TrainingConfig]:
    (folder / "words.txt").write_text(WORDS)
    config = replace(
        PRESETS["debug"][1],
        corpus="names",
        data_file=str(folder / "words.txt"),
        seed=3,
        steps=steps,
        **changes,
    )
    directory = str(folder / "run")
    for _ in Trainer.start(config, directory).run():
        pass
    return directory, config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_run(tmp_path_factory.mktemp("explain"), 12)[0]


class Page(HTMLParser):
    """What a browser sees of a page: its elements, and what is in its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[str] = []
        self.scripts: list[str] = []
        self.title = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self.elements.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1] == "script":
            self.scripts[-1] += data
        if self.elements and self.elements[-1] == "title":
            self.title += data

    @property
    def data(self) -> dict:
        return json.loads(self.scripts[0])


# ---------------------------------------------------------------- what is recorded is what is computed


OPERATIONS = [
    lambda a, b: a + b,
    lambda a, b: a * b,
    lambda a, b: a - b,
    lambda a, b: a.tanh(),
    lambda a, b: a.softmax(),
    lambda a, b: a[:1] + b,
]


def expression(choices: list[tuple[int, int, int]], leaves: list[Tensor]) -> Tensor:
    """A small graph in which results are used again and again."""
    values = list(leaves)
    for kind, i, j in choices:
        a, b = values[i % len(values)], values[j % len(values)]
        values.append(OPERATIONS[kind](a, b))
    return (values[-1] * values[-1]).sum()


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8),
    st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
def test_a_recorder_changes_nothing_and_sees_everything(choices, seed):
    def gradients(recorder):
        random.seed(seed)
        leaves = [Tensor.normal((2, 3), requires_grad=True) for _ in range(2)]
        if recorder is None:
            loss = expression(choices, leaves)
            loss.backward()
        else:
            with recorder:
                loss = expression(choices, leaves)
                loss.backward()
        return loss.item(), [None if leaf.grad is None else leaf.grad.to_python() for leaf in leaves]

    recorder = Recorder()
    assert gradients(recorder) == gradients(None)
    part = recorder.only()
    graph = part.to_dict()
    forward = [number for phase, number in part.steps if phase == "forward"]
    backward = [number for phase, number in part.steps if phase == "backward"]
    assert forward == list(range(len(graph["operations"]))) and backward == sorted(
        set(backward), reverse=True
    )
    made = {operation["output"]: number for number, operation in enumerate(graph["operations"])}
    for number, operation in enumerate(graph["operations"]):
        assert all(made.get(index, -1) < number for index in operation["inputs"]), (
            "an operation reads what was there before"
        )
        assert ("grad" in operation) == (number in backward)
    json.dumps(graph, allow_nan=False)


def test_the_gradients_shown_add_up_to_those_of_the_parameters():
    random.seed(4)
    x, w = Tensor.normal((5, 3)), Tensor.normal((3, 1), requires_grad=True)
    with Recorder() as recorder:
        (x @ w + (x * 2.0) @ w).sum().backward()
    graph = recorder.only().to_dict()
    shown = [
        graph["tensors"][grad]["values"]["mean"]
        for operation in graph["operations"]
        for index, grad in zip(operation["inputs"], operation.get("grads", []), strict=False)
        if grad is not None and graph["tensors"][index]["kind"] == "parameter"
    ]
    assert len(shown) == 2
    assert math.isclose(sum(shown) * 3, sum(row[0] for row in w.grad.to_python()), rel_tol=1e-3)


def test_everything_is_put_back():
    class Twice(Operation):
        def forward(self, x):
            return x * 2.0

        def backward(self, grad):
            return grad * 2.0

    before = Add.forward, Linear.forward, Twice.forward, MLP.__call__, Tensor.backward
    hooks = ["__init_subclass__" in vars(kind) for kind in (Operation, Module)]
    with pytest.raises(ZeroDivisionError), Recorder():
        assert Add.forward is not before[0]
        raise ZeroDivisionError
    assert before == (Add.forward, Linear.forward, Twice.forward, MLP.__call__, Tensor.backward)
    assert hooks == ["__init_subclass__" in vars(kind) for kind in (Operation, Module)]
    assert check_gradients(lambda x: apply_op(Twice, x), Tensor([1.0, 2.0]))


def test_a_class_made_meanwhile_is_seen_and_one_recorder_is_open_at_a_time():
    with Recorder() as recorder:

        class Thrice(Operation):
            def forward(self, x):
                return x * 3.0

        apply_op(Thrice, Tensor([1.0]))
        with pytest.raises(RuntimeError, match="open already"), Recorder():
            pass
    assert [operation["kind"] for operation in recorder.operations] == ["Thrice"]
    assert Recorder.current() is None


def test_modules_are_the_blocks():
    model = MLP(3, [4, 2], "relu")
    with Recorder() as recorder:
        model(Tensor.ones((2, 3))).sum()
    calls = recorder.to_dict()["calls"]
    assert (
        calls[0]["kind"] == "MLP"
        and calls[0]["parent"] == -1
        and calls[0]["parameters"] == model.num_parameters()
    )
    assert {call["name"] for call in calls[1:]} <= {name for name, _ in model.named_modules()}
    assert all(call["parent"] == 0 for call in calls[1:])


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(
    "changes",
    [{}, {"positions": "learned", "accumulation": 2}, {"dropout": 0.3}, {"ngram_prior": 3}],
    ids=["rotary", "packed", "dropout", "prior"],
)
def test_the_step_of_the_page_is_the_next_step_of_the_run(tmp_path, name, changes):
    directory, config = make_run(tmp_path, 6, backend=name, checkpoint_every=5, **changes)
    files = {path.name: path.read_bytes() for path in Path(directory).iterdir()}
    shown = subjects.explain_run(directory)
    assert files == {path.name: path.read_bytes() for path in Path(directory).iterdir()}, (
        "looking changes nothing"
    )
    events = [event for event in Trainer.resume(directory, steps=7).run() if isinstance(event, StepEvent)]
    facts = dict(shown["facts"])
    if config.accumulation == 1:
        assert (
            facts["loss"] == f"{events[0].loss:.4f}"
            and facts["gradient norm"] == f"{events[0].gradient_norm:.3g}"
        )
    else:
        assert "the first of 2 batches" in facts["batch"]
    assert f"step {events[0].step} " in shown["title"]
    heads = shown["attention"][0]["heads"]
    assert len(heads) == config.num_heads and heads[0]["rows"] == len(shown["tokens"]["texts"])
    assert len(page.render(shown)) < 1_000_000


def test_the_snapshots_of_a_page_are_those_of_the_log(run):
    logged = [json.loads(line) for line in (Path(run) / "log.jsonl").read_text().splitlines()]
    shown = subjects.explain_run(run)["training"]["snapshots"]
    assert [snapshot["step"] for snapshot in shown] == [
        0,
        *(line["step"] for line in logged if line.get("parameters")),
        13,
    ]
    assert shown[1]["parameters"] == logged[0]["parameters"]
    assert all("ratio" not in entry for entry in shown[0]["parameters"])


def test_a_dtype_that_the_backend_lacks_is_said(run, monkeypatch):
    load = checkpoint.load_checkpoint

    def from_a_gpu(directory):
        saved = load(directory)
        saved.config["training"]["dtype"] = "bfloat16"
        return saved

    monkeypatch.setattr(checkpoint, "load_checkpoint", from_a_gpu)
    assert ["computed in", "float32 (the run: bfloat16)"] in subjects.explain_run(run)["facts"]


def test_a_generation_shows_what_the_model_expected(run):
    shown = subjects.explain_run(run, "get")
    tokens = shown["tokens"]
    assert shown["is_generation"] and tokens["prompt_length"] == 4 and tokens["texts"][1:4] == list("get")
    assert not any(phase == "backward" for phase, _ in shown["graph"]["steps"])
    for place, position in enumerate(tokens["positions"][:-1]):
        assert position["target"]["text"] == tokens["texts"][place + 1]
        assert math.isclose(position["loss"], -math.log(position["target"]["probability"]), rel_tol=2e-3)
        shares = [share for _, share, _, _ in position["top"]]
        assert len(shares) == 10 and shares == sorted(shares, reverse=True) and sum(shares) <= 1.001
    assert tokens["positions"][-1]["target"] is None


@pytest.fixture(scope="module")
def counting_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_run(tmp_path_factory.mktemp("counting"), 12, ngram_prior=3)[0]


@pytest.mark.parametrize("prompt", [None, "get"], ids=["a step", "a generation"])
def test_what_counting_says_is_named_and_stands_beside_what_the_model_says(counting_run, prompt):
    shown = subjects.explain_run(counting_run, prompt)
    graph, tokens = shown["graph"], shown["tokens"]
    calls = {call["name"]: call for call in graph["calls"]}
    assert calls["ngram_prior"]["kind"] == "NgramPrior" and calls["ngram_prior.confidence"]["parent"] >= 0
    [leaf] = (i for i, each in enumerate(graph["tensors"]) if each["name"] == "ngram_prior.log p, counted")
    tensor = graph["tensors"][leaf]
    assert tensor["kind"] == "input" and tensor["about"].startswith("What counting says")
    [user] = (operation for operation in graph["operations"] if leaf in operation["inputs"])
    assert user["kind"] == "Mul" and graph["calls"][user["call"]]["name"] == "ngram_prior"
    made = {operation["output"] for operation in graph["operations"]}
    read = {i for operation in graph["operations"] for i in operation["inputs"] if i is not None}
    for each in (graph["tensors"][i] for i in read - made):
        if each["dtype"].startswith("float"):
            assert each["name"] or not each["shape"], "what is no result has a name, or is one number"

    model = load_model(counting_run, None)[0]
    counting, ids = model.ngram_prior.counting, tokenizer_of(counting_run)
    assert tokens["has_counting"]
    texts = [ids[text] for text in tokens["texts"]]
    for place, position in enumerate(tokens["positions"]):
        target = position["target"] and position["target"]["id"]
        left_out = target if prompt is None else None  # in training each place is left out of the counts
        expected = counting.log_probabilities(texts[max(0, place - 2) : place + 1], left_out=left_out)
        for _, _, token, counted in position["top"]:
            assert math.isclose(counted, math.exp(expected[token]), rel_tol=1e-3)
        if target is not None:
            assert math.isclose(position["target"]["counted"], math.exp(expected[target]), rel_tol=1e-3)


def tokenizer_of(run: str) -> dict[str, int]:
    tokenizer = load_model(run, None)[1]
    return {text.token_text(tokenizer, i): i for i in range(tokenizer.vocab_size)}


def test_a_model_that_did_not_count_says_nothing_of_counting(run):
    tokens = subjects.explain_run(run)["tokens"]
    assert not tokens["has_counting"]
    assert all(entry[3] is None for position in tokens["positions"] for entry in position["top"])


# ---------------------------------------------------------------- what is shown of values, attention and
# tokens


@given(
    st.lists(st.lists(st.floats(width=32), min_size=1, max_size=30), min_size=1, max_size=20).filter(
        lambda x: len({*map(len, x)}) == 1
    )
)
@settings(deadline=None)
def test_statistics_and_heat_map_are_those_of_the_elements(rows):
    summary = summarize(Buffer(rows))
    flat = [value for row in rows for value in row]
    assert math.isclose(summary["zeros"], flat.count(0.0) / len(flat)) and math.isclose(
        summary["nans"], sum(map(math.isnan, flat)) / len(flat), abs_tol=1e-12
    )
    if all(map(math.isfinite, flat)):
        for name, expected in (("min", min(flat)), ("max", max(flat))):
            assert math.isclose(summary[name], expected, rel_tol=1e-3)
    down, across = summary["grid"]
    assert down <= 16 and across <= 24
    steps = spacing(len(rows), 16, len(rows)), spacing(len(rows[0]), 24, len(rows[0]))
    picked = [value for row in rows[:: steps[0]] for value in row[:: steps[1]]]
    cells = base64.b64decode(summary["cells"])
    assert len(cells) == len(picked) == down * across
    for cell, value in zip(cells, picked, strict=True):
        if not math.isfinite(value):
            assert cell == 255
        else:
            assert (
                abs((cell - 127) / 127 * summary["scale"] - value)
                <= summary["scale"] * (0.5 / 127 + 1e-3) + 1e-300
            )
    json.dumps(summary, allow_nan=False)


@given(st.integers(1, 10_000), st.integers(1, 30), st.integers(1, 300))
def test_what_is_picked_is_of_every_part_of_a_period(size, most, period):
    distance = spacing(size, most, period)
    assert 1 <= len(range(0, size, distance)) <= most
    assert distance == 1 or len({place % period for place in range(0, distance * period, distance)}) == period


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,)])
def test_values_of_every_shape_have_a_summary(shape):
    summary = summarize(Buffer.zeros(shape))
    assert summary["matrix"][0] * summary["matrix"][1] == math.prod(shape) and summary["nans"] == 0.0


@given(st.integers(1, 5), st.integers(0, 3), st.integers(1, 3), st.booleans(), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_attention_maps_are_the_softmax_of_the_scores(length, ahead, heads, causal, seed):
    random.seed(seed)
    q, k = Tensor.normal((2, heads, length, 4)), Tensor.normal((2, heads, length + ahead, 4))
    scores = (q @ k.transpose(2, 3) / 2.0).to_python()[1]
    for head, map_ in enumerate(attention_maps(q.buffer, k.buffer, sequence=1, causal=causal)):
        for i, row in enumerate(map_):
            seen = scores[head][i][: i + ahead + 1] if causal else scores[head][i]
            expected = Tensor(seen).softmax().to_python()
            assert len(row) == len(expected) and all(
                map(lambda a, b: math.isclose(a, b, abs_tol=1e-5), row, expected)
            )


def test_packed_attention_is_seen_as_attention_is():
    from tinygpt_core.operations import Attention, PackedAttention

    random.seed(1)
    packed = Tensor.normal((2, 5, 3 * 2 * 4))
    split = packed.reshape((2, 5, 3, 2, 4))
    q, k, v = (split[:, :, part].permute((0, 2, 1, 3)) for part in range(3))
    with Recorder(sequence=1) as recorder:
        apply_op(PackedAttention, packed, num_heads=2)
        apply_op(Attention, q, k, v)
    ours, plain = recorder.attention
    assert ours["heads"] == plain["heads"] and ours["length"] == plain["length"] == 5


def test_long_sequences_are_cut_and_the_page_says_so():
    model = GPT(GPTConfig(context_length=80, vocab_size=11, num_layers=1, num_heads=2, embedding_dim=8))
    ids, targets = Tensor([[i % 11 for i in range(80)]] * 2), Tensor([[(i + 1) % 11 for i in range(80)]] * 2)
    with Recorder():
        loss = CrossEntropyLoss()(logits=model(ids), labels=targets).mean()
        shown = subjects.explain_tensor(loss)
    assert len(shown["tokens"]["positions"]) == MOST_POSITIONS and "first 64" in shown["tokens"]["cut"]
    assert (
        shown["attention"][0]["heads"][0]["rows"] == MOST_POSITIONS
        and "first 64" in shown["attention"][0]["cut"]
    )


@pytest.fixture(scope="module")
def bpe() -> BPETokenizer:
    tokenizer = BPETokenizer(RegexPatterns.GPT4)
    tokenizer.train(WORDS * 3 + "the same of the other, the theme\n", 300)
    return tokenizer


@given(given_text=st.text(st.sampled_from("gethnamsizepath_ \n<é中😀"), max_size=60))
@settings(deadline=None)
def test_the_merges_shown_end_in_the_tokens(bpe, given_text):
    shown = text.merges(bpe, given_text)
    ended = []
    for chunk in shown["chunks"]:
        ids = list(chunk["ids"])
        for place, idx, _ in chunk["steps"]:
            assert bpe.merges[ids[place], ids[place + 1]] == idx
            ids[place : place + 2] = [idx]
        ended += ids
    assert ended == bpe.encode(given_text, "none")


def test_characters_are_tokens_of_their_own():
    tokenizer = CharTokenizer.train("hello")
    shown = text.merges(tokenizer, "hole")
    assert [chunk["pieces"] for chunk in shown["chunks"]] == [[c] for c in "hole"]
    assert [entry[0] for entry in shown["vocabulary"]] == sorted(set("hello"))


# ---------------------------------------------------------------- what parameters do


@given(st.lists(st.floats(-1e30, 1e30), max_size=80))
def test_a_histogram_counts_every_finite_value_once(values):
    result = histogram([*values, math.inf, math.nan])
    assert sum(result["counts"]) == len(values) and len(result["counts"]) == BINS
    json.dumps(result, allow_nan=False)


def test_statistics_say_what_an_update_did():
    model = MLP(3, [4, 2], "relu")
    before = copies(model)
    (name, weight), *_ = model.named_parameters()
    weight.assign(weight.detach() * 1.01)
    weight.grad = Tensor.ones(weight.shape)
    entries = {entry["name"]: entry for entry in statistics(model, before)}
    assert math.isclose(entries[name]["ratio"], 0.01, rel_tol=1e-3)
    assert math.isclose(entries[name]["gradient"], math.sqrt(weight.numel), rel_tol=1e-3)
    others = [entry for other, entry in entries.items() if other != name]
    assert all(entry["gradient"] is None and not entry["ratio"] for entry in others)
    large = MLP(1, [2 * SAMPLE], "relu")
    assert all(sum(entry["counts"]) <= SAMPLE for entry in statistics(large))


def test_a_log_tells_of_parameters_at_both_ends_and_evenly_between(tmp_path):
    directory, _ = make_run(tmp_path, 45)
    lines = [json.loads(line) for line in (Path(directory) / "log.jsonl").read_text().splitlines()]
    logged = [line["step"] for line in lines if line.get("parameters")]
    assert logged == [1, *range(2, 45, 2), 45]
    assert all(line["gradient_norm"] > 0 for line in lines if "loss" in line)


NAMES = st.sampled_from(["step", "loss", "parameters", "counts", "name", "val_loss", "low", "high"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.floats() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(NAMES, values, max_size=4),
)
LINES = (
    st.text(max_size=40) | VALUES.map(json.dumps) | st.dictionaries(NAMES, VALUES, min_size=3).map(json.dumps)
)


@given(st.lists(LINES, max_size=8))
@settings(deadline=None)
def test_no_log_is_too_strange_to_be_read(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    json.dumps(history.read_log(str(path)), allow_nan=False)


def test_long_logs_are_thinned_and_keep_their_ends():
    assert history.thinned(list(range(10_000)), 600)[::599] == [0, 9_999]


# ---------------------------------------------------------------- the file

HOSTILE = st.text() | st.sampled_from(
    ["</script><script>alert(1)</script>", "<!--<script>", "]]>", "${title}", "$data", "\u2028\ud800", "&lt;"]
)


@given(HOSTILE, HOSTILE)
@settings(deadline=None, max_examples=60)
def test_no_text_leaves_its_place(title, token):
    made = page.render({"title": title, "tokens": {"texts": [token]}, "graph": {token: title}})
    plain = Page(page.render({"title": "t", "tokens": {"texts": ["x"]}, "graph": {}}))
    seen = Page(made.encode("utf-8", errors="backslashreplace").decode())
    assert seen.elements == plain.elements and len(seen.scripts) == 2
    assert seen.data == {"title": title, "tokens": {"texts": [token]}, "graph": {token: title}}
    assert seen.scripts[1] == plain.scripts[1]


def test_a_page_asks_the_network_for_nothing(run):
    made = page.render(subjects.explain_run(run))
    assert "default-src 'none'" in made
    code = "".join((Path(page.__file__).parent / "page" / f"{name}.js").read_text() for name in page.SCRIPTS)
    style = (Path(page.__file__).parent / "page" / "style.css").read_text()
    assert (
        "http" not in code.replace("http://www.w3.org/2000/svg", "")
        and "url(" not in style
        and "@import" not in style
    )
    assert "innerHTML" not in code and "eval(" not in code


def test_a_hostile_prompt_is_a_text(tmp_path):
    run, _ = make_run(tmp_path, 2, tokenizer="bpe", vocab_size=280)
    assert (
        explain.explain(run, tmp_path / "page.html", "</script><b>get")
        == (tmp_path / "page.html").stat().st_size
    )
    seen = Page((tmp_path / "page.html").read_text())
    assert len(seen.scripts) == 2 and "b" not in seen.elements


# ---------------------------------------------------------------- Tensors and scripts


def test_explain_leaves_a_tensor_as_it_was(tmp_path):
    x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = (x * x + x).sum()
    size = y.explain(tmp_path / "page.html")
    assert size == (tmp_path / "page.html").stat().st_size < 200_000
    assert x.grad is None
    seen = Page((tmp_path / "page.html").read_text()).data["graph"]
    assert sum(phase == "backward" for phase, _ in seen["steps"]) == len(seen["operations"])
    assert seen["operations"][0]["bytes"] is None and "seconds" not in seen["operations"][0], (
        "what was not measured is not shown"
    )
    y.backward()
    assert x.grad.to_python() == [3.0, 5.0, 7.0]
    with pytest.raises(ValueError, match="freed"):
        y.explain(tmp_path / "late.html")
    with pytest.raises(ValueError, match="no history"):
        x.explain(tmp_path / "leaf.html")
    with no_grad(), pytest.raises(ValueError, match="no history"):
        (x * 2.0).explain(tmp_path / "unrecorded.html")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_explain_inside_a_recorder_leaves_the_recording_as_it_was(tmp_path):
    x = Tensor([1.0, 2.0], requires_grad=True)
    with explain.Recorder() as recorder:
        y = (x * 3.0).sum()
        z = y * y
        y.explain(tmp_path / "y.html")
        assert all(phase == "forward" for phase, _ in recorder.steps) and x.grad is None
        z.backward()
    shown = Page((tmp_path / "y.html").read_text()).data["graph"]
    assert [operation["kind"] for operation in shown["operations"]] == ["Mul", "Sum", "Reshape"]
    assert all("seconds" in operation and "grad" in operation for operation in shown["operations"])
    assert len(recorder.only().to_dict()["operations"]) == 4


def test_a_graph_too_large_for_a_page_is_refused(monkeypatch):
    x = Tensor([1.0], requires_grad=True)
    y = x
    for _ in range(6_001):
        y = y + x
    with pytest.raises(RecordingError, match="6,000"):
        subjects.explain_tensor(y)


SCRIPT = """
import sys
from tinygpt_core import Tensor, seed
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import GPT, GPTConfig
from tinygpt_core.tokenizer import CharTokenizer

assert __name__ == "__main__" and len(sys.argv) == 1
def main():
    seed(1)
    tokenizer = CharTokenizer.train("hello </script>")
    ids = tokenizer.encode("hello </script>")
    sizes = dict(num_layers=2, num_heads=2, embedding_dim=8)
    model = GPT(GPTConfig(context_length=16, vocab_size=tokenizer.vocab_size, **sizes))
    for _ in range(10):
        try:
            loss = CrossEntropyLoss()(logits=model(Tensor([ids[:-1]])), labels=Tensor([ids[1:]])).mean()
            loss.backward()
        except Exception:
            raise SystemExit("the script saw it")
        raise SystemExit("it was not stopped")
main()
"""


def test_a_script_is_run_to_the_end_of_its_first_backward(tmp_path, capsys):
    (tmp_path / "hello.py").write_text(SCRIPT)
    arguments, path = list(sys.argv), list(sys.path)
    assert cli.main(["explain", str(tmp_path / "hello.py"), "--out", str(tmp_path / "page.html")]) == 0
    assert (arguments, path) == (sys.argv, sys.path) and "open it in a browser" in capsys.readouterr().out
    seen = Page((tmp_path / "page.html").read_text()).data
    assert seen["title"] == "hello.py" and "".join(seen["tokens"]["texts"]) == "hello </script"
    assert len(seen["attention"]) == 2 and seen["merges"] and seen["training"] is None
    assert seen["tokens"]["positions"][0]["target"]["text"] == "e"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.py"], "nothing.py"),
        (["quiet.py"], "before any backward"),
        (["wrong.py"], "wrong.py raised TypeError: of its own"),
        (["leaves.py"], "before any backward"),
        (["quiet.py", "--prompt", "x"], "--prompt"),
        (["empty"], "empty"),
    ],
)
def test_what_cannot_be_explained_is_said_in_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "quiet.py").write_text("x = 1\n")
    (tmp_path / "wrong.py").write_text("raise TypeError('of its own')\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["explain", *arguments]) != 0
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "explain.html").exists()


def test_nothing_need_be_installed(run, tmp_path):
    command = [
        sys.executable,
        "-S",
        "-m",
        "tinygpt_core",
        "explain",
        run,
        "--out",
        str(tmp_path / "page.html"),
        "--prompt",
        "get_",
    ]
    done = subprocess.run(
        command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").stat().st_size < 1_000_000


# ---------------------------------------------------------------- formulas and sources


def test_every_operation_says_its_formula_its_chain_rule_and_its_lines():
    import tinygpt_core.operations as all_operations

    kinds = [
        kind
        for kind in vars(all_operations).values()
        if isinstance(kind, type)
        and issubclass(kind, Operation)
        and kind is not Operation
        and kind.__name__ != "KernelOperation"
    ]
    assert len(kinds) > 30
    for kind in kinds:
        about = describe(kind(()))
        assert about["formula"] and about["rule"], kind.__name__
        assert "Raises:" not in about["formula"] + about["rule"], kind.__name__
        assert (
            about["forward"]["text"].count("def forward") == 1
            and about["backward"]["text"].count("def backward") == 1
        )
        assert about["forward"]["file"].startswith("tinygpt_core/") and about["forward"]["line"] > 0


def test_a_docstring_is_split_where_the_derivative_begins():
    assert split_formula(Mul.__doc__) == ("y = a b of each element, broadcast", "dL/da = g b, dL/db = g a.")
    assert split_formula("No derivative here.") == ("No derivative here.", "")


def test_rows_of_a_heat_map_say_how_far_apart_they_stand():
    buffer = Buffer([[float(row), float(-row)] for row in range(64)])
    values = summarize(buffer)
    down, across = values["every"]
    picked = [float(row) for row in range(0, 64, down)]
    assert values["grid"] == [len(picked), 2] and across == 1 and down > 1
    assert values["scale"] == max(picked)
