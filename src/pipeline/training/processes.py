"""Which processes train together, and which of torch's ways to distribute a network K-FAC supports."""

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from pipeline.runtime.collectives import ProcessGroup
from pipeline.runtime.communicator import Communicator, Serial


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside `DistributedDataParallel` and `torch.compile`.

    Raises:
        ValueError: If its weights are sharded or its passes run in copies, which hides samples from the hooks.
    """
    while isinstance(model, DistributedDataParallel) or _compiled(model) is not None:
        inner = model.module if isinstance(model, DistributedDataParallel) else _compiled(model)
        assert isinstance(inner, nn.Module)
        model = inner
    if isinstance(model, DataParallel):
        raise ValueError(
            "K-FAC cannot see the passes of nn.DataParallel's copies; give it the network itself, and train on several "
            "devices by DistributedDataParallel"
        )
    for name, module in model.named_modules():
        if type(module).__name__ in ("FullyShardedDataParallel", "FlatParamHandle"):
            raise ValueError(_in_pieces(f"module {name or 'itself'} is wrapped by FullyShardedDataParallel"))
    for name, p in model.named_parameters():
        if hasattr(p, "device_mesh"):
            raise ValueError(_in_pieces(f"parameter {name} is a DTensor, as fully_shard makes them"))
    return model


def require_known(communicator: Communicator, model: nn.Module) -> None:
    """Raise ValueError if a process group was opened after the communicator was chosen.

    Raises:
        ValueError: If so; each process would take its own statistics for those of all.
    """
    if communicator.size == 1 and detected(model).size > 1:
        raise ValueError(
            "a process group was opened after K-FAC was attached; attach it after init_process_group, or pass "
            "communicator=Serial() if each process trains a network of its own"
        )


def require_all(model: nn.Module) -> None:
    """Raise ValueError if `join` lets a process step while others have no batches left.

    Args:
        model: The model that the processes call: a `DistributedDataParallel`, perhaps compiled, or a network.

    Raises:
        ValueError: If so; `join` would answer K-FAC's messages with others, and training would hang.
    """
    joined = getattr(_compiled(model) or model, "_join_config", None)
    if joined is not None and joined.enable and not joined.throw_on_early_termination:
        raise ValueError(
            "K-FAC's step needs all processes, and join() lets some go on alone; give each the same number of batches, "
            "as DistributedSampler does, or call join(throw_on_early_termination=True)"
        )


def _in_pieces(found: str) -> str:
    return f"K-FAC needs weights that are whole on every process, but {found}; use DistributedDataParallel"


def detected(model: nn.Module) -> Communicator:
    """Return the processes of a `DistributedDataParallel`, else those of torch's default process group."""
    compiled = _compiled(model)
    if compiled is not None:
        return detected(compiled)
    if not (dist.is_available() and dist.is_initialized()):
        return Serial()
    group = model.process_group if isinstance(model, DistributedDataParallel) else None
    return ProcessGroup(group) if dist.get_world_size(group) > 1 else Serial()


def trains_together(model: nn.Module) -> bool:
    """Whether a network is a `DistributedDataParallel`, perhaps compiled, so that all processes step together."""
    return isinstance(_compiled(model) or model, DistributedDataParallel)


def _compiled(model: nn.Module) -> nn.Module | None:
    """Return the network inside `torch.compile`, or None; importing the wrapper's class would load the compiler."""
    inner = model._modules.get("_orig_mod")
    return inner if type(model).__name__ == "OptimizedModule" else None
