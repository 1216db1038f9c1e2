"""Memory, work and messages of each process of a stage, for the tables of its artefact."""

import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.artifacts.results.points import PointsFacts
from pipeline.artifacts.results.work import LevelWork, ProcessWork
from pipeline.artifacts.store import Artifact
from pipeline.config.matrices import Fit
from pipeline.hmatrix import DistributedH2Matrix
from pipeline.hmatrix.distributed import DistributedFactorization, DistributedLowRank, LowRankFactorization
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.mpi import MpiCommunicator
from pipeline.runtime.predicted_memory import PredictedMemory, n_fitted, predict_memory, require_room
from pipeline.runtime.provenance import cost
from pipeline.runtime.together import gather_text, together

CompressedMatrix = DistributedH2Matrix | DistributedLowRank


@dataclass(frozen=True)
class WorkOfProcesses:
    """The work of all processes; every process has all of it."""

    processes: list[ProcessWork]
    levels: list[LevelWork]

    @property
    def n_bytes(self) -> int:
        return sum(process.n_bytes for process in self.processes)

    @property
    def tables(self) -> dict[str, Iterable[Any]]:
        return {"processes": self.processes, "process_levels": self.levels}


def predicted_memory_of(
    points: Artifact,
    tolerance: float,
    factor_tolerance: float,
    processes: int,
    *,
    kriging: bool = False,
    fit: Fit | None = None,
    form: str = "hierarchical",
) -> PredictedMemory:
    """Return the bytes predicted for one process of a matrix over these points."""
    facts = points.facts_as(PointsFacts)
    return predict_memory(
        facts.name, facts.n, facts.dimension, tolerance, factor_tolerance, processes,
        on_globe=facts.crs == "lonlat", kriging=kriging, form=form,
        fitted=n_fitted(None if fit is None else fit.model_dump(), facts.n),
    )  # fmt: skip


def require_memory(predicted_bytes: int, communicator: MpiCommunicator) -> None:
    """Raise on all processes if Slurm gave the job less memory than predicted for a node's processes; collective."""
    processes = communicator.local_size
    with together(communicator):
        require_room(predicted_bytes, processes, os.environ)


def work_of_compression(
    matrices: Iterable[CompressedMatrix], seconds: float, predicted_bytes: int, communicator: Communicator
) -> WorkOfProcesses:
    """Return the work of building some matrices, with the levels of the first one; collective."""
    tables = [matrix.statistics() for matrix in matrices]
    sums = {
        name: np.sum([table[name] for table in tables], axis=0)
        for name in ("n_bytes", "waiting_seconds", "calls", "sent_bytes")
    }
    levels = [
        LevelWork(**row, n_bytes=row["bytes"], flops=row["product_flops"])  # its other entries are ignored
        for row in tables[0]["levels"]
    ]
    sums["messages"] = sums.pop("calls")
    return WorkOfProcesses(_processes(sums, seconds, predicted_bytes, communicator), levels)


def work_of_factorization(
    factorization: DistributedFactorization | LowRankFactorization,
    seconds: float,
    predicted_bytes: int,
    communicator: Communicator,
) -> WorkOfProcesses:
    """Return the work of a factorization and of the solves with it; collective."""
    levels = [LevelWork(**row, n_bytes=row["bytes"]) for row in factorization.statistics()]
    sums = {
        name: np.array(
            [
                sum(getattr(row, name) for row in levels if row.process == process)
                for process in range(communicator.size)
            ]
        )
        for name in ("n_bytes", "waiting_seconds", "messages", "sent_bytes")
    }
    return WorkOfProcesses(_processes(sums, seconds, predicted_bytes, communicator), levels)


def _processes(
    sums: Mapping[str, Any], seconds: float, predicted_bytes: int, communicator: Communicator
) -> list[ProcessWork]:
    hosts = gather_text(communicator, socket.gethostname())
    own = torch.tensor([[seconds, cost()["peak_memory_bytes"]]], dtype=torch.float64)
    measured = torch.cat(communicator.all_gather(own)).tolist()
    return [
        ProcessWork(
            process=process,
            host=host,
            n_bytes=int(sums["n_bytes"][process]),
            peak_memory_bytes=int(measured[process][1]),
            predicted_bytes=predicted_bytes,
            seconds=measured[process][0],
            waiting_seconds=float(sums["waiting_seconds"][process]),
            messages=int(sums["messages"][process]),
            sent_bytes=int(sums["sent_bytes"][process]),
        )
        for process, host in enumerate(hosts)
    ]
