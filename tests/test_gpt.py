"""Laws of GPT: its configuration, its weights, its cache, its gradients, and generating with it."""

import math
from dataclasses import replace

import pytest

from tinygpt_core import random
from tinygpt_core.checks import check_gradients
from tinygpt_core.dtype import DType
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import GPT, GPTConfig
from tinygpt_core.tensor import Tensor, no_grad

TINY = GPTConfig(vocab_size=7, context_length=6, num_layers=2, num_heads=2, embedding_dim=4)
VARIANTS = {
    "gpt2": TINY,
    "llama": replace(
        TINY, normalization="rms_norm", positions="rotary", activation="swiglu", bias=False, tied_head=False
    ),
    "no positions": replace(TINY, positions="none", activation="relu", attention_bias=False, hidden_dim=3),
}
variants = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())


@pytest.fixture(autouse=True)
def fixed_seed():
    random.seed(3)


def spread(model, std=0.5):
    """Larger weights than the initial ones, so that positions and tokens make a difference."""
    model.apply(lambda tensor: Tensor.normal(tensor.shape, std=std, dtype=tensor.dtype))
    return model


def worst(a, b):
    assert a.shape == b.shape
    return (a.buffer - b.buffer).maximum(b.buffer - a.buffer).max().item()


@variants
def test_config_round_trip(config):
    assert GPTConfig.from_dict(config.to_dict()) == config
    assert all(value is None or isinstance(value, (int, float, str)) for value in config.to_dict().values())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"vocab_size": 0}, ValueError, "vocab_size must be at least 1"),
        ({"num_layers": 2.0}, TypeError, "num_layers must be an int"),
        ({"num_layers": True}, TypeError, "num_layers"),
        ({"hidden_dim": -3}, ValueError, "hidden_dim"),
        ({"num_heads": 3}, ValueError, r"embedding_dim \(4\) must be divisible by num_heads \(3\)"),
        ({"positions": "rotary", "num_heads": 4}, ValueError, "even head size"),
        ({"normalization": "batch_norm"}, ValueError, "normalization must be one of layer_norm, rms_norm"),
        ({"activation": None}, ValueError, "activation"),
        ({"bias": 1}, TypeError, "bias must be True or False"),
        ({"tied_head": None}, TypeError, "tied_head"),
        ({"dropout": 1.0}, ValueError, "dropout"),
        ({"dropout": "0"}, TypeError, "dropout"),
        ({"eps": math.nan}, ValueError, "eps"),
        ({"colour": 1, "size": 2}, ValueError, "unknown in a GPT config: colour, size"),
    ],
)
def test_config_errors_name_the_field(changes, error, message):
    with pytest.raises(error, match=message):
        GPTConfig.from_dict({**TINY.to_dict(), **changes})


def test_config_dictionaries_that_are_none():
    with pytest.raises(ValueError, match="missing in a GPT config: num_heads"):
        GPTConfig.from_dict({key: value for key, value in TINY.to_dict().items() if key != "num_heads"})
    with pytest.raises(TypeError, match="mapping"):
        GPTConfig.from_dict([1])


def test_hidden_sizes():
    assert TINY.mlp_dim == 16 and replace(TINY, hidden_dim=5).mlp_dim == 5
    assert replace(TINY, embedding_dim=384, activation="swiglu").mlp_dim == 1024
    assert replace(TINY, activation="swiglu").mlp_dim == 16  # 8/3 * 4 = 10.7


def test_parameter_names_and_shapes():
    def shapes(config):
        return {name: tensor.shape for name, tensor in GPT(config).named_parameters()}

    one = replace(TINY, num_layers=1)
    block = "transformer_blocks.0."
    expected = {
        "embedding_layer.embeddings": (7, 4),
        "position_embedding_layer.embeddings": (6, 4),
        block + "ln_1.weights": (4,),
        block + "ln_1.bias": (4,),
        block + "attn.query_key_value.weights": (4, 12),
        block + "attn.query_key_value.bias": (12,),
        block + "attn.out.weights": (4, 4),
        block + "attn.out.bias": (4,),
        block + "ln_2.weights": (4,),
        block + "ln_2.bias": (4,),
        block + "mlp.layers.0.weights": (4, 16),
        block + "mlp.layers.0.bias": (16,),
        block + "mlp.layers.1.weights": (16, 4),
        block + "mlp.layers.1.bias": (4,),
        "layer_norm.weights": (4,),
        "layer_norm.bias": (4,),
    }
    assert shapes(one) == expected
    assert shapes(replace(one, tied_head=False)) == {**expected, "head.weights": (4, 7)}
    without = {
        name: shape
        for name, shape in expected.items()
        if not name.endswith("bias") and "position" not in name
    }
    assert shapes(replace(one, bias=False, positions="none")) == without
    assert shapes(replace(one, attention_bias=False)) == {
        n: s for n, s in expected.items() if "attn" not in n or "weights" in n
    }


