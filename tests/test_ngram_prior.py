"""A GPT that starts from counting: one left out against counting anew, the layer, and runs of it."""

from __future__ import annotations

import copy
import json
import math
import pickle
import subprocess
import sys
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_counting import by_the_formula
from test_ngram_embeddings import assert_a_cache_changes_nothing, ids_of

from tinygpt_core import backends, random
from tinygpt_core.buffer import Buffer
from tinygpt_core.counting import CountingModel
from tinygpt_core.dtype import DType
from tinygpt_core.formats import FormatError, load_pretrained, save_pretrained
from tinygpt_core.generation import continue_batch, continue_ids, most_probable
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import GPT, GPTConfig, NgramPrior
from tinygpt_core.tensor import Tensor, no_grad
from tinygpt_core.training import Trainer, TrainingConfig, load_model
from tinygpt_core.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from tinygpt_core.training.counts import counted_sequences
from tinygpt_core.training.origin import Origin
from tinygpt_core.training.presets import PRESETS
from tinygpt_core.training.settings import SettingError

CONFIG = GPTConfig(5, 8, 1, 2, 8, ngram_prior=3, positions="rotary", tied_head=False)
TEXTS = [[0, 1, 2, 3, 4, 1, 2, 0], [0, 1, 2, 4, 3, 1, 2, 4, 0], [0, 2, 1, 2, 0], [0, 4, 4, 4, 1, 2, 3, 0]]


def counted(config: GPTConfig = CONFIG, confidence: float = 1.0) -> GPT:
    """A model with counts, a confidence that differs from place to place, and a head that is not zero."""
    model = GPT(config)
    model.ngram_prior.count(TEXTS)
    with no_grad():
        gate = model.ngram_prior.confidence
        gate.weights.assign(Tensor.normal(gate.weights.shape, 0.0, 0.3))
        gate.bias.assign(Tensor.full((1,), confidence))
        if not config.tied_head:
            model.head.weights.assign(Tensor.normal(model.head.weights.shape, 0.0, 0.3))
    return model


# ---- what is counted


@settings(deadline=None)
@given(
    texts=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=8),
    longest=st.integers(0, 4),
    data=st.data(),
)
def test_one_left_out_is_counting_anew_without_it(
    texts: list[list[int]], longest: int, data: st.DataObject
) -> None:
    places = [(t, i) for t, text in enumerate(texts) for i in range(1, len(text))]
    if not places:
        return
    model = CountingModel(3, longest).fit(texts)
    number, place = data.draw(st.sampled_from(places))
    text = texts[number]
    context = text[max(0, place - data.draw(st.integers(0, longest))) : place]
    found = [math.exp(p) for p in model.log_probabilities(context, left_out=text[place])]
    assert math.isclose(sum(found), 1.0, rel_tol=1e-9) and min(found) > 0.0
    # The text is cut before the place and behind it, so that no other n-gram is lost but those that end there
    expected = by_the_formula(model, texts, list(context), longest, (number, place))
    assert all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(found, expected, strict=True))


def test_each_place_left_out_is_counting_anew_without_it() -> None:
    model = CountingModel(5, 3).fit(TEXTS)
    for number, text in enumerate(TEXTS):
        for place in range(1, len(text)):
            for length in range(min(place, 3) + 1):
                context = text[place - length : place]
                found = model.log_probabilities(context, left_out=text[place])
                expected = by_the_formula(model, TEXTS, context, 3, (number, place))
                assert [math.exp(p) for p in found] == pytest.approx(expected, rel=1e-9)


@settings(deadline=None)
@given(
    texts=st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=9), min_size=1, max_size=8),
    context=st.lists(st.integers(0, 2), max_size=3),
    token=st.integers(0, 2),
)
def test_what_was_never_counted_cannot_be_left_out(
    texts: list[list[int]], context: list[int], token: int
) -> None:
    model = CountingModel(3, 3).fit(texts)
    n = len(context) + 1
    if any([*context, token] == text[i : i + n] for text in texts for i in range(len(text) - n + 1)):
        return
    assert model.log_probabilities(context, left_out=token) == model.log_probabilities(context)


