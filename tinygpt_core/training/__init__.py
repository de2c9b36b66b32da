"""Floor 9: training, from a corpus to a model in a directory.

Reading order: `settings` (how a setting is described), `config` (which there are), `presets` (named sets of
them), `data` (from a corpus to batches), `conversations` (a corpus of questions and answers), `loop` (one
update, and the trainer that makes them), `step` (how a backend may make an update in its own way), `events`
(what a run yields), `statistics` (what an update did), `checkpoint` and `runs` (what is kept in a directory),
`loggers` (where else the numbers go).
"""

from .config import TrainingConfig
from .data import BOUNDARY, DATA_STREAM, Data, prepare_data, unigram_entropy
from .events import CheckpointEvent, Event, StepEvent, ValidationEvent
from .loop import Trainer, TrainingStep, training_step
from .presets import PRESETS, Preset
from .runs import LOG, load_model, refuse_used_directory
from .settings import SettingError, SettingTypeError
from .step import as_tensors
