"""Muon: orthogonal steps for matrices, Adam for everything else (Jordan et al., 2024; arXiv:2502.16982).

A step of Adam changes a matrix mostly in the few directions in which its gradients are large. A step of Muon is equally
large in all directions: it is the orthogonal matrix nearest to the moving average of the gradient.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from artdiff.sharding import sharded_like, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the polynomial a·s + b·s³ + c·s⁵. Applied repeatedly, it maps singular values s in (0,1] to about 1.
"""

REPEATS = 5
"""How often the polynomial is applied."""

LIKE_ADAM = 0.2
"""Typical size of a weight's step in Adam, as a share of the learning rate (arXiv:2502.16982, eq. 4)."""


class Muon(Adam):
    """Muon for weights of two or more dimensions; convolutions count as matrices (out, in · height · width).

    Its steps are as large as Adam's, so one learning rate suits both.

    Args:
        params: names and weights, from `Module.named_parameters()`.
        lr: the learning rate.
        betas, fused: Adam's arguments.
        momentum: decay of the moving average of the gradients (with Nesterov's look-ahead), in [0,1].
        exclude: matrices with one of these words in their names are trained by Adam. The first and last layer and
            embeddings do not gain from Muon.
    """

    def __init__(
        self,
        params: Iterable[tuple[str, Tensor]],
        *,
        lr: float,
        betas: Sequence[float],
        momentum: float,
        exclude: Sequence[str],
        fused: bool,
    ) -> None:
        matrices, others = list[tuple[str, Tensor]](), list[tuple[str, Tensor]]()
        for name, weight in params:
            is_matrix = weight.ndim >= 2 and not set(exclude) & set(name.split("."))
            (matrices if is_matrix else others).append((name, weight))
        groups: list[dict[str, Any]] = [
            {"params": matrices, "momentum": momentum},
            {"params": others, "momentum": None},
        ]
        first, second = betas
        super().__init__([group for group in groups if group["params"]], lr=lr, betas=(first, second), fused=fused)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the matrices, then let Adam update the rest: it skips weights without a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["momentum"] is not None:
                for weight in group["params"]:
                    self._step_matrix(weight, lr=group["lr"], momentum=group["momentum"])
        super().step()
        return loss

    def _step_matrix(self, weight: Tensor, *, lr: float, momentum: float) -> None:
        """Update a weight by its gradient, if it has one. Sets the gradient to None, so that Adam skips the weight."""
        gradient, weight.grad = weight.grad, None
        if gradient is None:
            return
        failed: Tensor | None = getattr(self, "found_inf", None)  # > 0 if a gradient is not finite: skip the step
        if failed is not None:
            gradient = torch.where(failed > 0, 0.0, gradient)
        state = self.state[weight]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        average = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        matrix = orthogonal(whole(gradient.lerp(average, momentum)).flatten(1))  # (out, in · height · width)
        size = lr * LIKE_ADAM * max(matrix.shape) ** 0.5
        change = matrix.view(weight.shape).to(weight.dtype) * size
        weight.sub_(sharded_like(change if failed is None else change * (failed == 0), weight))

    def __setstate__(self, state: dict[str, Any]) -> None:
        Optimizer.__setstate__(self, state)  # Adam's own expects its averages for every weight


def orthogonal(matrix: Tensor) -> Tensor:
    """Return the nearest matrix with orthonormal rows, or columns if there are fewer: float32 (M,N) → bfloat16 (M,N).

    A repeated polynomial (Newton–Schulz) leaves singular values between 0.7 and 1.2, the smallest ones lower. All
    factors are polynomials of one small square matrix, so only the first and last product involve the matrix itself.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if is_tall else matrix
    x = x / x.norm().clamp(min=1e-20)  # singular values of at most 1
    square, product = x @ x.mT, None  # float32: squares of singular values need its precision
    for repeat in range(REPEATS):
        factor = torch.addmm(square, square, square, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor if product is None else factor @ product
        if repeat < REPEATS - 1:
            square = factor @ square @ factor
    assert product is not None
    x = product.bfloat16() @ x.bfloat16()
    return x.mT if is_tall else x
