"""Every name that the packages had before modules moved into folders is still there, at the same place.

public_names.txt lists them as `module:name` and `module:Class.member`, see fixtures/list_public_names.py.
What was renamed or given up stands in RENAMED, so that doing so is a decision and not an accident.
"""

from __future__ import annotations

import ast
import importlib
import sys
import warnings
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fixtures.list_public_names import bound, members, source, statements, try_import

from tinygpt_core.moved import OldNames

# A line of the list, or a whole module (no colon) -> what to write instead, or why it is gone.
RENAMED: dict[str, str] = {
    "tinygpt_accel.convolution:ArrayConv2d.share_out": "ArrayConv2d.parallel_for",
    "tinygpt_accel.convolution:ArrayMaxPool2d.share_out": "ArrayMaxPool2d.parallel_for",
    "tinygpt_accel.convolution:ArrayMaxPool2d.spread": "ArrayMaxPool2d.pool_gradient",
    "tinygpt_accel.cuda_attention:like_heads": "cuda_backend.kernels.batched_attention:empty_like_heads",
    "tinygpt_accel.cuda_buffer:CudaBuffer.converted": "CudaBuffer.convert",
    "tinygpt_accel.cuda_buffer:CudaBuffer.device_context": "gone: CUDA_VISIBLE_DEVICES chooses the GPU",
    "tinygpt_accel.cuda_buffer:CudaBuffer.device_id": "gone: CUDA_VISIBLE_DEVICES chooses the GPU",
    "tinygpt_accel.cuda_buffer:CudaBuffer.graph_errors": "CudaBuffer.why_not_recorded",
    "tinygpt_accel.cuda_buffer:CudaBuffer.held": "CudaBuffer.stored",
    "tinygpt_accel.cuda_buffer:CudaBuffer.in_kind": "CudaBuffer.in_format",
    "tinygpt_accel.cuda_buffer:CudaBuffer.late_tables": "CudaBuffer.graph_tables",
    "tinygpt_accel.cuda_buffer:CudaBuffer.make_room": "CudaBuffer.new_graph_capture",
    "tinygpt_accel.cuda_buffer:CudaBuffer.moved": "CudaBuffer.random_offset",
    "tinygpt_accel.cuda_buffer:CudaBuffer.take_bias": "CudaBuffer.waiting_for: whole work waits, no bias",
    "tinygpt_accel.cuda_buffer:CudaBuffer.walk": "CudaBuffer.launch_elementwise",
    "tinygpt_accel.cuda_buffer:CudaBuffer.wrap_held": "CudaBuffer.wrap",
    "tinygpt_accel.cuda_buffer:KIND_OF": "cuda_backend.buffer:FORMAT_OF",
    "tinygpt_accel.cuda_buffer:bound": "gone: CUDA_VISIBLE_DEVICES chooses the GPU",
    "tinygpt_accel.cuda_buffer:kind_of": "cuda_backend.buffer:format_of",
    "tinygpt_accel.cuda_kernels:adamw_numbers": "cuda_backend.kernels.optimizer_steps:adamw_scalars",
    "tinygpt_accel.cuda_kernels:compute_kind": "cuda_backend.kernels.common:compute_format",
    "tinygpt_accel.cuda_kernels:cuda": "gone: kernels are registered in one table",
    "tinygpt_accel.cuda_kernels:forget_tables": "gone: a step keeps its own rotary tables",
    "tinygpt_accel.cuda_sources:LOW": "cuda_backend.sources:SIXTEEN_BIT",
    "tinygpt_accel.cuda_step:Recording.drawn": "Recording.random_blocks",
    "tinygpt_accel.cuda_step:Recording.fixed": "Recording.assumptions",
    "tinygpt_accel.cuda_step:Recording.moved": "Recording.random_offset",
    "tinygpt_accel.cuda_step:Recording.numbers": "Recording.scalars",
    "tinygpt_accel.cuda_step:Recording.position": "Recording.random_position",
    "tinygpt_accel.cupy_backend:CupyBuffer.graph_errors": "CupyBuffer.why_not_recorded",
    "tinygpt_accel.cupy_backend:CupyBuffer.make_room": "CupyBuffer.new_graph_capture",
    "tinygpt_accel.cupy_backend:Room": "cuda_backend.cupy_buffer:GraphCapture",
    "tinygpt_accel.cupy_backend:Room.record": "GraphCapture.record",
    "tinygpt_accel.cupy_backend:on_device": "gone: CUDA_VISIBLE_DEVICES chooses the GPU",
    "tinygpt_accel.numpy_convolution:NumpyConv2d.share_out": "NumpyConv2d.parallel_for",
    "tinygpt_accel.numpy_convolution:NumpyMaxPool2d.share_out": "NumpyMaxPool2d.parallel_for",
    "tinygpt_accel.numpy_convolution:NumpyMaxPool2d.spread": "NumpyMaxPool2d.pool_gradient",
    "tinygpt_accel.numpy_kernels:CHAIN": "numpy_backend.threads:CHAIN_GRAIN",
    "tinygpt_accel.numpy_kernels:STEP": "numpy_backend.threads:STEP_GRAIN",
    "tinygpt_accel.numpy_kernels:fused": "gone: kernels are registered in one table",
    "tinygpt_accel.numpy_kernels:wrap": "NumpyBuffer.wrap",
    "tinygpt_accel.philox:scrambled": "philox:philox4x32_10",
    "tinygpt_accel.threads:share_out": "numpy_backend.threads:parallel_for",
    "tinygpt_core.buffer.python:dot": "tinygpt_core.buffer.rows:dot",
    "tinygpt_core.buffer.python:product": "tinygpt_core.buffer.rows:product",
    "tinygpt_core.buffer.python:product_transposed": "tinygpt_core.buffer.rows:product_transposed",
    "tinygpt_core.cli_compare:add_commands": "tinygpt_core.cli.compare:add_command, which adds one",
    "tinygpt_core.cli_convert:add_commands": "add_command of tinygpt_core.cli.convert, and of cli.inspect",
    "tinygpt_core.comparison:weight_bound": "tinygpt_core.cli.comparison:weight_tolerance",
    "tinygpt_core.dtype:checked": "tinygpt_core.dtype:check_dtype",
    "tinygpt_core.explain.recorder:Recorder.held_buffers": "Recorder.recorded_buffers",
    "tinygpt_core.explain.tape:walk": "tinygpt_core.tape:walk_back, one walk for both",
    "tinygpt_core.explain.text:merge_steps": "tinygpt_core.tokenizer.bpe:merge_steps",
    "tinygpt_core.explain:Path": "tinygpt_core.files.atomic:Path, which was only imported there",
    "tinygpt_core.explain:Tensor": "tinygpt_core.tensor:Tensor, which was only imported there",
    "tinygpt_core.explain:add_commands": "add_command, as in every module of a subcommand",
    "tinygpt_core.explain:run_explain": "tinygpt_core.cli.explain:run_explain",
    "tinygpt_core.files:held": "tinygpt_core.files:lock_directory",
    "tinygpt_core.kernels.convolution:Pair": "tinygpt_core.kernels.windows:Pair",
    "tinygpt_core.kernels.convolution:pair": "tinygpt_core.kernels.windows:pair",
    "tinygpt_core.kernels.python:Rows": "tinygpt_core.buffer.rows:Rows",
    "tinygpt_core.kernels.python:python_convolution": "tinygpt_core.kernels.python.convolution, a module",
    "tinygpt_core.loggers:following": "tinygpt_core.training.loggers:open_loggers, which takes no Trainer",
    "tinygpt_core.misfit:folded": "tinygpt_core.shape_errors:without_pictures",
    "tinygpt_core.misfit:unlike": "tinygpt_core.shape_errors:wrong_shape",
    "tinygpt_core.nn.attention:TransformerBlock": "tinygpt_core.nn:TransformerBlock, from nn.transformer",
    "tinygpt_core.nn.attention:normalization_layer": "tinygpt_core.nn.normalization:normalization_layer",
    "tinygpt_core.parameter_statistics:watched": "gone: statistics make no update, the trainer does",
    "tinygpt_core.plotting:printable": "tinygpt_core.printable:replace_unprintable",
    "tinygpt_core.printing:tensor_html": "tinygpt_core.buffer.text:array_html",
    "tinygpt_core.printing:tensor_text": "repr(tensor), by tinygpt_core.buffer.text:array_text",
    "tinygpt_core.token_folders:TokenFolder.fields": "tinygpt_core.training.data:stream_of_folder",
    "tinygpt_core.token_folders:find_tokenizer": "tinygpt_core.tokenizer:open_tokenizer",
}