def test_gpt2_has_the_published_size():
    config = GPTConfig(vocab_size=50257, context_length=1024, num_layers=12, num_heads=12, embedding_dim=768)
    per_block = 12 * 768**2 + 13 * 768  # counted by hand: 124,439,808 in all
    assert (50257 + 1024) * 768 + config.num_layers * per_block + 2 * 768 == 124_439_808
    small = GPTConfig(vocab_size=5, context_length=8, num_layers=3, num_heads=4, embedding_dim=16)
    assert GPT(small).num_parameters() == (5 + 8) * 16 + 3 * (12 * 16**2 + 13 * 16) + 2 * 16


def test_initialisation():
    model = GPT(GPTConfig(vocab_size=64, context_length=16, num_layers=2, num_heads=2, embedding_dim=32))

    def std(tensor):
        values = tensor.buffer.to_array()
        return math.sqrt(sum(value * value for value in values) / len(values))

    for name, tensor in model.named_parameters():
        if name.endswith("bias"):
            assert std(tensor) == 0.0
        elif "ln_" in name or "layer_norm" in name:
            assert set(tensor.to_python()) == {1.0}
        else:
            residual = name.endswith(("out.weights", "layers.1.weights"))
            assert std(tensor) == pytest.approx(0.01 if residual else 0.02, rel=0.12), name


def test_seeds():
    def weights(seed):
        random.seed(seed)
        return [tensor.to_python() for _, tensor in GPT(TINY).named_parameters()]

    assert weights(5) == weights(5) != weights(6)


def test_tinygpt_constructor():
    by_name = GPT(max_seq_length=6, vocab_size=3, num_layers=2, num_heads=2, embedding_dim=4)
    by_place = GPT(6, 3, 2, 2, 4)
    expected = GPTConfig(3, 6, 2, 2, 4, activation="relu", attention_bias=False, tied_head=False)
    assert by_name.config == by_place.config == expected and by_name.max_seq_length == 6
    assert by_name(Tensor([[1, 2, 0], [0, 0, 0]])).shape == (2, 3, 3)
    for arguments in ((), (6, 3), (TINY, 3)):
        with pytest.raises(TypeError, match="GPT takes"):
            GPT(*arguments)


@variants
def test_logits_do_not_depend_on_later_tokens(config):
    model = spread(GPT(config))
    logits = model(Tensor([[1, 2, 3, 4, 5]]))
    assert worst(logits[:, :3], model(Tensor([[1, 2, 3, 0, 6]]))[:, :3]) < 1e-5
    assert worst(logits[:, :3], model(Tensor([[1, 2, 3]]))) < 1e-5
    assert worst(logits[:, 3:], model(Tensor([[1, 2, 3, 0, 6]]))[:, 3:]) > 1e-3


@variants
@pytest.mark.parametrize("parts", [[6], [1] * 6, [3, 1, 2], [2, 4]])
def test_cache_law_logits_agree_with_and_without(config, parts):
    model = spread(GPT(config))
    tokens = [[1, 2, 3, 4, 5, 0], [6, 6, 0, 1, 2, 3]]
    whole = model(Tensor(tokens))
    cache, start = model.new_cache(batch_size=2), 0
    for _ in range(2):  # a cache that was reset is as good as new
        cache.reset()
        start = 0
        for size in parts:
            logits = model(Tensor([row[start : start + size] for row in tokens]), cache=cache)
            assert not logits.requires_grad
            assert worst(logits, whole[:, start : start + size]) < 2e-5
            start += size
            assert cache.length == start
    with pytest.raises(ValueError, match="1 positions after 6 cached ones do not fit the context of 6"):
        model(Tensor([[1], [1]]), cache=cache)
    assert cache.length == 6


