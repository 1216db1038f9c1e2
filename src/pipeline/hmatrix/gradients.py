"""Gradients with respect to vectors, through products and solves that autograd does not see."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pipeline.hmatrix.vectors import Vectors


def linear(x: Vectors, forth: Callable[[Any], Any], back: Callable[[Any], Any]) -> Vectors:
    """Return forth(x), with a gradient for a tensor x that requires one.

    Args:
        x: Vectors.
        forth: x -> L x.
        back: g -> L^T g, not conjugated.
    """
    if isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled():
        result: Vectors = _Linear.apply(x, forth, back)  # type: ignore[no-untyped-call]
        return result
    found: Vectors = forth(x)
    return found


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, forth: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.back, ctx.is_complex = back, x.is_complex()
        return forth(x.detach())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        found = ctx.back(gradients[0].conj().resolve_conj()).conj().resolve_conj()
        return (found if ctx.is_complex else found.real), None, None
