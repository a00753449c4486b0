"""Logistic regression with an L2 penalty, solved to its minimum: no learning rate, epochs or seed.

The deterministic alternative to training a linear head step by step. Features are centred and
divided by one number, their overall standard deviation over the training items, so that a penalty
means the same for every encoder. A deviation per feature was measured to be worse, since it
amplifies features that hardly vary. The solution is converted to a head on the unscaled features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convirt.errors import InputError
from convirt.recipe import loss_of

MOST_STEPS = 5000  # L-BFGS needs tens to hundreds
FLAT = 1e-6  # largest gradient that counts as a minimum


@dataclass(frozen=True)
class Solution:
    """A linear head, weight (L, d) and bias (L,) float32, and how it was found.

    Attributes:
        l2: The penalty.
        steps: Of L-BFGS.
    """

    weight: Tensor
    bias: Tensor
    l2: float
    steps: int


def solutions(h: Tensor, y: Tensor, kind: str, penalties: Sequence[float]) -> Iterator[Solution]:
    """Yield the minimum for each penalty, the strongest first, each starting from the one before.

    The objective, in double precision, with W the weights of the scaled features::

        mean over items of the (sum over labels of the) cross entropy + l2 / 2 * |W|^2

    The bias is not penalised. scikit-learn's `C` is 1 / (n * l2).

    Args:
        h: Features, (n, d); needs 8 * n * d bytes of extra memory.
        y: Labels, 0 or 1, (n, L) float32.
        kind: As in `recipe.Recipe`.
        penalties: Values of l2, above 0.

    Raises:
        InputError: A minimum is not reached, since a penalty is too weak for linearly separable
            data.
    """
    z = h.double()
    mean = z.mean(dim=0)
    z -= mean
    scale = z.square().mean().sqrt()
    scale = torch.where(scale > 0, scale, 1.0)  # if all features are constant
    z /= scale
    target = y.double()
    labels = 1 if kind == "multiclass" else y.shape[1]
    weight = torch.zeros(y.shape[1], h.shape[1], dtype=torch.float64, device=h.device)
    bias = torch.zeros(y.shape[1], dtype=torch.float64, device=h.device)
    for l2 in sorted(penalties, reverse=True):
        steps = _minimise(z, target, kind, labels, l2, weight, bias)
        plain = weight / scale
        yield Solution(plain.float(), (bias - plain @ mean).float(), l2, steps)


def _minimise(
    z: Tensor, y: Tensor, kind: str, labels: int, l2: float, weight: Tensor, bias: Tensor
) -> int:
    """Move `weight` and `bias` to the minimum, in place, and return the number of steps."""
    weight.requires_grad_(True)
    bias.requires_grad_(True)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=MOST_STEPS,
        max_eval=4 * MOST_STEPS,
        tolerance_grad=FLAT,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def value() -> Tensor:
        solver.zero_grad()
        loss = labels * loss_of(z @ weight.T + bias, y, kind) + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    solver.step(value)
    slope = max(float(p.grad.abs().max()) for p in (weight, bias) if p.grad is not None)
    weight.requires_grad_(False)
    bias.requires_grad_(False)
    # near the minimum, rounding may end the search before the gradient is that small
    if not slope <= 100 * FLAT:
        raise InputError(
            "params.yaml: finetune.linear.l2",
            "penalties at which logistic regression converges",
            f"a gradient of {slope:.1e} after {MOST_STEPS} steps at {l2:g}",
            "remove the smallest ones",
        )
    return int(solver.state[weight]["n_iter"])
