"""Products of matrices as exact as their type, whatever the caller has set for a network that he trains beside."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_PRODUCTS = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # it is there


@contextmanager
def full_precision() -> Iterator[None]:
    """Switch off autocasting to half precision, and TF32 or BF16 within float32 products; put them back at the end.

    Also decorates functions. The settings of products are those of the process, and other threads see them meanwhile.
    """
    before = [products.fp32_precision for products in _PRODUCTS]
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        try:
            for products in _PRODUCTS:
                products.fp32_precision = "ieee"
            yield
        finally:
            for products, precision in zip(_PRODUCTS, before, strict=True):
                products.fp32_precision = precision
