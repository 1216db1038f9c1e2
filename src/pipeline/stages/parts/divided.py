"""Artefacts of several processes: arrays that are divided by rows, and one manifest at the end."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.artifacts.disk import errors_of_the_disk
from pipeline.artifacts.store import Artifact, Draft
from pipeline.config.section import Section
from pipeline.runtime.communicator import Communicator
from pipeline.stages.parts.spec import written


def edges_of(n: int, communicator: Communicator) -> NDArray[np.int64]:
    """Return where the rows of each process begin, shape (processes + 1,); all have about equally many."""
    return np.arange(communicator.size + 1, dtype=np.int64) * n // communicator.size


def own_range(n: int, communicator: Communicator) -> tuple[int, int]:
    """Return the first of this process's rows, and the one after its last."""
    first, last = edges_of(n, communicator)[communicator.rank :][:2].tolist()
    return first, last


def own_rows(artifact: Artifact, name: str, communicator: Communicator) -> NDArray[Any]:
    """Read only this process's rows of an array into memory."""
    return np.array(own_share(artifact.array(name), communicator))


def own_share(rows: NDArray[Any], communicator: Communicator) -> NDArray[Any]:
    """Return this process's rows of an array that all processes have."""
    return rows[slice(*own_range(len(rows), communicator))]


def collected(own: NDArray[Any], communicator: Communicator) -> NDArray[Any]:
    """Return the rows of all processes on process 0, in their order, and none on the others; collective."""
    received = communicator.exchange({0: torch.from_numpy(np.ascontiguousarray(own))})
    return np.concatenate([own[:0], *(part.numpy() for part in received.values())])


def save_rows(
    draft: Draft | None, name: str, own: NDArray[np.generic], communicator: Communicator, unit: str = "1"
) -> None:
    """Write an array whose rows are divided; process 0 writes the pieces as they arrive; collective.

    Types and trailing shapes are the same on all processes; only process 0 has a draft.
    """
    counts = communicator.all_gather(torch.tensor([len(own)]))
    pieces = _in_turn(own, communicator)
    if draft is None:
        for _ in pieces:
            pass
        return
    shape = (sum(int(count) for count in counts), *own.shape[1:])
    draft.save_array_in_parts(name, pieces, shape=shape, unit=unit, dtype=own.dtype.name)


def _in_turn(own: NDArray[np.generic], communicator: Communicator) -> Iterator[NDArray[np.generic]]:
    """Yield the pieces of all processes in order on process 0, and nothing of use on others; collective."""
    for rank in range(communicator.size):
        sent = {0: torch.from_numpy(np.ascontiguousarray(own))} if communicator.rank == rank else {}
        received = communicator.exchange(sent)
        yield received[rank].numpy() if communicator.rank == 0 else own[:0]


def mean_and_deviation(own: Tensor, communicator: Communicator) -> tuple[float, float]:
    """Return mean and standard deviation (divisor n - 1) of divided values; collective."""
    sums = torch.tensor([float(own.sum()), float(len(own))], dtype=torch.float64)
    communicator.all_reduce(sums)
    n = max(float(sums[1]), 1.0)
    mean = float(sums[0]) / n
    square = (own - mean).square().sum().reshape(1)
    communicator.all_reduce(square)
    return mean, float((square / max(n - 1, 1.0)).sqrt())


@contextmanager
def created(
    options: Namespace, spec: Section, communicator: Communicator, *, kind: str
) -> Iterator[Draft | None]:
    """Write the artefact of a stage together; collective.

    Process 0 yields its draft, and the manifest appears when all processes have reached the end.
    """
    if communicator.rank:
        with errors_of_the_disk(options.output.parent):
            yield None
        communicator.barrier()
        return
    with written(options, kind, spec) as draft:
        yield draft
        communicator.barrier()