@settings(deadline=None)
@given(
    texts=st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=9), min_size=1, max_size=25),
    longest=st.integers(0, 4),
)
def test_counts_make_the_same_model_again(texts: list[list[int]], longest: int) -> None:
    model = CountingModel(4, longest).fit(texts)
    again = CountingModel.of_counts(4, model.counts(), model.discounts, model.top_discounts)
    assert again.counts() == model.counts() and again.num_ngrams == model.num_ngrams
    for text in texts:
        assert again.log_probabilities(text) == model.log_probabilities(text)
    assert again.nats(texts) == model.nats(texts)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"keys": [2, 1]}, "do not ascend"),
        ({"keys": [1, 1]}, "do not ascend"),
        ({"keys": [-1, 1]}, "not all of 4 tokens"),
        ({"keys": [1, 4]}, "not all of 4 tokens"),
        ({"counts": [1, 0]}, "from 1 to"),
        ({"counts": [1, 2**31]}, "from 1 to"),
        ({"counts": [1]}, "2 keys of context length 0 have 1 counts"),
        ({"discounts": [1.0]}, "between 0 and 1"),
        ({"discounts": [0.0]}, "between 0 and 1"),
        ({"discounts": [math.nan]}, "between 0 and 1"),
        ({"discounts": [0.5, 0.5]}, "as many discounts"),
    ],
)
def test_counts_that_none_can_have_are_refused(changes: dict[str, list[Any]], says: str) -> None:
    values = {"keys": [0, 1], "counts": [1, 1], "discounts": [0.5], **changes}
    with pytest.raises(ValueError, match=says):
        CountingModel.of_counts(4, [(values["keys"], values["counts"])], values["discounts"], [0.5])


# ---- the layer


def test_a_fresh_model_guesses_evenly_whatever_was_counted(usable: str) -> None:
    with backends.use(usable):
        model = GPT(CONFIG)
        model.ngram_prior.count(TEXTS)
        for row in model(ids_of([[0, 1, 2, 3]])).log_softmax(-1).to_python()[0]:
            assert row == pytest.approx([-math.log(5)] * 5)


def test_with_a_confidence_of_one_and_nothing_else_the_model_is_the_counting(usable: str) -> None:
    with backends.use(usable):
        model = GPT(CONFIG)
        model.ngram_prior.count(TEXTS)
        with no_grad():
            model.ngram_prior.confidence.bias.assign(Tensor.ones((1,)))
        counting = CountingModel(5, 3).fit(TEXTS)
        ids = [0, 1, 2, 4, 3, 1]
        for place, row in enumerate(model(ids_of([ids])).log_softmax(-1).to_python()[0]):
            expected = counting.log_probabilities(ids[: place + 1])
            assert row == pytest.approx(expected, rel=1e-5, abs=1e-5)
        text = [[0, 1, 2, 4, 0]]
        inputs, targets = ids_of([text[0][:-1]]), ids_of([text[0][1:]])
        loss = CrossEntropyLoss(reduction="mean")(model(inputs), targets).item()
        assert loss == pytest.approx(counting.nats(text), rel=1e-5)


