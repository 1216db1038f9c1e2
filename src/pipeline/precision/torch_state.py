"""Protection of computations from state of torch that a caller may have changed."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def plain_torch(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Compute with torch's default state within the context; other threads keep theirs.

    In this state new tensors are on the CPU and of the type given here, autocast is off, and operators can be recorded,
    which inference mode prevents.

    Args:
        dtype: Type of new floating-point tensors that name none.
    """
    with ExitStack() as states:
        states.enter_context(torch.inference_mode(False))
        states.enter_context(torch.autocast("cpu", enabled=False))
        # With these modes every call of torch goes through Python, so they are entered only where needed.
        if torch.get_default_device().type != "cpu":
            states.enter_context(torch.device("cpu"))
        if torch.empty(0).dtype != dtype:
            states.enter_context(_Typed(dtype))
        yield


_NEW = {
    torch.arange, torch.empty, torch.eye, torch.full, torch.linspace, torch.logspace, torch.ones, torch.rand,
    torch.randn, torch.scalar_tensor, torch.tensor, torch.zeros,
}  # fmt: skip


class _Typed(TorchFunctionMode):
    """Makes new tensors of another type than torch's default, which all threads share."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        is_open = func in _NEW and kwargs.get("dtype") is None and made.is_floating_point()
        return made.to(self.dtype) if is_open else made
