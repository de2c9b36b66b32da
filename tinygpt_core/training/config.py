"""The settings of a run: each with what it is, what it may be and its name on the command line."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..dataset.conversations import is_conversation_file
from ..dataset.corpora import CORPORA
from ..kernels.precision import NAMES
from ..nn.gpt import CHOICES, GPTConfig
from ..nn.ngram_prior import MOST_BACK
from ..tokenizer.chat import TEMPLATES
from .settings import Range, SettingError, SettingTypeError, check_settings, setting, settings_of

COUNT = Range(1, 2**31, "from 1 to 2**31")
SIZE = Range(1, 2**24, "from 1 to 2**24")
EXPERTS = Range(1, 2**16, "from 1 to 2**16")
STEPS = Range(0, 2**31, "from 0 to 2**31")
FRACTION = Range(0.0, math.nextafter(1.0, 0.0), "at least 0 and below 1")
NOT_NEGATIVE = Range(0.0, 1e6, "from 0 to 1e6")
POSITIVE = Range(math.ulp(0.0), 1e6, "above 0 and at most 1e6")  # ulp(0) is the least number above 0

OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "wsd")
YOUNGER = (
    "attention_soft_cap",
    "balance_loss",
    "bias",
    "chat_template",
    "decay_fraction",
    "decay_steps",
    "ema_decay",
    "experts_per_token",
    "init_from",
    "keep_best",
    "label_smoothing",
    "logit_soft_cap",
    "lora_alpha",
    "lora_dropout",
    "lora_rank",
    "lora_targets",
    "ngram_prior",
    "ngram_tables",
    "num_experts",
    "optimizer",
    "packing",
    "patience",
    "prompt",
    "query_key_norm",
    "router_z_loss",
    "sample_every",
    "schedule",
    "shards",
    "sliding_window",
    "time_budget",
    "value_embeddings",
    "z_loss",
)  # that the first runs did not have


@dataclass(frozen=True)
class TrainingConfig:
    """All settings of a run. Lengths are in tokens, rates are per step.

    Raises:
        SettingTypeError, SettingError: a setting has the wrong type (a TypeError) or a value that does not
            work (a ValueError); the message names it.
    """

    # ---- what is trained, on what, and where

    corpus: str = setting(
        "identifiers",
        f"one of {', '.join(CORPORA)}, or a path as with --data",
        option="",  # it stands on the command line without one
        metavar="CORPUS",
        default_help="the preset's",
    )
    data_file: str | None = setting(
        None,
        "a text file to train on, a .jsonl file of conversations, or a folder of texts or of train.bin",
        option="--data",
        metavar="FILE",
        default_help="what the corpus stands for",
    )
    preset: str = setting(
        "identifiers",
        "named settings, see below",
        metavar="NAME",
        default_help="the corpus's own, or identifiers",
    )
    backend: str = setting(
        "python",
        "see `tinygpt backends`",
        metavar="NAME",
        default_help="$TINYGPT_BACKEND, or the fastest that can run",
        is_resumable=True,
    )
    seed: int = setting(1337, "of everything random", Range(0, 2**64 - 1, "from 0 to 2**64 - 1"))
    dtype: str = setting(  # parameters and optimizer stay float32, see precision.autocast
        "float32", "what products are computed in, all but float32 on a GPU only", NAMES, is_resumable=True
    )

    init_from: str | None = setting(  # in a configuration it is absolute
        None,
        "a run, or a folder that `convert` reads, with whose weights, sizes and tokenizer to begin",
        metavar="DIR",
        default_help="weights are drawn",
    )
    lora_rank: int = setting(
        0,
        "rank of adapters (LoRA), which alone are trained, beside the layers of the model of --init-from",
        Range(0, 2**24, "from 0 to 2**24 (0: no adapters)"),
        option="--lora",
        metavar="R",
        default_help="0",
    )
    lora_alpha: float | None = setting(
        None, "what adapters add is multiplied by X / R", POSITIVE, default_help="R, so by 1"
    )
    lora_targets: str = setting(
        "",
        "layers that get adapters, by the last parts of their names, such as q_proj,v_proj; or all-linear",
        metavar="NAME,NAME,...",
        default_help="queries and values of the attention",
    )
    lora_dropout: float = setting(
        0.0, "probability of dropping an input of an adapter", FRACTION, default_help="0"
    )

    # ---- tokens

    chat_template: str | None = setting(
        None,
        "marks around the messages of conversations",
        tuple(TEMPLATES),
        metavar="NAME",
        default_help="that of the model of --init-from; else plain, or text where it has no special tokens",
    )
    packing: bool = setting(
        False, "put several conversations into a row, which do not see each other", default_help="one a row"
    )
    tokenizer: str = setting(  # in a configuration a path is absolute
        "characters",
        "'characters', 'bpe', or one that is there: a file, or a folder with vocab.json and merges.txt",
    )
    vocab_size: int = setting(  # characters are counted
        512, "tokens of a bpe tokenizer", Range(257, 2**24, "from 257 (256 bytes and the boundary) to 2**24")
    )

    # ---- the model

    context_length: int = setting(32, "tokens the model sees at once", SIZE)
    num_layers: int = setting(1, "transformer blocks", SIZE, option="--layers")
    num_heads: int = setting(2, "attention heads in a block", SIZE, option="--heads")
    embedding_dim: int = setting(16, "width of the model, a multiple of the heads", SIZE)
    normalization: str = setting("layer_norm", "of the blocks", CHOICES["normalization"])
    positions: str = setting("rotary", "how the model knows places", CHOICES["positions"])
    activation: str = setting("gelu", "of the MLPs", CHOICES["activation"])
    bias: bool = setting(
        True, "biases in linear layers and LayerNorm; no format holds experts that have them"
    )
    tied_head: bool = setting(False, "whether the head's weights are the token embeddings", option="")
    # GPT-2's 0.02 suits models that are 768 wide, and is far too little for 16.
    initial_std: float = setting(0.12, "standard deviation of the matrices at the start", POSITIVE, option="")
    ngram_tables: tuple[int, ...] = setting(
        (), "rows of tables of hashed 2-grams, 3-grams, ..., or none", SIZE, metavar="N,N,..."
    )
    ngram_prior: int = setting(
        0,
        "tokens back that an n-gram model has counted, whose predictions the model corrects",
        Range(0, MOST_BACK, f"from 0 to {MOST_BACK} (0: none)"),
    )
    dropout: float = setting(0.0, "probability of dropping an activation", FRACTION)
    query_key_norm: bool = setting(False, "normalize the queries and keys of each head")
    attention_soft_cap: float | None = setting(
        None, "c, with which attention's scores s become c tanh(s / c)", POSITIVE, default_help="none"
    )
    logit_soft_cap: float | None = setting(
        None, "c, with which the logits x become c tanh(x / c)", POSITIVE, default_help="none"
    )
    sliding_window: int | None = setting(
        None, "positions, the last ones and its own, that a position sees", SIZE, default_help="all"
    )
    num_experts: int | None = setting(
        None,
        "MLPs in each block, of which a router chooses some for each token",
        EXPERTS,
        option="--experts",
        default_help="one MLP, and no router",
    )
    experts_per_token: int = setting(2, "of --experts, those that a token passes through", EXPERTS)
    value_embeddings: int = setting(
        0,
        "tables of value embeddings, for so many of the first layers and of the last ones",
        Range(0, 2**24, "from 0 to 2**24 (0: none)"),
    )

    # ---- updates

    steps: int = setting(1100, "updates to make", COUNT, is_resumable=True)
    batch_size: int = setting(8, "sequences in a batch", COUNT)
    accumulation: int = setting(1, "batches whose gradients make one update", COUNT)
    shards: int = setting(
        1,
        "parts of a batch that as many processes may compute; the number of processes changes no bit",
        Range(1, 2**20, "from 1 to 2**20"),
        default_help="as many as there are processes",
    )
    learning_rate: float = setting(
        0.015, "highest learning rate, reached after the warm-up", POSITIVE, is_resumable=True
    )
    minimum_learning_rate: float = setting(
        0.0007, "learning rate at the end of its fall", NOT_NEGATIVE, is_resumable=True
    )
    warmup_steps: int = setting(20, "steps over which the learning rate rises from 0", STEPS)
    decay_steps: int = setting(
        0,
        "step at which the cosine ends",
        Range(0, 2**31, "from 0 to 2**31 (0: the last step, so with more steps the cosine is stretched)"),
        is_resumable=True,
    )
    time_budget: float = setting(
        0.0,
        "time after which the run ends, such as 60s or 5m; the learning rate falls by the clock",
        Range(0.0, 1e9, "from 0 to 1e9 seconds (0: --steps says when)"),
        option="--until",
        unit="s",
        is_resumable=True,
    )
    schedule: str = setting(
        "cosine", "how the learning rate falls: all the time, or at the end (wsd)", SCHEDULES
    )
    decay_fraction: float = setting(
        0.2,
        "part of the steps after the warm-up in which it falls with wsd",
        Range(math.ulp(0.0), 1.0, "above 0 and at most 1"),
    )
    optimizer: str = setting(
        "adamw",
        "what makes updates of gradients; muon: of the blocks' matrices, AdamW of the rest",
        OPTIMIZERS,
    )
    weight_decay: float = setting(0.0, "decay of matrices", NOT_NEGATIVE)
    beta1: float = setting(0.9, "AdamW's β1", FRACTION, option="")
    beta2: float = setting(0.99, "AdamW's β2", FRACTION, option="")
    gradient_clip: float = setting(
        1.0, "largest norm of the gradient", Range(math.ulp(0.0), math.inf, "above 0 (inf: no clipping)")
    )

    ema_decay: float = setting(
        0.0,
        "how slowly the running average of the weights forgets, which is validated and kept, such as 0.99",
        Range(0.0, FRACTION.high, "at least 0 and below 1 (0: no average)"),
    )
    label_smoothing: float = setting(
        0.0, "part of the probability that the training loss wants spread over all tokens", FRACTION
    )
    z_loss: float = setting(
        0.0, "factor of log(sum of exp(logits))² in the training loss, such as 1e-4", NOT_NEGATIVE
    )
    balance_loss: float = setting(
        0.01, "factor of the loss that has the router use all experts evenly", NOT_NEGATIVE
    )
    router_z_loss: float = setting(
        0.0,
        "factor of the router's log(sum of exp(logits))² in the training loss, such as 1e-3",
        NOT_NEGATIVE,
    )

    # ---- what happens now and then

    eval_every: int = setting(
        250, "steps between validations", Range(0, 2**31, "from 0 to 2**31 (0: never)"), is_resumable=True
    )
    eval_batches: int = setting(8, "batches in a validation", COUNT)
    checkpoint_every: int = setting(
        250,
        "steps between checkpoints",
        Range(0, 2**31, "from 0 to 2**31 (0: only at the end)"),
        is_resumable=True,
    )
    keep_best: bool = setting(
        False,
        "keep the checkpoint of the best validation, too, as `best` in the run's directory",
        is_resumable=True,
    )
    patience: int = setting(
        0,
        "validations in a row that are not better than the best before, after which the run ends",
        Range(0, 2**31, "from 0 to 2**31 (0: it does not end for that)"),
        is_resumable=True,
    )

    sample_every: int = setting(
        0,
        "steps between texts that the model writes while it trains; they are in the log, too",
        Range(0, 2**31, "from 0 to 2**31 (0: only at the end)"),
        is_resumable=True,
    )
    prompt: str = setting(
        "", "what these texts begin with", metavar="TEXT", default_help="nothing", is_resumable=True
    )

    def __post_init__(self) -> None:
        if isinstance(self.ngram_tables, list):  # JSON has lists
            object.__setattr__(self, "ngram_tables", tuple(self.ngram_tables))
        check_settings(self)
        if self.tokenizer not in ("characters", "bpe") and not os.path.isabs(self.tokenizer):
            raise SettingError(
                "tokenizer",
                f" must be 'characters', 'bpe' or the absolute path of one, not {self.tokenizer!r:.80}",
            )
        # GPTConfig checks these three as well, but knows the settings by its own names only.
        if self.embedding_dim % self.num_heads:
            raise SettingError(
                "embedding_dim",
                f" ({self.embedding_dim}) must be divisible by ",
                "num_heads",
                f" ({self.num_heads})",
            )
        if self.positions == "rotary" and self.embedding_dim // self.num_heads % 2:
            raise SettingError(
                "positions",
                " that are rotary need an even head size, but ",
                "embedding_dim",
                " / ",
                "num_heads",
                f" is {self.embedding_dim // self.num_heads}",
            )
        if self.value_embeddings > self.num_layers:
            raise SettingError(
                "value_embeddings",
                f" ({self.value_embeddings}) must be at most ",
                "num_layers",
                f" ({self.num_layers}): a layer has one table",
            )
        if self.shards > self.batch_size:
            raise SettingError(
                "shards",
                f" ({self.shards}) must be at most ",
                "batch_size",
                f" ({self.batch_size}): a shard has a sequence of each batch at least",
            )
        self._check_adapters()
        for name in ("chat_template", "packing"):
            if getattr(self, name) and not is_conversation_file(self.data_file):
                raise SettingError(
                    name, " is for conversations, which ", "data_file", " has where its name ends in .jsonl"
                )
        if self.ngram_prior and is_conversation_file(self.data_file):
            raise SettingError(
                "ngram_prior", " counts what follows what, which has no meaning where only answers count"
            )
        if self.init_from is None:  # else the experts come with the model
            self.require_experts("experts_per_token", "balance_loss", "router_z_loss")
        if self.num_experts is not None and self.experts_per_token > self.num_experts:
            raise SettingError(
                "experts_per_token",
                f" ({self.experts_per_token}) must be at most ",
                "num_experts",
                f" ({self.num_experts})",
            )
        for name in ("keep_best", "patience"):
            if getattr(self, name) and not self.eval_every:
                raise SettingError(name, " needs validations, and ", "eval_every", " is 0: there are none")
        self.model_config(vocab_size=1)

    def _check_adapters(self) -> None:
        """Raises SettingError where adapters have no model, or settings of adapters none."""
        if self.lora_rank and self.init_from is None:
            raise SettingError(
                "lora_rank", " needs ", "init_from", ": adapters change a model that is there already"
            )
        for name in ("lora_alpha", "lora_targets", "lora_dropout"):
            if getattr(self, name) and not self.lora_rank:
                raise SettingError(name, " needs ", "lora_rank", ", the rank of the adapters that it is for")
        if self.lora_targets and not self.lora_targets.strip(", "):
            raise SettingError("lora_targets", f" names no layer: {self.lora_targets!r:.80}")

    def require_experts(self, *names: str) -> None:
        """Checks that settings of experts, which are not as they are by default, have experts.

        Args:
            names: of these settings.

        Raises:
            SettingError: the model has none, so that one of them would do nothing.
        """
        for name in names:
            if self.num_experts is None and getattr(self, name) != SETTINGS[name].default:
                raise SettingError(name, " needs ", "num_experts", ", the number of experts that it is for")

    def model_config(self, vocab_size: int) -> GPTConfig:
        """Returns the configuration of the model, which also depends on the tokenizer."""
        own = {field.name for field in fields(self)}
        shared = [
            field.name for field in fields(GPTConfig) if field.name in own and field.name != "vocab_size"
        ]
        return GPTConfig(vocab_size=vocab_size, **{name: getattr(self, name) for name in shared})

    def going_on_with(self, **changes: Any) -> TrainingConfig:
        """Returns the settings of this run as it is resumed with changes. With another learning rate the
        lowest one changes in proportion, unless it is among the changes: so does all of the schedule.

        Raises:
            SettingTypeError, SettingError: a change that does not work.
        """
        changed = replace(self, **changes)
        if changed.learning_rate == self.learning_rate or "minimum_learning_rate" in changes:
            return changed
        factor = changed.learning_rate / self.learning_rate
        return replace(changed, minimum_learning_rate=factor * self.minimum_learning_rate)

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as plain JSON values.

        Those of YOUNGER are among them only where they are set: earlier versions can go on reading.
        """
        values = asdict(self)
        for name in YOUNGER:
            if values[name] == SETTINGS[name].default:
                del values[name]
        if self.ngram_tables:
            values["ngram_tables"] = list(self.ngram_tables)
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingConfig:
        """Returns the settings that `to_dict` gave; missing names get their defaults.

        Raises:
            ValueError: an unknown name.
            SettingError: a value that does not work, also one of another type: it stands in a file, so it is
                the value that is wrong, not the program.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown training settings: {', '.join(map(repr, unknown)):.400}")
        try:
            return cls(**values)
        except SettingTypeError as problem:
            raise SettingError(*problem.parts) from None


SETTINGS = settings_of(TrainingConfig)


def plural(count: int, noun: str) -> str:
    """Returns a count with its noun, such as "1 layer" and "2 layers"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def describe_sizes(config: TrainingConfig | GPTConfig) -> str:
    """Returns the sizes of a model in a few words, such as "1 layer, 2 heads, 16 wide"."""
    layers = plural(config.num_layers, "layer")
    heads = plural(config.num_heads, "head")
    return f"{layers}, {heads}, {config.embedding_dim} wide"
