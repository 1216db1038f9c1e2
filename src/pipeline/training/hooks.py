"""Hooks that are neither copied with their module nor compiled."""

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import FrameType
from typing import Any

import torch
from torch import nn

# The decorator `torch.compiler.disable` would load the compiler at import; this one loads it at the first use.
uncompiled = torch._disable_dynamo  # type: ignore[attr-defined]


def forget_compiled_code() -> None:
    """Have functions compiled anew at their next call: compiled code ignores hooks that were added later."""
    if "torch._dynamo" in sys.modules:  # else nothing is compiled, and asking would load the compiler
        torch.compiler.reset()


def frame_of_call() -> FrameType | None:
    """Return torch's frame of the module call that runs the calling hook."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename != nn.modules.module.__file__:
        frame = frame.f_back
    return frame


def is_running(frame: FrameType | None) -> bool:
    """Whether a frame is on the current call stack."""
    running: FrameType | None = sys._getframe()
    while running is not None and running is not frame:
        running = running.f_back
    return running is not None


class Hook:
    """A hook of one module. A copy of it, in a copy of the module, does nothing.

    Args:
        module: The one module whose calls are reported.
        tell: Called with the module, all its inputs and, after the call, its output.
    """

    def __init__(self, module: nn.Module, tell: Callable[..., None]) -> None:
        self.module = module
        self.tell = tell

    @property
    def __name__(self) -> str:
        raise AttributeError(
            "a network that K-FAC watches cannot be scripted; call remove() of KFAC first, or use torch.export"
        )

    def __deepcopy__(self, memo: object) -> Callable[..., None]:
        return nullcontext().__exit__

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")

    @uncompiled
    def __call__(
        self, module: nn.Module, inputs: Sequence[Any], named: dict[str, Any], *output: object
    ) -> None:
        if module is self.module:
            self.tell(module, [*inputs, *named.values()], *output)


class EagerHook(Hook):
    """A hook that compiled code skips without breaking its graph."""

    def __call__(
        self, module: nn.Module, inputs: Sequence[Any], named: dict[str, Any], *output: object
    ) -> None:
        if not torch.compiler.is_compiling():
            super().__call__(module, inputs, named, *output)
