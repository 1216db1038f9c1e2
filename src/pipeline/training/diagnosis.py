"""What went wrong: where numbers stopped being finite, and whether processes still agree."""

from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor, nn

from pipeline.errors import ConvergenceError, DivergenceError
from pipeline.runtime.communicator import Communicator

ADVICE = "lower lr, lengthen the warm-up or raise the damping"


def blame_layer(
    model: nn.Module, repeat: Callable[[], object], *, step: int, communicator: Communicator
) -> NoReturn:
    """Repeat the passes of a failed step under observation and name the first layer that went wrong.

    It is the first layer in forward order whose output is not finite; if all outputs are finite, the first in backward
    order whose output gradient is not; else the first parameter whose gradient is not. All processes raise the same
    message.

    Raises:
        DivergenceError: Always.
    """
    layers = {name: module for name, module in model.named_modules() if not any(module.children())}
    places = [f"the output of layer {name}" for name in layers]
    places += [f"the gradient at layer {name}" for name in layers]
    places += [f"the gradient of {name}" for name, _ in model.named_parameters()]
    places += ["the gradient or the loss"]
    faults: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def look(module: nn.Module, inputs: object, output: object) -> None:
            if not isinstance(output, Tensor):
                return
            if not bool(output.isfinite().all()):
                faults.append(f"the output of layer {name}")
            elif output.requires_grad:
                output.register_hook(look_back)  # type: ignore[no-untyped-call]

        def look_back(gradient: Tensor) -> None:
            if not bool(gradient.isfinite().all()):
                faults.append(f"the gradient at layer {name}")

        return look

    handles = [module.register_forward_hook(watch(name)) for name, module in layers.items()]
    repeat()
    for handle in handles:
        handle.remove()
    faults += [
        f"the gradient of {name}"
        for name, p in model.named_parameters()
        if p.grad is not None and not bool(p.grad.isfinite().all())
    ]
    outputs = [fault for fault in faults if fault.startswith("the output")]
    first = (outputs + faults + places[-1:])[0]
    here = torch.tensor([places.index(first)], device=next(model.parameters()).device)
    everywhere = torch.cat(communicator.all_gather(here))
    raise DivergenceError(f"{places[int(everywhere.min())]} is not finite at step {step + 1}; {ADVICE}")


def require_agreement(model: nn.Module, *, step: int, communicator: Communicator) -> None:
    """Compare checksums of the weights of all processes.

    Every process computes the same update, but processors of different kinds may round it differently.

    Raises:
        ConvergenceError: If the sums differ.
    """
    checksum = torch.zeros(1, dtype=torch.float64, device=next(model.parameters()).device)
    for i, p in enumerate(model.parameters(), start=1):
        checksum += i * p.detach().double().sum()
    # Sums that are not finite count as zero on every process, because the evaluation that follows reports them.
    checksums = torch.cat(communicator.all_gather(checksum)).nan_to_num(0.0, 0.0, 0.0).tolist()
    odd = [rank for rank, theirs in enumerate(checksums) if theirs != checksums[0]]
    if odd:
        raise ConvergenceError(
            f"process {odd[0]} holds other weights than process 0 at step {step}; "
            "start all processes on machines of the same kind"
        )
