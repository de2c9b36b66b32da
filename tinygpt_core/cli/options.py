"""The options of `tinygpt train` that are settings of a run."""

from __future__ import annotations

# Settings that --resume may change
RESUMABLE = ("steps", "eval_every", "checkpoint_every", "backend", "dtype")
BESIDE_RESUME = "only --steps, --eval-every, --checkpoint-every, --backend, --dtype, --log-to and --quiet may stand beside it"
# Every option of `train` that is a setting: field of TrainingConfig, option, type, what it is.
SETTINGS: tuple[tuple[str, str, type, str], ...] = (
    ("steps", "--steps", int, "updates to make"),
    ("batch_size", "--batch-size", int, "sequences in a batch"),
    ("accumulation", "--accumulation", int, "batches whose gradients make one update"),
    ("context_length", "--context-length", int, "tokens the model sees at once"),
    ("num_layers", "--layers", int, "transformer blocks"),
    ("num_heads", "--heads", int, "attention heads in a block"),
    ("embedding_dim", "--embedding-dim", int, "width of the model, a multiple of the heads"),
    ("positions", "--positions", str, "how the model knows places: 'learned', 'rotary' or 'none'"),
    ("normalization", "--normalization", str, "'layer_norm' or 'rms_norm'"),
    ("activation", "--activation", str, "of the MLPs: 'gelu', 'relu', 'silu', 'swiglu' and others"),
    ("dropout", "--dropout", float, "probability of dropping an activation, at least 0 and below 1"),
    ("learning_rate", "--learning-rate", float, "highest learning rate, reached after the warm-up"),
    ("minimum_learning_rate", "--minimum-learning-rate", float, "learning rate at the end of the cosine"),
    ("warmup_steps", "--warmup-steps", int, "steps over which the learning rate rises from 0"),
    ("weight_decay", "--weight-decay", float, "AdamW's decay of matrices"),
    ("gradient_clip", "--gradient-clip", float, "largest norm of the gradient"),
    (
        "tokenizer",
        "--tokenizer",
        str,
        "'characters', 'bpe', or one that is there: a file, or a folder with vocab.json and merges.txt",
    ),
    ("vocab_size", "--vocab-size", int, "tokens of a bpe tokenizer"),
    (
        "dtype",
        "--dtype",
        str,
        "what products are computed in: 'float32', on a GPU also 'tf32', 'bfloat16' or 'float16'",
    ),
    ("seed", "--seed", int, "of everything random"),
    ("eval_every", "--eval-every", int, "steps between validations, 0 for none"),
    ("eval_batches", "--eval-batches", int, "batches in a validation"),
    ("checkpoint_every", "--checkpoint-every", int, "steps between checkpoints, 0 for one at the end only"),
)
