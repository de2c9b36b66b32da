"""Floor 10: the command `tinygpt`, a module a subcommand."""

from .main import build_parser, main
