"""A checkpoint that processes share: one job at a time holds it, and all its processes see the same one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from pipeline.artifacts.checkpoints import CheckpointFolder
from pipeline.artifacts.disk import Patience
from pipeline.errors import ArtifactError, Interrupted
from pipeline.runtime.communicator import Communicator
from pipeline.training import State


@contextmanager
def locked(
    checkpoint: CheckpointFolder,
    label: str,
    device: torch.device,
    communicator: Communicator,
    interrupted: Callable[[], bool],
) -> Iterator[None]:
    """Keep out other jobs that train the same network, of this study or another.

    All processes ask together once a second, so that none waits so long in a collective that its group gives up.
    """
    lock = None
    told = False
    while True:
        if communicator.rank == 0:
            lock = checkpoint.try_lock(1.0)
        state = torch.tensor(
            [float(communicator.rank == 0 and lock is None), float(interrupted())], device=device
        )
        communicator.all_reduce(state)
        taken, stops = state.tolist()
        if not taken:
            break
        if stops:
            raise Interrupted(f"{label}: stopped on request while another job trains the same network")
        if communicator.rank == 0 and not told:
            print(
                f"{label}: waits, for another job trains the same network ({checkpoint.folder})", flush=True
            )
            told = True
    try:
        yield
    finally:
        if lock is not None:
            checkpoint.unlock(lock)


def agreed_checkpoint(
    checkpoint: CheckpointFolder, device: torch.device, communicator: Communicator
) -> State | None:
    """Load the checkpoint on every process; different checkpoints on different processes are an error, not a hang."""
    patience = Patience()
    while True:
        found = checkpoint.load()
        # Decided with the clocks of all processes: they look again together, or none does.
        told = torch.tensor([[found[1]["step"] if found else -1, patience.ended]], device=device)
        steps, ended = torch.cat(communicator.all_gather(told)).T.tolist()
        if len(set(steps)) == 1:
            return State(*found) if found else None
        if any(ended):
            raise ArtifactError(
                f"{checkpoint.folder}: processes see different checkpoints (steps {sorted(set(steps))}), "
                f"{patience.seconds:.0f} s later too; wait until the shared file system shows the same everywhere, or "
                "run snakemake clean_checkpoints"
            )
        patience.pause()
