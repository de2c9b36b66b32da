"""Rotary position encoding, which tells attention how far apart two positions are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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

    "yarn" does the same with a share that falls evenly with the number of the pair, from the pair that turns
    high_turns times to the one that turns low_turns times; and what is turned is multiplied by a factor, so
    that attention stays as sharp as it was over fewer positions.

    Args:
        kind: "linear", "llama3" or "yarn".
        factor: by which low frequencies are divided.
        low_turns, high_turns, original_context_length: of "llama3" and "yarn".
        attention_factor: of "yarn", by which queries and keys are multiplied; None means 0.1 ln(factor) + 1.
        truncated: of "yarn", whether the two pairs are whole numbers, rounded away from each other.

    Raises:
        TypeError, ValueError: a value of the wrong type, or one that does not work.

    Source: Chen et al. 2023, https://arxiv.org/abs/2306.15595 (linear); Llama Team 2024,
    https://arxiv.org/abs/2407.21783 (llama3); Peng et al. 2023, https://arxiv.org/abs/2309.00071 (yarn)
    """

    kind: str
    factor: float
    low_turns: float = 1.0
    high_turns: float = 4.0
    original_context_length: int = 8192
    attention_factor: float | None = None
    truncated: bool = True

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "llama3", "yarn"):
            raise ValueError(f"rotary_scaling is of kind linear, llama3 or yarn, not {self.kind!r:.80}")
        if not isinstance(self.truncated, bool):
            raise TypeError(
                f"rotary_scaling: truncated must be True or False, but got {self.truncated!r:.80}"
            )
        for name in ("factor", "low_turns", "high_turns", "attention_factor"):
            value = getattr(self, name)
            if name == "attention_factor" and value is None:
                continue
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

    def scaled(self, frequencies: Sequence[float], base: float) -> tuple[float, ...]:
        """Returns what becomes of the frequencies of all pairs, in radians a position, the highest first.

        Args:
            frequencies: `base ** (-pair / pairs)`.
            base: above 1 for "yarn".
        """
        shares = self._shares(frequencies, base)
        return tuple(
            (1.0 - share) * frequency / self.factor + share * frequency
            for frequency, share in zip(frequencies, shares, strict=True)
        )

    def _shares(self, frequencies: Sequence[float], base: float) -> list[float]:
        """Returns how much of each frequency stays as it is, from 0 to 1."""
        if self.kind == "linear":
            return [0.0] * len(frequencies)
        if self.kind == "llama3":
            turns = [self.original_context_length * each / (2.0 * math.pi) for each in frequencies]
            return [
                _within_0_and_1((each - self.low_turns) / (self.high_turns - self.low_turns))
                for each in turns
            ]
        first, last = (
            self._pair(turns, len(frequencies), base) for turns in (self.high_turns, self.low_turns)
        )
        if self.truncated:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0.0), min(last, 2.0 * len(frequencies) - 1.0)
        if first == last:
            last += 0.001
        return [1.0 - _within_0_and_1((pair - first) / (last - first)) for pair in range(len(frequencies))]

    def _pair(self, turns: float, pairs: int, base: float) -> float:
        """Returns the number, seldom whole, of the pair that turns so often within the original context."""
        return pairs * math.log(self.original_context_length / (2.0 * math.pi * turns)) / math.log(base)

    @property
    def magnitude(self) -> float:
        """By which queries and keys are multiplied: 1 but for "yarn"."""
        if self.kind != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(self.factor) + 1.0 if self.factor > 1.0 else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields by name, ready for JSON; those of "yarn" only for it: earlier versions can go on
        reading the others.
        """
        values = asdict(self)
        if self.kind != "yarn":
            del values["attention_factor"], values["truncated"]
        return values

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


def _within_0_and_1(value: float) -> float:
    """Returns the value, or the end of [0, 1] that is nearest to it."""
    return min(max(value, 0.0), 1.0)


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
        return tuple(found) if self.scaling is None else self.scaling.scaled(found, self.base)

    def __call__(self, x: Tensor, start: int = 0) -> Tensor:
        if self.dim is not None and self.dim < x.shape[-1]:
            turned = self._turned(x[..., : self.dim], start)
            return Tensor.concatenate([turned, x[..., self.dim :]], 3)
        return self._turned(x, start)

    def _turned(self, x: Tensor, start: int) -> Tensor:
        options: dict[str, Any] = {"base": self.base}
        if self.scaling is not None:
            options = {"frequencies": self.frequencies(x.shape[-1])}
        turned = apply_op(operations.Rotary, x, positions_start=start, **options)
        magnitude = 1.0 if self.scaling is None else self.scaling.magnitude
        return turned if magnitude == 1.0 else turned * magnitude

    def _extra_repr(self) -> str:
        settings = [f"base={self.base}"]
        if self.dim is not None:
            settings.append(f"dim={self.dim}")
        if self.scaling is not None:
            settings.append(f"scaling={self.scaling}")
        return ", ".join(settings)