LINES = (Path(__file__).parent / "public_names.txt").read_text(encoding="utf-8").split()
NAMES: dict[str, list[str]] = defaultdict(list)
for _line in LINES:
    _module, _, _name = _line.partition(":")
    if _line not in RENAMED and _module not in RENAMED:
        NAMES[_module].append(_name)


def is_there(owner: Any, name: str) -> bool:
    """Whether an attribute can be reached, or is a field without a default, which only instances have."""
    first, _, rest = name.partition(".")
    if hasattr(owner, first):
        return not rest or is_there(getattr(owner, first), rest)
    fields = (vars(kind).get("__annotations__", {}) for kind in getattr(owner, "__mro__", ()))
    return not rest and any(first in each for each in fields)


def is_in_source(module: str, name: str) -> bool:
    """`is_there` by sources: the module's, and those of modules that it has the name from."""
    try:
        spec = importlib.util.find_spec(module)
        if spec is not None and isinstance(old := spec.loader, OldNames):
            parts = old.moved[module.removeprefix(f"{old.package}.")]
            return any(is_in_source(f"{old.package}.{part}", name) for part in parts)
        tree = ast.parse(source(module).read_text(encoding="utf-8"))
    except ModuleNotFoundError:
        return False
    first, _, rest = name.partition(".")
    for node in statements(tree.body):
        if isinstance(node, ast.ImportFrom) and _is_imported(node, module, first, rest):
            return True
        if first in bound(node, in_class=False):
            return not rest or (isinstance(node, ast.ClassDef) and _has_member(node, module, rest))
    return False


