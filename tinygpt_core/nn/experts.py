"""A mixture of experts: several MLPs in the place of one, of which each token is sent to a few.

A model knows more the more weights its MLPs have, and each weight costs work for every token. Experts take
the two apart: there may be many MLPs, and a token passes through those k only that a router, one linear map,
gives the most weight. With N tokens of C numbers, E experts and k of them for each token:

    x                      (N, C)
      |  router            one linear map, C -> E, and a softmax
    probabilities          (N, E)
      |  topk
    weights, experts       (N, k), how much each of the chosen ones counts, and which they are; with k = 2

                 token  0  1  2  3
          its experts   0  2  0  2           so that expert  0  reads tokens  0  2
                        2  1  1  0                           0                3
                                                             1                1  2
                                                             2                0  1  3
      |  tokens in the order of their experts, so that those of one stand together
    rows                   (N k, C)
      |  each expert works on its own rows
    worked out             (N k, C)
      |  back in the order of the tokens, times the weights, added up
    y                      (N, C)

Nothing makes a router use all experts: those that are better at first are chosen more, learn more, and become
better still. `Routing.balance_loss` is added to the loss in training, so that all are used.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple

from ..contexts import Block
from ..module import Module
from ..tape import is_recording
from ..tensor import Tensor
from .arguments import check_size
from .linear import FullyConnectedLayer
from .mlp import mlp_layer

# ---------------------------------------------------------------- what a router has chosen


class Routing(NamedTuple):
    """What a router has made of N tokens.

    Attributes:
        logits: (N, E), before the softmax.
        probabilities: (N, E).
        experts: int (N, k), those that each token was sent to, the most probable first.
        weights: (N, k), by which what each of them said was multiplied.
    """

    logits: Tensor
    probabilities: Tensor
    experts: Tensor
    weights: Tensor

    def shares(self, is_counted: Tensor | None = None) -> Tensor:
        """Returns which part of the N k choices fell on each expert: (E,), adding up to 1.

        Args:
            is_counted: bool (N,), which tokens count; None means all.
        """
        chosen = self.experts.one_hot(self.logits.shape[1]).sum(1).cast(self.logits.dtype)
        return _mean_over_tokens(chosen, is_counted) / self.experts.shape[1]

    def balance_loss(self, is_counted: Tensor | None = None) -> Tensor:
        """Returns the load-balancing loss, a scalar: 1 where experts are used evenly, E where one is all.

            E sum_e f_e P_e

        f_e is the part of the choices that fell on expert e (`shares`), and P_e the mean of its probability.
        The gradient comes from P alone: it lowers the probability of what was chosen much.

        Args:
            is_counted: as for `shares`.

        Source: Fedus et al., "Switch Transformers", 2021, https://arxiv.org/abs/2101.03961, equations 4 to 6;
        with k > 1 as in "OLMoE" (Muennighoff et al. 2024, https://arxiv.org/abs/2409.02060)
        """
        mean = _mean_over_tokens(self.probabilities, is_counted)
        return (self.shares(is_counted) * mean).sum() * float(self.logits.shape[1])

    def z_loss(self, is_counted: Tensor | None = None) -> Tensor:
        """Returns the mean of log(sum_e exp logits_e)², a scalar, which keeps the router's logits small.

        Args:
            is_counted: as for `shares`.

        Source: Zoph et al., "ST-MoE", 2022, https://arxiv.org/abs/2202.08906, equation 5
        """
        return _mean_over_tokens(self.logits.logsumexp(-1) ** 2, is_counted)


def _mean_over_tokens(values: Tensor, is_counted: Tensor | None) -> Tensor:
    """Returns the mean of values (N, ...) over the tokens that count; 0 where none does."""
    if is_counted is None:
        return values.mean(0) if values.shape[0] else values.sum(0)
    rows = is_counted.reshape((values.shape[0], *(1,) * (values.ndim - 1)))
    count = max(is_counted.sum().item(), 1)
    return values.masked_fill(~rows, 0.0).sum(0) / count


_open_records: ContextVar[tuple[list[Routing], ...]] = ContextVar("open records of routings", default=())


class recorded_routing(Block):
    """`with recorded_routing() as routings:` what every `MixtureOfExperts` chooses is added to the list.

    In the order of the calls, for the calling thread only; of blocks inside each other each has its own list.
    """

    def __enter__(self) -> list[Routing]:
        routings: list[Routing] = []
        _open_records.set((*_open_records.get(), routings))
        return routings

    def __exit__(self, *problem: object) -> None:
        _open_records.set(_open_records.get()[:-1])


# ---------------------------------------------------------------- the layer


class MixtureOfExperts(Module):
    """A sparse mixture of MLPs: `y = sum over the k chosen experts e of w_e expert_e(x)`.

        p = softmax(x W_router)
        w_e = p_e,  or  p_e / (sum of p over the chosen ones)  where weights are normalized

    The k most probable experts are chosen; of equals those that stand first. Each expert is an `MLP` or a
    `GatedMLP` as the activation asks for, and computes only the tokens that were sent to it.

    Args:
        input_dims: C.
        hidden_dim: size inside each expert.
        num_experts: E.
        experts_per_token: k, at most E.
        activation: a name of `ACTIVATION_FUNCTIONS` or of `GATED_ACTIVATIONS`.
        bias: whether the experts' layers have biases; the router has none.
        normalized_weights: whether the weights of the chosen ones are divided by their sum, as in Mixtral and
            not in OLMoE. None means where there are several: one alone would always count 1, whatever the
            router says, and the router would learn nothing.
        final_activation: as for `MLP`.
        std, output_std: as for `MLP` and `GatedMLP`; the router takes `std`.

    Shape:
        (..., C) -> the same.

    Raises:
        TypeError: a size that is no int.
        ValueError: a size below 1, more experts for a token than there are, or a name of no activation.

    Source: Shazeer et al. 2017, https://arxiv.org/abs/1701.06538; as in Mixtral (Jiang et al. 2024,
    https://arxiv.org/abs/2401.04088) and OLMoE (Muennighoff et al. 2024, https://arxiv.org/abs/2409.02060)
    """

    shapes_follow_values = True
    """How many rows experts get is known only once the router has run: no step is recorded and replayed."""

    def __init__(
        self,
        input_dims: int,
        hidden_dim: int,
        num_experts: int,
        experts_per_token: int = 2,
        activation: str = "swiglu",
        bias: bool = False,
        *,
        normalized_weights: bool | None = None,
        final_activation: bool = False,
        std: float | None = None,
        output_std: float | None = None,
    ) -> None:
        super().__init__()
        self.num_experts = check_size("num_experts", num_experts)
        self.experts_per_token = check_experts_per_token(experts_per_token, num_experts)
        self.normalized_weights = experts_per_token > 1 if normalized_weights is None else normalized_weights
        self.router = FullyConnectedLayer(input_dims, num_experts, bias=False, std=std)
        self.experts = [
            mlp_layer(
                input_dims,
                hidden_dim,
                activation,
                bias,
                final_activation=final_activation,
                std=std,
                output_std=output_std,
            )
            for _ in range(num_experts)
        ]

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.reshape((-1, x.shape[-1])) if x.numel else x.reshape((0, x.shape[-1]))
        routing = self.route(rows)
        for record in _open_records.get():
            record.append(routing)
        k = self.experts_per_token
        # The N k choices, in the order of their experts: where choice i stands is token i // k
        choices = routing.experts.reshape((rows.shape[0] * k,))
        order = choices.argsort()
        counts = choices.one_hot(self.num_experts).sum(0).to_python()
        worked_out = self._work_out(rows.take(order // k), counts)
        by_token = worked_out.take(order.argsort()).reshape((rows.shape[0], k, rows.shape[1]))
        weights = routing.weights.reshape((*routing.weights.shape, 1))
        return (by_token * weights).sum(1).reshape(x.shape)

    def route(self, x: Tensor) -> Routing:
        """Returns which experts each of the tokens x (N, C) is sent to, and how much each counts."""
        logits = self.router(x)
        probabilities = logits.softmax(-1)
        weights, experts = probabilities.topk(self.experts_per_token)
        if self.normalized_weights:
            weights = weights / weights.sum(-1, keepdim=True)
        return Routing(logits, probabilities, experts, weights)

    def _work_out(self, rows: Tensor, counts: list[int]) -> Tensor:
        """Returns what the experts make of rows (N k, C), of which the first counts[0] are for the first.

        While gradients are recorded, experts without rows are called, too: their gradients are zeros, and not
        missing, whatever the tokens are.
        """
        parts = []
        start = 0
        for expert, count in zip(self.experts, counts, strict=True):
            if count or is_recording():
                parts.append(expert(rows[start : start + count]))
            start += count
        return Tensor.concatenate(parts, 0) if parts else rows

    def _extra_repr(self) -> str:
        return (
            f"num_experts={self.num_experts}, experts_per_token={self.experts_per_token}, "
            f"normalized_weights={self.normalized_weights}"
        )


def check_experts_per_token(experts_per_token: int, num_experts: int) -> int:
    """Returns how many experts a token is sent to, which are at most as many as there are.

    Raises:
        TypeError: it is no int.
        ValueError: it is below 1, or above num_experts.
    """
    if check_size("experts_per_token", experts_per_token) > num_experts:
        raise ValueError(
            f"experts_per_token ({experts_per_token}) must be at most num_experts ({num_experts})"
        )
    return experts_per_token
