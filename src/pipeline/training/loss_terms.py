"""Learn from what passes how much each term of a loss weighs.

Statistics need the gradients of single samples; the backward pass shows them multiplied by whatever the loss was:
divided by the number of samples, or of tokens that are not ignored, by the number of accumulated passes, multiplied by
a gradient scaler. For a cross-entropy the scores and the gradient at them tell this weight: the gradient of a term is
p - y, with p the predicted probabilities and y the target, and all but the target's entry of y is known.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDED = 64  # larger multiples of a mean lie too close to each other to tell which was meant
LOOKED_AT = 256  # rows that tell the weight; the number of terms is counted over all


@dataclass(frozen=True)
class Terms:
    """What a loss is a sum of.

    Attributes:
        source: How this is known.
        weight: What the gradient of each term was multiplied by.
        n: The number of terms.
    """

    source: str
    weight: float
    n: float


@torch.no_grad()
def learn_terms(scores: Tensor, gradient: Tensor) -> Terms | None:
    """Recognize a cross-entropy by its gradient at the scores.

    Args:
        scores: What went into the loss: classes in the second or in the last dimension, or one number a term.
        gradient: Gradient of the loss, of the same shape.

    Returns:
        None where the gradient is not that of a softmax or binary cross-entropy, or not finite.
    """
    if scores.dim() < 1 or scores.numel() == 0:
        return None
    gradient = gradient.double() if gradient.dtype == torch.float64 else gradient.float()
    scores = scores.to(gradient.dtype)
    total = gradient.abs().sum()
    if not bool(total.isfinite()):
        return None
    if not bool(total):
        return Terms("a loss without a gradient", 1.0, 0.0)
    tolerance = 2e-2 if gradient.abs().max() < 1e-4 or scores.dtype.itemsize < 4 else 1e-3
    for dimension in dict.fromkeys((1, scores.dim() - 1)):
        if dimension < scores.dim() and scores.dim() > 1 and scores.shape[dimension] > 1:
            off = gradient.sum(dim=dimension).abs().sum()
            if bool(off <= tolerance * total):
                columns = (t.movedim(dimension, -1).flatten(0, -2) for t in (scores, gradient))
                return _softmax(*columns, tolerance=tolerance)
    if scores.dim() == 1 and len(scores) > 1 and bool(gradient.sum().abs() <= tolerance * total):
        alone = _softmax(scores[None], gradient[None], tolerance=tolerance)
        if alone is not None:
            return alone
    return _binary(scores.flatten(), gradient.flatten(), tolerance=tolerance)


def _some(rows: Tensor, n: int) -> Tensor:
    return rows[:: max(1, len(rows) // n)][:n]


def _softmax(scores: Tensor, gradient: Tensor, *, tolerance: float) -> Terms | None:
    live = gradient.ne(0).any(dim=1).nonzero()[:, 0]
    rows = _some(live, LOOKED_AT)
    h, p = gradient[rows], torch.softmax(scores[rows], dim=1)
    target = h.argmin(dim=1, keepdim=True)
    # Sums over the other classes keep their digits where the network is sure of the target.
    p_others, h_others = (t.scatter(1, target, 0.0) for t in (p, h))
    doubt, lift = p_others.sum(dim=1), h_others.sum(dim=1)
    clear = doubt > min(1e-3, float(doubt.max()) / 2)
    if not bool(clear.any()):
        return None
    weights = (lift / doubt)[clear]
    off = (h_others[clear] - weights[:, None] * p_others[clear]).norm()
    fits = bool(off <= 10 * tolerance * h_others[clear].norm()) and bool((weights > 0).all())
    if fits and scores.shape[1] == 2:
        # Of two classes any gradient that adds up to zero would fit: all rows must agree.
        fits = bool((weights.max() - weights.min()) <= 10 * tolerance * weights.abs().max())
    if not fits:
        return _soft_targets(p, h, len(live), tolerance=tolerance)
    # Where classes are weighted, the one weight that leaves the Fisher matrix at the scores as large.
    squares = h[clear].square().sum(dim=1)
    weight = float(squares.sum() / (squares / weights).sum())
    return _rounded("softmax cross-entropy", weight, len(live))


def _soft_targets(p: Tensor, h: Tensor, n_live: int, *, tolerance: float) -> Terms | None:
    """Smoothed labels and mixtures of two: but for two classes the target is the same for all, so slopes tell."""
    n_classes = p.shape[1]
    if n_classes < 5:
        return None
    kept = h.argsort(dim=1)[:, 2:]
    p, h = (t.gather(1, kept) for t in (p, h))
    p, h = (t - t.mean(dim=1, keepdim=True) for t in (p, h))
    spread = p.square().sum()
    if not bool(spread > 0):
        return None
    weight = (p * h).sum() / spread
    if not bool((h - weight * p).norm() <= 10 * tolerance * h.norm()) or not bool(weight > 0):
        return None
    return _rounded("softmax cross-entropy with soft targets", float(weight), n_live)


def _binary(scores: Tensor, gradient: Tensor, *, tolerance: float) -> Terms | None:
    live = gradient.ne(0).nonzero()[:, 0]
    entries = _some(live, LOOKED_AT)
    h, p = gradient[entries], scores[entries].sigmoid()
    error = torch.where(h > 0, p, p - 1)
    clear = error.abs() > 1e-2
    if int(clear.sum()) < 2:
        return None
    tells = bool(p.max() - p.min() > 1e-3) or bool((h > 0).any() and (h < 0).any())
    if not tells:
        return None  # a slope that is the same everywhere could be anything's
    weights = (h / error)[clear]
    if not bool(weights.max() - weights.min() <= 10 * tolerance * weights.max()):
        return None
    return _rounded("binary cross-entropy", float(weights.mean()), len(live))


def _rounded(source: str, weight: float, n: int) -> Terms | None:
    """Take a mean to be one, exactly, and so a part or a multiple of a mean or of a sum, and powers of two."""
    whole = weight * n
    if not (math.isfinite(whole) and whole > 0):
        return None
    for value, share in ((whole, n), (weight, 1)):
        nearest = 2.0 ** round(math.log2(value))
        if 1 / ROUNDED < value < ROUNDED:
            nearest = float(round(value)) if value >= 1 else 1 / round(1 / value)
        if abs(value - nearest) <= 2e-3 * value:
            return Terms(source, nearest / share, float(n))
    return Terms(source, weight, float(n))
