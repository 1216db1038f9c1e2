"""The state of torch that a caller may have changed and that computations here are not to depend on."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def plain_torch(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Compute as torch does where nobody has set anything, and put the caller's state back.

    That is: new tensors on the CPU and of the default type here, no autocast, and operators that can be recorded, which
    inference mode hides.

    Args:
        dtype: Type of new tensors that name none.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with ExitStack() as states:
            states.enter_context(torch.inference_mode(False))
            states.enter_context(torch.autocast("cpu", enabled=False))
            if (
                torch.get_default_device().type != "cpu"
            ):  # otherwise every call of torch would go through Python
                states.enter_context(torch.device("cpu"))
            yield
    finally:
        torch.set_default_dtype(before)
