"""Compatibility: modules that stood elsewhere before, and can still be imported by their old names.

`import tinygpt_core.corpora` and `from tinygpt_core import corpora` give `tinygpt_core.dataset.corpora`. An
old module that was divided is a new one that holds the public names of its parts. Nothing in this project
imports an old name.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED: dict[str, tuple[str, ...]] = {
    "checkpoint": ("training.checkpoint",),
    "cli_compare": ("cli.compare",),
    "cli_convert": ("cli.convert", "cli.inspect"),
    "cli_plot": ("cli.plot",),
    "comparison": ("cli.comparison",),
    "corpora": ("dataset.corpora",),
    "elementwise_losses": ("losses",),
    "encoders": ("tokenizer.encoders",),
    "folders": ("dataset.corpora",),
    "id_check": ("dataset.tokens",),
    "images": ("dataset.images",),
    "inspection": ("nn.inspection",),
    "kernels.composed": ("kernels", "kernels.base", "kernels.activations"),
    "kernels.packed_attention": ("kernels.attention",),
    "kernels.python_convolution": ("kernels.python.convolution",),
    "loggers": ("training.loggers",),
    "merging": ("tokenizer.base", "tokenizer.bpe"),
    "misfit": ("shape_errors",),
    "nn.layers": ("nn", "nn.linear", "nn.activations"),
    "parameter_statistics": ("training.statistics",),
    "plotting": ("cli.plotting",),
    "precision": ("kernels.precision",),
    "pretokenize": ("tokenizer.base", "tokenizer.patterns"),
    "printing": ("buffer.text", "graph_text", "module_text"),
    "progress": ("cli.progress",),
    "serialization": ("files.atomic", "files.json_objects", "files.safetensors"),
    "stepping": ("training.loop", "training.step"),
    "token_folders": ("dataset.token_folders",),
    "toy_data": ("dataset.toy_data",),
    "vocabularies": ("tokenizer.vocabularies",),
}
"""Old name -> the modules where its names are now, both below this package."""


class OldNames:
    """Finds the modules of a package by their old names, where nothing else has found them.

    Args:
        package: its name.
        moved: old name -> the modules where its names are now, all below the package.
    """

    def __init__(self, package: str, moved: dict[str, tuple[str, ...]]) -> None:
        self.package, self.moved = package, moved

    def install(self) -> None:
        """Makes the old names known to `import`."""
        sys.meta_path.append(self)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Returns how to load an old name of the package; None for any other."""
        package, _, name = fullname.partition(".")
        if package != self.package or name not in self.moved:
            return None
        return ModuleSpec(fullname, self)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Leaves it to the import system to make the module that `exec_module` fills or replaces."""

    def exec_module(self, module: ModuleType) -> None:
        """Puts the module that now has the names in the place of the old one; where there are several, their
        public names.
        """
        parts = [
            import_module(f"{self.package}.{name}") for name in self.moved[module.__name__.partition(".")[2]]
        ]
        if len(parts) == 1:
            sys.modules[module.__name__] = parts[0]
        for part in parts:
            vars(module).update(
                {name: value for name, value in vars(part).items() if not name.startswith("_")}
            )
