"""Floor 10: the command `tinygpt`, a module a subcommand."""

from ..training.runs import SAMPLE_TEMPERATURE, SAMPLE_TOKENS
from .backends import run_backends
from .generate import SAMPLES, run_generate
from .main import build_parser, main  # the function: `tinygpt_core.cli.main` is what `tinygpt` runs
from .messages import UsageError, command_name, find_run
from .options import BESIDE_RESUME, RESUMABLE, SETTINGS
from .spec import run_spec
from .train import LATEST, RUNS, new_directory, run_train, settings_from