def test_errors():
    model = GPT(TINY)
    with pytest.raises(ValueError, match=r"\(batch, positions\)"):
        model(Tensor([1, 2]))
    with pytest.raises(ValueError, match="7 positions do not fit the context of 6"):
        model(Tensor([[0] * 7]))
    with pytest.raises(ValueError, match="the cache is for a batch of 1"):
        model(Tensor([[1], [2]]), cache=model.new_cache())
    with pytest.raises(IndexError):
        model(Tensor([[7]]))
    with pytest.raises(ValueError, match="integers"):
        model(Tensor([[1.0]]))


@variants
def test_gradients(config):
    model = spread(GPT(replace(config, vocab_size=3, context_length=3, num_layers=1)))
    model.apply(lambda tensor: tensor.cast(DType.float64))
    tokens, targets = Tensor([[0, 2, 1]]), Tensor([[2, 1, -1]])
    loss = CrossEntropyLoss()
    check_gradients(
        lambda *parameters: loss(logits=model(tokens), labels=targets).sum(),
        *(p for _, p in model.named_parameters()),
    )


def test_gradient_of_a_tied_head_is_the_sum_of_both_uses():
    tied = spread(GPT(TINY))
    free = GPT(replace(TINY, tied_head=False))
    shared = dict(tied.named_parameters())
    free.load_weights(
        [
            *shared.items(),
            ("head.weights", Tensor(shared["embedding_layer.embeddings"].transpose(0, 1).buffer)),
        ]
    )
    tokens, targets = Tensor([[1, 2, 2, 5]]), Tensor([[2, 2, 5, 0]])
    for model in (tied, free):
        CrossEntropyLoss()(logits=model(tokens), labels=targets).mean().backward()
    both = free.embedding_layer.embeddings.grad + free.head.weights.grad.transpose(0, 1)
    assert worst(tied.embedding_layer.embeddings.grad, both) < 1e-6
    assert worst(tied.layer_norm.weights.grad, free.layer_norm.weights.grad) < 1e-6


def test_greedy_generation_is_the_argmax_of_a_cropped_window():
    model = spread(GPT(TINY))
    tokens = [1, 2, 3]
    expected = list(tokens)
    with no_grad():
        for _ in range(8):  # outgrows the context of 6
            row = model(Tensor([expected[-6:]])).to_python()[0][-1]
            expected.append(row.index(max(row)))
    model.train()
    prompt = Tensor([tokens])
    result = model.generate_greedy(prompt, 8)
    assert result.to_python() == [expected] and result.dtype is DType.int32 and result.shape == (1, 11)
    assert prompt.to_python() == [tokens] and model.training
    assert model.generate_greedy(token_ids=prompt, max_new_tokens=0).to_python() == [tokens]
    assert model.generate_greedy(Tensor([[0] * 9]), 1).shape == (1, 10)


def test_sampling_follows_the_generator_and_the_temperature():
    model = spread(GPT(TINY))
    prompt = Tensor([[1, 2]])

    def sample(seed, temperature):
        random.seed(seed)
        return model.generate_sample_with_temperature(prompt, 12, temperature=temperature).to_python()[0]

    assert sample(1, 1.0) == sample(1, 1.0)
    assert len({tuple(sample(seed, 2.0)) for seed in range(5)}) > 1
    assert sample(1, 0.0) == sample(2, 1e-4) == model.generate_greedy(prompt, 12).to_python()[0]
    with pytest.raises(ValueError, match="temperature"):
        sample(1, -1.0)
    for wrong in (Tensor([1, 2]), Tensor([[1], [2]])):
        with pytest.raises(ValueError, match=r"\(1, positions\)"):
            model.generate_greedy(wrong, 1)


def test_dropout_acts_in_training_only():
    model = GPT(replace(TINY, dropout=0.5))
    tokens = Tensor([[1, 2, 3]])
    assert model(tokens).to_python() != model(tokens).to_python()
    model.eval()
    assert model(tokens).to_python() == model(tokens).to_python()
