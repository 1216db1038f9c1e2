"""Products of matrices in the full precision of their type, even if a caller has set less for training a network."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch

from pipeline.hmatrix.threads import SharedSetting

_PRODUCTS = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # it is there


def _compute_exactly() -> Callable[[], None]:
    before = [products.fp32_precision for products in _PRODUCTS]

    def set_to(precisions: list[str]) -> None:
        for products, precision in zip(_PRODUCTS, precisions, strict=True):
            products.fp32_precision = precision

    set_to(["ieee"] * len(_PRODUCTS))
    return lambda: set_to(before)


_exact = SharedSetting(_compute_exactly)


@contextmanager
def full_precision() -> Iterator[None]:
    """Switch off autocasting to half precision, and TF32 or BF16 within float32 products; restore both at the end.

    Also decorates functions. The settings of products are the process's: other threads see them meanwhile.
    """
    with ExitStack() as stack:
        stack.enter_context(_exact)
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
