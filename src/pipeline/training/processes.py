"""Which processes train together with this one, and what of torch's ways to share a network K-FAC can stand beside."""

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from pipeline.runtime.collectives import ProcessGroup
from pipeline.runtime.communicator import Communicator, Serial


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside of `DistributedDataParallel` and `torch.compile`.

    Raises:
        ValueError: If its weights are in pieces or its passes are hidden: then no layer shows its samples whole.
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
    """Raise where torch has come to know of processes since `detected` looked for them.

    Raises:
        ValueError: If it has: then each process would take its own statistics for all.
    """
    if communicator.size == 1 and detected(model).size > 1:
        raise ValueError(
            "a process group was opened after K-FAC was attached; attach it after init_process_group, or pass "
            "communicator=Serial() if each process trains a network of its own"
        )


def require_all(model: nn.Module) -> None:
    """Raise where a process could step while others have no batches left.

    Args:
        model: What the processes call: a `DistributedDataParallel`, perhaps compiled, or a network.

    Raises:
        ValueError: If it is inside of `join`, which would answer K-FAC's messages with others and hang.
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
    """The processes that torch knows of: those of a `DistributedDataParallel`, else of the default process group."""
    compiled = _compiled(model)
    if compiled is not None:
        return detected(compiled)
    if not (dist.is_available() and dist.is_initialized()):
        return Serial()
    group = model.process_group if isinstance(model, DistributedDataParallel) else None
    return ProcessGroup(group) if dist.get_world_size(group) > 1 else Serial()


def _compiled(model: nn.Module) -> nn.Module | None:
    """The network that `torch.compile` has wrapped; its class is not named here, for that would load the compiler."""
    inner = model._modules.get("_orig_mod")
    return inner if type(model).__name__ == "OptimizedModule" else None
