"""Sharpness of the minimum that training found."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.training.evaluation import evaluate
from pipeline.training.randomness import Purpose, generator
from pipeline.training.sampling import Samples, cut, n_pieces

CHUNK = 256  # samples of one differentiated pass; bounds the memory of the graph
STD = 0.2  # deviation of the perturbation, relative to each weight matrix's root mean square
N_PAIRS = 8  # perturbations of either sign


@dataclass(frozen=True)
class Sharpness:
    """Two measures on the true loss (no smoothing) in evaluation mode.

    Attributes:
        largest_eigenvalue: Largest eigenvalue of the Hessian of the mean loss over all trained weights, in nats. It
            depends on how the weights are scaled and falls with the training loss.
        perturbation: Mean rise of the loss, in nats, when each weight matrix gets Gaussian noise of `STD` times its
            root mean square: the same for networks that differ in scale only.
        n_samples: How many samples both were measured on.
    """

    largest_eigenvalue: float
    perturbation: float
    n_samples: int


def measure_sharpness(model: nn.Module, samples: Samples, *, seed: int) -> Sharpness:
    """Measure a network's sharpness; it is left in evaluation mode with its weights as they were."""
    model.eval()
    value = largest_eigenvalue(
        lambda v: hessian_product(model, samples, v),
        sum(p.numel() for p in _trained(model)),
        like=_trained(model)[0],
        seed=seed,
    )
    return Sharpness(value, perturbation_rise(model, samples, seed=seed), len(samples))


def hessian_product(model: nn.Module, samples: Samples, v: Tensor) -> Tensor:
    """Multiply the Hessian of the mean cross-entropy by a vector over all trained weights, flattened in order.

    The loss is differentiated twice [1], which costs about five forward passes; no matrix is formed.

    References:
        [1] Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 1994.
    """
    weights = _trained(model)
    parts = [
        part.view_as(p) for part, p in zip(torch.split(v, [p.numel() for p in weights]), weights, strict=True)
    ]
    total = torch.zeros_like(v)
    for piece in cut(len(samples), n_pieces(len(samples), CHUNK)):
        loss = functional.cross_entropy(model(samples.images[piece]), samples.labels[piece], reduction="sum")
        gradients = torch.autograd.grad(loss, weights, create_graph=True)
        slope = torch.stack([(g * part).sum() for g, part in zip(gradients, parts, strict=True)]).sum()
        products = torch.autograd.grad(slope, weights, materialize_grads=True)
        total += torch.cat([product.reshape(-1) for product in products])
    return total / len(samples)


def largest_eigenvalue(
    product: Callable[[Tensor], Tensor],
    n: int,
    *,
    like: Tensor,
    seed: int,
    tolerance: float = 1e-2,
    max_products: int = 40,
) -> float:
    """Find the algebraically largest eigenvalue of a symmetric matrix by Lanczos' method.

    All basis vectors are kept orthogonal, because rounding would otherwise produce copies of eigenvalues. The largest
    Ritz value rises towards the eigenvalue from below; iteration ends once the residual of its Ritz vector, which
    bounds the distance to an eigenvalue [1, theorem 7.2], is below `tolerance` times the value.

    Args:
        product: Multiplies the matrix by a vector of shape (n,).
        like: A tensor of the dtype and device of the vectors.
        seed: Seed of the first vector.
        max_products: Largest number of products; iteration then ends with its current lower bound.

    References:
        [1] Saad, "Numerical methods for large eigenvalue problems", 2011, chapter 6.
    """
    start = generator(seed, Purpose.SHARPNESS, 0).standard_normal(n)
    q = torch.from_numpy(start).to(like)
    basis = [q / q.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        w = product(basis[-1])
        diagonal.append(float(w @ basis[-1]))
        Q = torch.stack(basis)
        for _ in range(2):  # rounding leaves a remainder after one pass
            w = w - Q.T @ (Q @ w)
        T = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        T += torch.diag(torch.tensor(beside, dtype=torch.float64), 1)
        T += T.triu(1).T
        values, vectors = torch.linalg.eigh(T)
        norm = float(w.norm())
        residual = norm * abs(float(vectors[-1, -1]))
        if residual <= tolerance * abs(float(values[-1])) or len(basis) >= min(n, max_products):
            return float(values[-1])
        beside.append(norm)
        basis.append(w / norm)


@torch.no_grad()
def perturbation_rise(model: nn.Module, samples: Samples, *, seed: int) -> float:
    """Average the rise of the loss over noise of either sign; the weights are restored bit for bit."""
    before = evaluate(model, samples).loss
    matrices = [p for p in _trained(model) if p.ndim > 1]
    originals = [p.clone() for p in matrices]
    losses = []
    for pair in range(N_PAIRS):
        rng = generator(seed, Purpose.SHARPNESS, 1, pair)
        noise = [
            torch.from_numpy(rng.standard_normal(p.shape)).to(p) * (STD * p.square().mean().sqrt())
            for p in originals
        ]
        for sign in (1, -1):
            for p, original, e in zip(matrices, originals, noise, strict=True):
                p.copy_(original + sign * e)
            losses.append(evaluate(model, samples).loss)
    for p, original in zip(matrices, originals, strict=True):
        p.copy_(original)
    return sum(losses) / len(losses) - before


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]
