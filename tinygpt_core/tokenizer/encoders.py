"""Whatever encodes ordinary text fastest here, with the ids of the tokenizer that it stands in for.

A plug-in names a function under the entry-point group `tinygpt.encoders`. It is given a tokenizer and returns
a function from text to ids that agrees with it on every text, or None where it cannot promise that. Plug-ins
are loaded when a corpus is encoded, never before.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

ENTRY_POINT_GROUP = "tinygpt.encoders"


def ordinary_encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    """Returns a function from text to ids, special tokens being ordinary text; `tokenizer`'s own where no
    plug-in is faster.
    """
    from importlib.metadata import entry_points  # 20 ms to import, so only when someone asks

    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            faster: Callable[[str], list[int]] | None = point.load()(tokenizer)
        except Exception as problem:  # a run does without a broken plug-in, whatever that raises
            warnings.warn(
                f"the encoder of {point.value!r} is not used: {problem}", RuntimeWarning, stacklevel=2
            )
        else:
            if faster is not None:
                return faster
    return partial(tokenizer.encode, allowed_special="none")
