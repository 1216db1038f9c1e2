"""Matrix products by the fastest routine that torch offers, because they are most of K-FAC's cost."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

TensorProduct = Callable[..., Tensor]


def _if_works(product: TensorProduct | None) -> TensorProduct | None:
    """Return a product if a trial call succeeds, else None: a private function may change."""
    one = torch.ones(1, 1)
    try:
        works = product is not None and torch.equal(product(one, one, None, "none", [], ""), one)
    except (RuntimeError, TypeError):
        return None
    return product if works else None


# On a CPU `@` multiplies float32 matrices by MKL, which uses half the vector width of processors not made by Intel.
# oneDNN, which torch uses for convolutions, uses all of it. torch.compile calls its product by this name; builds of
# torch without oneDNN lack it.
_ONEDNN = _if_works(getattr(torch.ops.mkldnn, "_linear_pointwise", None))

# With fewer columns, copying one triangle into the other takes as long as computing it.
_WORTH_HALVING = 512


def times_transpose(a: Tensor, b: Tensor) -> Tensor:
    """Return a b', without a gradient.

    Args:
        a: Shape (..., m, k).
        b: Shape (..., n, k).
    """
    suits = a.is_cpu and a.dtype == torch.float32 and a.dim() == 2 and a.numel() > 0 and b.numel() > 0
    if _ONEDNN is None or not suits:
        return a @ b.mT
    # oneDNN needs contiguous rows or columns; on parts of larger matrices it falls back to loops.
    b = b if b.mT.is_contiguous() else b.contiguous()
    return _ONEDNN(a.contiguous(), b, None, "none", [], "")


def times_own_transpose(a: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return a a'; with many columns on a CPU, little more than one triangle is computed, in strips of rows.

    Args:
        a: Shape (..., n, k).
        out: The tensor to write to, shape (..., n, n), such as a part of a larger matrix.
    """
    n, n_columns = a.shape[-2:]
    # Two strips save a quarter of the whole, three a third.
    n_strips = max(-(-n // 96), 3 if n >= 128 else 1) if a.is_cpu and n_columns >= _WORTH_HALVING else 1
    if n_strips <= 1:
        product = times_transpose(a, a)
        return product if out is None else out.copy_(product)
    a = a.contiguous()
    product = a.new_empty(*a.shape[:-1], n) if out is None else out
    bounds = [n * i // n_strips for i in range(n_strips + 1)]
    for start, end in pairwise(bounds):
        strip = times_transpose(a[..., start:end, :], a[..., :end, :])
        product[..., start:end, :end] = strip
        product[..., :start, start:end] = strip[..., :start].mT
    return product