def _is_imported(node: ast.ImportFrom, module: str, first: str, rest: str) -> bool:
    package = module if source(module).name == "__init__.py" else module.rpartition(".")[0]
    origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
    for alias in node.names:
        if alias.name == "*":
            if is_in_source(origin, f"{first}.{rest}".rstrip(".")):
                return True
        elif (alias.asname or alias.name) == first:
            inner = f"{origin}.{alias.name}"
            if _is_module(inner):
                return not rest or is_in_source(inner, rest)
            return is_in_source(origin, f"{alias.name}.{rest}".rstrip("."))
    return False


def _is_module(name: str) -> bool:
    try:
        return source(name).suffix == ".py"
    except ModuleNotFoundError:
        return False


def _has_member(node: ast.ClassDef, module: str, name: str) -> bool:
    bases = (ast.unparse(base).partition("[")[0] for base in node.bases)
    return name in set(members(node)) or any(is_in_source(module, f"{base}.{name}") for base in bases)


@pytest.mark.parametrize("module", sorted(NAMES))
def test_every_public_name_is_where_it_was(module: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # an old name may say that there is a new one
        found = try_import(module)
        if found is not None:
            missing = [name for name in NAMES[module] if not is_there(found, name)]
        else:  # it needs a library that is not here, such as CuPy
            missing = [name for name in NAMES[module] if not is_in_source(module, name)]
    advice = "keep an alias there, or write into RENAMED what became of it"
    assert not missing, f"{module} had {', '.join(missing)}: {advice}"


def test_what_is_renamed_was_there() -> None:
    known = {*LINES, *(line.partition(":")[0] for line in LINES)}
    assert [name for name in RENAMED if name not in known] == []
    assert all(RENAMED.values())


def test_the_list_is_sorted_and_long() -> None:
    assert sorted(set(LINES)) == LINES and len(LINES) > 1500


MOVED = {
    "__init__.py": "from . import old\nfrom .new import Moved as Alias\n",
    "old.py": "import missing_library\nfrom .new import Moved, names\nfrom .names import *\n",
    "names.py": "from . import new\nclass Child(new.Moved[int]):\n    own: int\nif 1:\n  A = B, *C = 1, 2\n",
    "new.py": "class Moved:\n    def method(self): ...\n    class Inner:\n        field: str\nnames = 1\n",
}


def test_sources_tell_of_names_that_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an old module is only aliases, in a package that needs a library which is not here."""
    (tmp_path / "laid_anew").mkdir()
    for name, text in MOVED.items():
        (tmp_path / "laid_anew" / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "laid_anew", ModuleType("laid_anew"))  # it cannot be imported
    sys.modules["laid_anew"].__path__ = [str(tmp_path / "laid_anew")]
    there = "Moved Moved.method Moved.Inner.field names Child Child.own Child.method Child.Inner.field A B C"
    assert [name for name in there.split() if not is_in_source("laid_anew.old", name)] == []
    gone = "moved Moved.own Moved.Inner.method Child.nothing names.method D missing_library.anything"
    assert [name for name in gone.split() if is_in_source("laid_anew.old", name)] == []


def test_what_is_there_is_told_from_what_is_not() -> None:
    assert is_there(sys.modules[__name__], "MOVED.keys") and is_there(Path, "parent")
    assert not is_there(sys.modules[__name__], "MOVED.nothing") and not is_there(Path, "nothing")
