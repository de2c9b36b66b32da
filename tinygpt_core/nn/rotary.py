"""Rotary position encoding, which tells attention how far apart two positions are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .. import operations
from ..kernels.rotary import Rotary
from ..module import Module
from ..tensor import Tensor, apply_op
from .arguments import check_size


@dataclass(frozen=True)
class RotaryScaling:
    """How frequencies are lowered, so that a model can see further than it was first trained for.

    "linear" divides each frequency by the factor. "llama3" leaves the high ones alone, divides the low ones,
    and goes smoothly from one to the other, by how often a pair turns within the original context:

        turns = original_context_length frequency / 2 π
        share = (turns - low_turns) / (high_turns - low_turns), at least 0 and at most 1
        frequency' = (1 - share) frequency / factor + share frequency

    Args:
        kind: "linear" or "llama3".
        factor: by which low frequencies are divided.
        low_turns, high_turns, original_context_length: of "llama3".

    Raises:
        TypeError, ValueError: a value of the wrong type, or one that does not work.

    Source: Chen et al. 2023, https://arxiv.org/abs/2306.15595 (linear); Llama Team 2024,
    https://arxiv.org/abs/2407.21783 (llama3)
    """

    kind: str
    factor: float
    low_turns: float = 1.0
    high_turns: float = 4.0
    original_context_length: int = 8192

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "llama3"):
            raise ValueError(f"rotary_scaling is of kind linear or llama3, not {self.kind!r:.80}")
        for name in ("factor", "low_turns", "high_turns"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise TypeError(f"rotary_scaling: {name} must be a number, but got {value!r:.80}")
            if not 0.0 < value < 1e9:
                raise ValueError(f"rotary_scaling: {name} must lie above 0 and below 1e9, not {value!r:.80}")
        check_size("rotary_scaling: original_context_length", self.original_context_length)
        if self.original_context_length > 2**40:
            raise ValueError("rotary_scaling: original_context_length is beyond any context")
        if self.low_turns >= self.high_turns:
            raise ValueError(
                f"rotary_scaling: low_turns ({self.low_turns!r:.80}) must be below high_turns "
                f"({self.high_turns!r:.80})"
            )

    def scaled(self, frequency: float) -> float:
        """Returns what becomes of a frequency, in radians a position."""
        if self.kind == "linear":
            return frequency / self.factor
        turns = self.original_context_length * frequency / (2.0 * math.pi)
        share = min(max((turns - self.low_turns) / (self.high_turns - self.low_turns), 0.0), 1.0)
        return (1.0 - share) * frequency / self.factor + share * frequency

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields by name, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RotaryScaling:
        """Returns what `to_dict` gave.

        Raises:
            TypeError: it is no mapping, or a value has the wrong type.
            ValueError: a name is unknown or missing, or a value does not work.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"rotary_scaling must be a mapping, but got a {type(values).__name__}")
        names = [field.name for field in fields(cls)]
        if set(values) - set(names) or not {"kind", "factor"} <= set(values):
            raise ValueError(f"rotary_scaling has a kind and a factor, and may have {', '.join(names[2:])}")
        return cls(**values)


class RotaryEncoding(Module):
    """Rotary position encoding: turns each pair (x[i], x[i + D/2]) at position p by the angle
    `a = p * base ** (-2 i / D)`.

    `y[i] = x[i] cos(a) - x[i + D/2] sin(a); y[i + D/2] = x[i + D/2] cos(a) + x[i] sin(a)`
    The product of a rotated query and key then depends on the distance of their positions only.

    Args:
        base: the longest wavelength is about 2 π base positions.
        dim: how many of the D numbers are turned, the first ones, as if a head had no others; None means all.
        scaling: lowers the frequencies `base ** (-2 i / D)`.

    Shape:
        (B, H, T, D) -> the same; D, or dim, is even. `start` is the position of the first of the T.

    Source: Su et al. 2021, https://arxiv.org/abs/2104.09864; halves are paired as in GPT-NeoX and Llama.
    """

    def __init__(
        self, base: float = 10000.0, dim: int | None = None, scaling: RotaryScaling | None = None
    ) -> None:
        super().__init__()
        self.base = base
        self.dim = dim
        self.scaling = scaling

    def frequencies(self, dim: int) -> tuple[float, ...]:
        """Returns by what angle each pair of `dim` numbers is turned from one position to the next."""
        found = Rotary.frequencies(self.base, dim // 2)
        return tuple(found if self.scaling is None else map(self.scaling.scaled, found))

    def __call__(self, x: Tensor, start: int = 0) -> Tensor:
        if self.dim is not None and self.dim < x.shape[-1]:
            turned = self._turned(x[..., : self.dim], start)
            return Tensor.concatenate([turned, x[..., self.dim :]], 3)
        return self._turned(x, start)

    def _turned(self, x: Tensor, start: int) -> Tensor:
        options: dict[str, Any] = {"base": self.base}
        if self.scaling is not None:
            options = {"frequencies": self.frequencies(x.shape[-1])}
        return apply_op(operations.Rotary, x, positions_start=start, **options)

    def _extra_repr(self) -> str:
        settings = [f"base={self.base}"]
        if self.dim is not None:
            settings.append(f"dim={self.dim}")
        if self.scaling is not None:
            settings.append(f"scaling={self.scaling}")
        return ", ".join(settings)