def test_logits_are_those_of_the_head_and_what_the_confidence_leaves_of_counting(usable: str) -> None:
    """z + (x W + b) log p, where x is what the head gets."""
    with backends.use(usable), random.use_generator(random.Generator(4)):
        model = counted(replace(CONFIG, logit_soft_cap=2.0))
        ids = ids_of([[0, 1, 2, 4, 3], [0, 2, 2, 2, 1]])
        targets = ids_of([[1, 2, 4, 3, 1], [2, 2, 2, -1, 2]])
        seen: list[Tensor] = []
        head = model.head
        model.head = lambda x: seen.append(x) or head(x)
        found = model(ids, targets=targets).to_python()
        (x,) = seen
        z = ((head(x) * 0.5).tanh() * 2.0).to_python()
        gate = model.ngram_prior.confidence
        c = (x @ gate.weights + gate.bias).to_python()
        for b in range(2):
            for t in range(5):
                context, target = ids.to_python()[b][: t + 1], targets.to_python()[b][t]
                left_out = None if target < 0 else target
                p = model.ngram_prior.counting.log_probabilities(context, left_out=left_out)
                expected = [z[b][t][w] + c[b][t][0] * p[w] for w in range(5)]
                assert found[b][t] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_gradients_are_those_of_central_differences() -> None:
    with backends.use("python"), random.use_generator(random.Generator(6)):
        model = counted()
        model.apply(lambda tensor: tensor.cast(DType.float64))
        ids, targets = ids_of([[0, 1, 2, 4], [0, 4, 4, 1]]), ids_of([[1, 2, 4, 3], [4, 4, 1, -1]])

        def loss() -> Tensor:
            return CrossEntropyLoss(reduction="sum")(model(ids, targets=targets), targets)

        loss().backward()
        for name in ("ngram_prior.confidence.weights", "ngram_prior.confidence.bias", "head.weights"):
            tensor = dict(model.named_parameters())[name]
            assert tensor.grad is not None
            gradient = tensor.grad.buffer.to_array()
            for place in range(min(4, tensor.numel)):
                both = []
                for step in (1e-5, -1e-5):
                    values = tensor.buffer.to_array()
                    values[place] += step
                    kept = tensor.buffer
                    tensor.buffer = Buffer.from_array(array("d", values), tensor.shape, DType.float64)
                    with no_grad():
                        both.append(loss().item())
                    tensor.buffer = kept
                assert gradient[place] == pytest.approx((both[0] - both[1]) / 2e-5, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("split", [(1, 1, 1, 1, 1, 1), (2, 4), (5, 1), (3, 1, 2)])
@pytest.mark.parametrize("tables", [(), (16,)])
def test_a_cache_changes_nothing(usable: str, split: tuple[int, ...], tables: tuple[int, ...]) -> None:
    with backends.use(usable), random.use_generator(random.Generator(2)):
        model = counted(replace(CONFIG, ngram_tables=tables))
        assert_a_cache_changes_nothing(model, [[0, 1, 2, 3, 4, 1], [0, 4, 4, 1, 2, 3]], split)


def test_documents_in_a_row_are_as_alone(usable: str) -> None:
    with backends.use(usable), random.use_generator(random.Generator(3)):
        model = counted(replace(CONFIG, positions="none"))
        packed = model(ids_of([[0, 1, 2, 0, 4, 4]]), documents=ids_of([[1, 1, 1, 2, 2, 2]])).to_python()[0]
        for alone, part in (([0, 1, 2], packed[:3]), ([0, 4, 4], packed[3:])):
            for one, two in zip(model(ids_of([alone])).to_python()[0], part, strict=True):
                assert one == pytest.approx(two, rel=1e-4, abs=1e-5)


def test_many_prompts_at_once_go_on_as_each_alone(usable: str) -> None:
    with backends.use(usable), random.use_generator(random.Generator(5)):
        model = counted()
        prompts = [[0], [0, 1, 2], [0, 4, 4, 4, 1]]
        together = continue_batch(model, prompts, [most_probable] * 3, tokens=9, keep=4)
        for prompt, found in zip(prompts, together, strict=True):
            assert found == list(continue_ids(model, prompt, most_probable, tokens=9, keep=4))


def test_targets_are_of_the_shape_of_the_ids() -> None:
    model = counted()
    with pytest.raises(ValueError, match="targets"):
        model(ids_of([[0, 1, 2]]), targets=ids_of([[1, 2]]))
    plain = GPT(replace(CONFIG, ngram_prior=0))
    assert (
        plain(ids_of([[0, 1]]), targets=ids_of([[1, 2]])).to_python() == plain(ids_of([[0, 1]])).to_python()
    )


@pytest.mark.parametrize(
    ("back", "vocab_size", "problem"),
    [
        (-1, 5, ValueError),
        (2.0, 5, TypeError),
        (True, 5, TypeError),
        (33, 2, ValueError),
        (4, 50257, ValueError),
        (10, 64, ValueError),
    ],
)
def test_priors_that_do_not_work_are_refused(back: Any, vocab_size: int, problem: type[Exception]) -> None:
    with pytest.raises(problem, match="ngram_prior"):
        replace(CONFIG, vocab_size=vocab_size, ngram_prior=back)


def test_what_fits_64_bits_is_taken() -> None:
    for vocab_size, back in ((64, 9), (50257, 3), (2**16, 2), (2**31, 1), (1, 32)):
        prior = NgramPrior(vocab_size, back, 4) if vocab_size < 10**5 else None
        assert replace(CONFIG, vocab_size=vocab_size, ngram_prior=back).ngram_prior == back
        assert prior is None or prior.counting.num_ngrams == 0


# ---- files


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_weights_hold_the_counts(usable: str, tmp_path: Path, suffix: str) -> None:
    with backends.use(usable), random.use_generator(random.Generator(7)):
        model = counted()
        model.save_weights(tmp_path / f"weights{suffix}")
        other = GPT(CONFIG)
        other.load_weights(tmp_path / f"weights{suffix}")
        ids = ids_of([[0, 1, 2, 3]])
        assert other(ids).to_python() == model(ids).to_python()
        names = {name for name in model.named_weights() if name.startswith("ngram_prior.")}
        assert names == {
            "ngram_prior.confidence.weights",
            "ngram_prior.confidence.bias",
            "ngram_prior.discounts",
            *(f"ngram_prior.{kind}.{length}" for kind in ("keys", "counts") for length in range(4)),
        }
        assert model.num_parameters() == GPT(replace(CONFIG, ngram_prior=0)).num_parameters() + 9


def test_weights_that_lack_counts_or_have_wrong_ones_change_nothing() -> None:
    model = counted()
    before = model(ids_of([[0, 1, 2, 3]])).to_python()
    weights = model.named_weights()
    for name, value, says in (
        ("ngram_prior.keys.2", None, "ngram_prior.keys.2"),
        ("ngram_prior.keys.2", Buffer([1.0]), "keys.2"),
        ("ngram_prior.counts.1", Buffer([[1]]), "counts.1"),
        ("ngram_prior.discounts", Buffer([[50]]), "discounts"),
        ("ngram_prior.keys.0", Buffer([3, 1], DType.int64), "have 5 counts"),
    ):
        wrong = {key: each * 2.0 if each.dtype.is_floating else each for key, each in weights.items()}
        if value is None:
            del wrong[name]
        else:
            wrong[name] = value
        with pytest.raises(ValueError, match=says):
            model.load_weights(wrong)
        assert model(ids_of([[0, 1, 2, 3]])).to_python() == before


def test_copies_and_pickles_have_the_counts() -> None:
    model = counted()
    ids = ids_of([[0, 1, 2, 3]])
    expected = model(ids).to_python()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other(ids).to_python() == expected


def test_configs_survive_json_and_earlier_ones_are_as_they_were() -> None:
    assert GPTConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG
    assert "ngram_prior" not in replace(CONFIG, ngram_prior=0).to_dict()
    assert TrainingConfig.from_dict(TrainingConfig(ngram_prior=2).to_dict()).ngram_prior == 2
    assert "ngram_prior" not in TrainingConfig().to_dict()


def test_no_other_library_has_them(tmp_path: Path) -> None:
    with pytest.raises((FormatError, ValueError), match="ngram_prior is 3, not 0"):
        save_pretrained(counted(replace(CONFIG, positions="learned", tied_head=True)), tmp_path / "x", "gpt2")


# ---- runs


def small(usable: str, **changes: Any) -> TrainingConfig:
    settings: dict[str, Any] = {
        "backend": usable,
        "ngram_prior": 3,
        "steps": 6,
        "embedding_dim": 4,
        "batch_size": 4,
        "checkpoint_every": 3,
        "eval_every": 3,
        "eval_batches": 2,
        **changes,
    }
    return replace(PRESETS["debug"].config, **settings)


def words(folder: Path, name: str = "words.txt", letters: str = "bcd") -> str:
    path = folder / name
    text = "\n".join(f"{a}{b}an{c}" for a in letters for b in "aeiou" for c in "xyzvw")
    path.write_text(text, encoding="utf-8")
    return str(path)


def losses_of(trainer: Trainer, stop: int) -> list[Any]:
    found: list[Any] = []
    for event in trainer.run():
        found += [getattr(event, name) for name in ("loss", "val_loss") if hasattr(event, name)]
        trainer.stop_requested = trainer.step >= stop
    return found


@pytest.mark.parametrize(
    "changes",
    [{}, {"ema_decay": 0.9}, {"corpus": "text"}, {"shards": 2}, {"optimizer": "muon", "dropout": 0.2}],
    ids=["documents", "average", "stream", "shards", "muon"],
)
def test_a_run_that_was_stopped_goes_on_to_the_bit(
    usable: str, tmp_path: Path, changes: dict[str, Any]
) -> None:
    corpus = {"corpus": "text", "context_length": 8, **changes}
    config = small(usable, data_file=words(tmp_path), **corpus)
    if "corpus" not in changes:
        config = replace(config, corpus="names")
    whole = losses_of(Trainer.start(config, str(tmp_path / "whole")), 6)
    first = losses_of(Trainer.start(config, str(tmp_path / "parts")), 3)
    second = losses_of(Trainer.resume(str(tmp_path / "parts")), 6)
    assert first + second == whole and len(whole) == 8
    one, two = (load_model(str(tmp_path / name))[0] for name in ("whole", "parts"))
    with backends.use(usable), one.evaluation():
        ids = ids_of([[0, 1, 2, 3]])
        assert one(ids).to_python() == two(ids).to_python()
    assert one.ngram_prior.counting.num_ngrams > 100


def test_training_leaves_out_what_it_learns_from(tmp_path: Path) -> None:
    trainer = Trainer.start(small("python", data_file=words(tmp_path), corpus="names"), str(tmp_path / "run"))
    with trainer.context(), no_grad():
        trainer.model.ngram_prior.confidence.bias.assign(Tensor.ones((1,)))
        batch = trainer.data.training_batches.next_batch()
        trainer.model.train()
        loss = trainer.total_loss(batch).item()
        trainer.model.eval()
        seen = trainer.total_loss(batch).item()
    counting = CountingModel(trainer.data.tokenizer.vocab_size, 3)
    counting.fit(counted_sequences(trainer.data.training_batches))
    expected = {True: 0.0, False: 0.0}
    length = batch.shape[1]
    for place, target in enumerate(batch.targets):
        if target >= 0:
            context = batch.inputs[place - place % length : place + 1]
            for is_left_out in expected:
                left_out = target if is_left_out else None
                expected[is_left_out] -= counting.log_probabilities(context, left_out=left_out)[target]
    assert loss == pytest.approx(expected[True], rel=1e-5)
    assert seen == pytest.approx(expected[False], rel=1e-5) and seen < loss


def test_a_run_that_begins_with_another_counts_its_own_text(tmp_path: Path) -> None:
    config = small("python", data_file=words(tmp_path), corpus="names")
    trainer = Trainer.start(config, str(tmp_path / "first"))
    losses_of(trainer, 6)
    model, tokenizer, _ = load_model(str(tmp_path / "first"))
    origin = Origin(str(tmp_path / "first"), str(tmp_path / "first" / "tokenizer"), model, tokenizer)
    other = replace(config, data_file=words(tmp_path, "other.txt", "cd"))
    begun = Trainer.start(origin.settings(other, ()), str(tmp_path / "second"), origin=origin)
    assert begun.model.ngram_prior.counting.num_ngrams < trainer.model.ngram_prior.counting.num_ngrams
    again = CountingModel(trainer.data.tokenizer.vocab_size, 3)
    again.fit(counted_sequences(begun.data.training_batches))
    assert begun.model.ngram_prior.counting.counts() == again.counts()
    with pytest.raises(SettingError, match="counted its text"):
        origin.settings(replace(other, init_from=str(tmp_path / "first"), lora_rank=2), ())


def test_damaged_counts_are_refused(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    Trainer.start(small("python", data_file=words(tmp_path), corpus="names"), run)
    saved = load_checkpoint(run)
    for name, wrong in (
        ("ngram_prior.keys.1", lambda flat: flat[::-1]),
        ("ngram_prior.keys.3", lambda flat: [*flat[:-1], 2**62]),
        ("ngram_prior.counts.0", lambda flat: [-1, *flat[1:]]),
        ("ngram_prior.counts.2", lambda flat: flat[1:]),
        ("ngram_prior.discounts", lambda flat: [100] * len(flat)),
        ("ngram_prior.discounts", lambda flat: []),
        ("ngram_prior.keys.2", None),
    ):
        tensors = dict(saved.model_tensors)
        if wrong is None:
            del tensors[name]
        else:
            flat = array(tensors[name].to_array().typecode, wrong(tensors[name].to_array()))
            shape = (2, len(flat) // 2) if name.endswith("discounts") else (len(flat),)
            tensors[name] = Buffer.from_array(flat, shape, tensors[name].dtype)
        save_checkpoint(run, **{**saved._asdict(), "model_tensors": tensors})
        with pytest.raises(CheckpointError, match="run"):
            load_model(run)
        with pytest.raises(ValueError, match=r"ngram_prior|n-gram|keys|counts|discounts"):
            Trainer.resume(run)


def test_runs_are_converted_quantized_and_kept(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    losses_of(Trainer.start(small("python", data_file=words(tmp_path), corpus="names"), run), 6)
    model, tokenizer, _ = load_model(run)
    ids = ids_of([[0, 1, 2, 3]])
    expected = model(ids).to_python()
    save_pretrained(model, tmp_path / "copy", "native", tokenizer=tokenizer)
    assert load_pretrained(tmp_path / "copy")(ids).to_python() == expected
    halves = load_model(run, dtype="bfloat16")[0](ids).to_python()[0]
    for row, other in zip(expected[0], halves, strict=True):
        assert row == pytest.approx(other, abs=0.1)


def test_the_prior_of_a_preset_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = PRESETS["identifiers"].config
    config = replace(preset, data_file=words(tmp_path), corpus="names", eval_batches=1)
    for number, (changes, found) in enumerate(
        (({}, 7), ({"tokenizer": "bpe", "vocab_size": 1000}, 6), ({"ngram_prior": 5}, 5))
    ):
        trainer = Trainer.start(replace(config, **changes), str(tmp_path / f"run{number}"))
        assert trainer.config.ngram_prior == trainer.model.config.ngram_prior == found
    with pytest.raises(SettingError, match="at most"):
        Trainer.start(replace(config, tokenizer="bpe", vocab_size=1000, ngram_prior=8), str(tmp_path / "no"))
    monkeypatch.setattr("tinygpt_core.training.counts.MOST_COUNTED", 50)
    assert Trainer.start(config, str(tmp_path / "long")).config.ngram_prior == 0
    with pytest.raises(SettingError, match="give 0"):
        Trainer.start(replace(config, ngram_prior=2), str(tmp_path / "no"))


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tinygpt_core", *arguments], cwd=folder, capture_output=True, text=True
    )


def test_on_the_command_line(tmp_path: Path) -> None:
    words(tmp_path)
    train = ["train", "names", "--data", "words.txt", "--preset", "debug", "--backend", "python"]
    done = command(tmp_path, *train, "--ngram-prior", "3", "--out", "run")
    assert done.returncode == 0, done.stderr
    assert " n-grams: 1 layer" in done.stdout and "ngram_prior is 3" in done.stdout
    written = command(tmp_path, "generate", "run", "--count", "3", "--seed", "1")
    assert written.returncode == 0 and len(written.stdout.splitlines()) >= 3
    (tmp_path / "long.txt").write_text("abc\n" * 300_000)
    (tmp_path / "talk.jsonl").write_text('{"messages": []}\n')
    for wrong, says in (
        ([*train, "--ngram-prior", "33"], "--ngram-prior must be from 0 to 32"),
        ([*train, "--ngram-prior", "20"], "--ngram-prior must be at most"),
        (["train", "--data", "talk.jsonl", "--ngram-prior", "2"], "--ngram-prior counts what follows what"),
        (
            ["train", "text", "--data", "long.txt", "--ngram-prior", "2"],
            "--ngram-prior is for texts of at most",
        ),
    ):
        done = command(
            tmp_path, *wrong, "--out", "wrong", *(["--backend", "python"] if "docs" in wrong else [])
        )
        assert done.returncode == 2 and says in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "wrong").exists()


def test_a_step_on_a_device_is_not_recorded_since_counting_is_looked_up_on_the_host(tmp_path: Path) -> None:
    if why := backends.why_not("cuda-on-cpu"):
        pytest.skip(why)
    config = small("cuda-on-cpu", data_file=words(tmp_path), corpus="names")
    update: Any = Trainer.start(config, str(tmp_path / "run")).update
    assert "ngram_prior" in update.why_no_graph


def test_what_is_kept_of_contexts_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinygpt_core.nn.ngram_prior.MOST_KEPT", 3)
    model = counted()
    ids = ids_of([[0, 1, 2, 3, 4, 1, 2, 0]])
    expected = [
        model.ngram_prior.counting.log_probabilities([0, 1, 2, 3, 4, 1, 2, 0][: i + 1]) for i in range(8)
    ]
    for _ in range(2):
        for one, two in zip(model.ngram_prior.log_probabilities(ids).to_python()[0], expected, strict=True):
            assert one == pytest.approx(two, rel=1e-6)
        assert len(model.ngram_prior._rows) <= 3
    monkeypatch.undo()
    kept = model.ngram_prior.log_probabilities(ids)
    monkeypatch.setattr(
        CountingModel, "log_probabilities", None
    )  # what was asked before is not computed again
    assert model.ngram_prior.log_probabilities(ids).to_python() == kept.to_python()
