"""Floor 9: training, from a corpus to a model in a directory.

Reading order: `config` (the settings), `presets` (named sets of them), `data` (from a corpus to batches),
`loop` (the trainer), `step` (one update), `statistics` (what it did), `checkpoint` (what is kept), `loggers`
(who else is told).
"""

from .config import TrainingConfig
from .data import BOUNDARY, DATA_STREAM, Data, prepare_data, unigram_entropy
from .loop import (
    LOG,
    CheckpointEvent,
    Event,
    StepEvent,
    Trainer,
    ValidationEvent,
    load_model,
    refuse_used_directory,
)
from .presets import PRESETS
from .step import TrainingStep, as_tensors, training_step
