"""Infer the weight of each term of a loss from the network's output and its gradient.

Statistics need the gradients of single samples. The backward pass gives them multiplied by the weight of a term in the
loss: divided by the number of samples, of tokens that are not ignored, or of accumulated passes, and multiplied by a
gradient scaler. For a cross-entropy the scores and their gradient determine this weight: the gradient of a term is p -
y, with p the predicted probabilities and y the target, and all but the target's entry of y is known. If a network
returns log-probabilities or probabilities, the chain rule gives the gradient of the scores behind them.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDED = 64  # larger multiples of a mean are too close to each other to tell apart
LOGARITHMS, PROBABILITIES = " of log-probabilities", " of probabilities"
LOOKED_AT = 256  # rows that the weight is inferred from; terms are counted over all rows
EXACT = 1e-5  # relative misfit that single precision's rounding explains


@dataclass(frozen=True)
class Terms:
    """The terms that a loss is a sum of.

    Attributes:
        source: The kind of loss that was found or assumed, in words.
        weight: Factor by which the gradient of each term was multiplied.
        n: The number of terms.
    """

    source: str
    weight: float
    n: float


@torch.no_grad()
def learn_terms(scores: Tensor, gradient: Tensor) -> Terms | None:
    """Recognize a cross-entropy by its gradient at the scores.

    Args:
        scores: Input of the loss: scores, log-probabilities or probabilities, with classes in the second or in the last
            dimension, or one number per term.
        gradient: Gradient of the loss, of the same shape.

    Returns:
        None where the gradient is not that of a softmax or binary cross-entropy, or not finite.
    """
    if scores.dim() < 1 or scores.numel() == 0:
        return None
    short = min(scores.dtype.itemsize, gradient.dtype.itemsize) < 4
    gradient = gradient.double() if gradient.dtype == torch.float64 else gradient.float()
    scores = scores.to(gradient.dtype)
    total = gradient.abs().sum()
    if not bool(total.isfinite()):
        return None
    if not bool(total):
        return Terms("a loss without a gradient", 1.0, 0.0)
    tolerance = 2e-2 if short or gradient.abs().max() < 1e-4 else 1e-3
    for dimension in dict.fromkeys((1, scores.dim() - 1)):
        if dimension < scores.dim() and scores.dim() > 1 and scores.shape[dimension] > 1:
            rows, slopes = (t.movedim(dimension, -1).flatten(0, -2) for t in (scores, gradient))
            off = gradient.sum(dim=dimension).abs().sum()
            kind = "" if bool(off <= tolerance * total) else _kind(rows, tolerance=tolerance)
            if kind is not None:
                return _softmax(rows, slopes, kind, tolerance=tolerance)
    return _binary(scores.flatten(), gradient.flatten(), tolerance=tolerance)


def _kind(scores: Tensor, *, tolerance: float) -> str | None:
    """Whether rows are logarithms of probabilities of all classes, or probabilities."""
    rows = _some(scores, LOOKED_AT)
    if bool((rows.logsumexp(dim=1).abs() <= tolerance).all()):
        return LOGARITHMS
    if bool(((rows.sum(dim=1) - 1).abs() <= tolerance).all() and (rows >= 0).all()):
        return PROBABILITIES
    return None


def _some(rows: Tensor, n: int) -> Tensor:
    return rows[:: max(1, len(rows) // n)][:n]


def _softmax(scores: Tensor, gradient: Tensor, kind: str, *, tolerance: float) -> Terms | None:
    live = gradient.ne(0).any(dim=1).nonzero()[:, 0]
    rows = _some(live, LOOKED_AT)
    h, p = gradient[rows], scores[rows]
    if kind == PROBABILITIES:
        h = p * h  # the gradient of the log-probabilities
    else:
        p = torch.softmax(p, dim=1)
    if kind:
        h = h - p * h.sum(dim=1, keepdim=True)
    target = h.argmin(dim=1, keepdim=True)
    # Sums over the other classes stay accurate where the network is sure of the target.
    p_others, h_others = (t.scatter(1, target, 0.0) for t in (p, h))
    doubt, lift = p_others.sum(dim=1), h_others.sum(dim=1)
    clear = doubt > min(1e-3, float(doubt.max()) / 2)
    if not bool(clear.any()):
        return None
    weights = (lift / doubt)[clear]
    off = (h_others[clear] - weights[:, None] * p_others[clear]).norm()
    size = h_others[clear].norm()
    fits = bool(off <= max(1e-2, tolerance) * size) and bool((weights > 0).all())
    if fits and scores.shape[1] == 2:
        # With two classes any gradient that adds up to zero would fit, so all rows must agree.
        fits = bool((weights.max() - weights.min()) <= max(1e-2, 3 * tolerance) * weights.abs().max())
    softened = scores.shape[1] == 2 or bool(off > EXACT * size)
    if not fits or (softened and _is_softened(p[clear], h[clear], weights)):
        return _soft_targets(p, h, len(live), kind, tolerance=tolerance)
    # If classes are weighted, take the one weight that keeps the trace of the scores' Fisher matrix.
    squares = h[clear].square().sum(dim=1)
    weight = float(squares.sum() / (squares / weights).sum())
    return _rounded(f"softmax cross-entropy{kind}", weight, len(live))


def _is_softened(p: Tensor, h: Tensor, weights: Tensor) -> bool:
    """Whether equal targets of all but one class, or but two of five and more, fit better than targets of zero.

    Rounding may hide a smoothed label: its misfit to a hard one is small where probabilities are nearly equal. Targets
    of zero fit each row with the weight of its own, except that two classes leave no misfit then.
    """
    n_classes = p.shape[1]
    order = h.argsort(dim=1)
    p, h = (t.gather(1, order[:, 2 if n_classes >= 5 else 1 :]) for t in (p, h))
    if n_classes == 2:
        weights = (p * h).sum() / p.square().sum() * torch.ones_like(weights)
    off = (h - weights[:, None] * p).square().sum()
    p, h = (t - t.mean(dim=1 if n_classes >= 5 else None, keepdim=True) for t in (p, h))
    spread = p.square().sum()
    off_softened = (h - (p * h).sum() / spread * p).square().sum()
    return bool(2 * off_softened < off) and bool(off > (EXACT * h.abs().max()) ** 2)


def _soft_targets(p: Tensor, h: Tensor, n_live: int, kind: str, *, tolerance: float) -> Terms | None:
    """Fit smoothed labels and mixtures of two: all but two classes have equal targets, so slopes give the weight."""
    n_classes = p.shape[1]
    if n_classes < 5:
        return None
    kept = h.argsort(dim=1)[:, 2:]
    p, h = (t.gather(1, kept) for t in (p, h))
    p, h = (t - t.mean(dim=1, keepdim=True) for t in (p, h))
    along, spreads = (p * h).sum(dim=1), p.square().sum(dim=1)
    rows = spreads > 0
    if not bool(rows.any()):
        return None
    # Where the network is surer than its target, a target may be among the kept classes; most rows decide.
    middle = (along[rows] / spreads[rows]).median()
    rows &= (h - middle * p).norm(dim=1) <= 10 * tolerance * h.norm(dim=1)
    weight = along[rows].sum() / spreads[rows].sum()
    off = (h - weight * p)[rows].norm()
    if (
        2 * int(rows.sum()) < len(rows)
        or not bool(off <= 10 * tolerance * h[rows].norm())
        or not bool(weight > 0)
    ):
        return None
    return _rounded(f"softmax cross-entropy{kind} with soft targets", float(weight), n_live)


def _binary(scores: Tensor, gradient: Tensor, *, tolerance: float) -> Terms | None:
    live = gradient.ne(0).nonzero()[:, 0]
    entries = _some(live, LOOKED_AT)
    h, scores = gradient[entries], scores[entries]
    # Slopes of other losses have one size, or that of the error. Near a score of zero BCE's are almost the same, so it
    # must explain them far better. Where all gradients are equal, nothing can tell.
    weight, spread = _of_binary(scores.sigmoid(), h)
    if spread <= 10 * tolerance and 10 * spread < _spread(h.abs()):
        return _rounded("binary cross-entropy", weight, len(live))
    if not bool(((scores > 0) & (scores < 1)).all()):
        return None
    weight, spread = _of_binary(scores, h * scores * (1 - scores))
    others = min(_of_binary(scores, h)[1], _spread(h.abs()))
    if spread <= 10 * tolerance and 10 * spread < others:
        return _rounded(f"binary cross-entropy{PROBABILITIES}", weight, len(live))
    return None


def _of_binary(p: Tensor, h: Tensor) -> tuple[float, float]:
    """Return the weight of the terms, and the relative spread over terms; infinite if nothing can be inferred."""
    error = torch.where(h > 0, p, p - 1)
    clear = error.abs() > 1e-2
    # A gradient that is the same everywhere could be that of any loss.
    tells = bool(p.max() - p.min() > 1e-3) or bool((h > 0).any() and (h < 0).any())
    if int(clear.sum()) < 2 or not tells:
        return 0.0, math.inf
    weights = (h / error)[clear]
    return float(weights.mean()), _spread(weights)


def _spread(values: Tensor) -> float:
    return float((values.max() - values.min()) / values.max())


def _rounded(source: str, weight: float, n: int) -> Terms | None:
    """Round the weight to that of an exact mean or sum, times or over a whole number, or times a power of two."""
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
