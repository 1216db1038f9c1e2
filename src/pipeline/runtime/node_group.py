"""Processes of one node that pass tensors through shared memory.

A message between processes of one node costs gloo a copy into the kernel, one out of it, and 0.2 to 0.5 ms until its
receiver is awake. Here each process writes its data into its own piece of shared memory, all meet, and then read what
they need. They wait without sleeping, since they wait for each other only a few milliseconds. While they wait, they
check whether the others are still alive, which MPI does not tell.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.errors import ProcessLostError
from pipeline.runtime.communicator import Communicator, Serial, require_ranks
from pipeline.runtime.letters import head, lengths_of, pack, unpack
from pipeline.runtime.members import Member, gone_of, lost, members_of
from pipeline.runtime.mpi import MpiCommunicator, NodeMemory
from pipeline.runtime.torch_group import TIMEOUT, torch_group

MOST_AT_ONCE = 2**20  # bytes of a tensor in shared memory; longer tensors pass in pieces
AWAKE = 0.02  # seconds that a process waits without sleeping
NAP = 0.001  # seconds of sleep between two checks after that
LOOK_AFTER_OTHERS = 0.2  # seconds between two checks of who is alive, which take 0.2 ms for each process


@dataclass
class NodeGroup:
    """The processes of a node, joined by shared memory. Tensors live on the CPU.

    Each process adds up its share of a sum over the processes in order, so results are bit-equal on all. The memory has
    `2 * MOST_AT_ONCE` bytes for each process, in two halves that are used in turn. A half is written again only after a
    meeting that every process reaches after it has read the half.
    """

    memory: NodeMemory
    members: tuple[Member, ...]
    rank: int
    _second: bool = field(default=False, init=False)

    @property
    def size(self) -> int:
        return len(self.members)

    def all_reduce(self, tensor: Tensor) -> None:
        self._add_up(tensor, is_wanted=True)

    def reduce(self, tensor: Tensor, destination: int) -> None:
        self._add_up(tensor, is_wanted=self.rank == destination)

    def broadcast(self, tensor: Tensor, source: int) -> None:
        for part, places in self._in_parts(tensor):
            if self.rank == source:
                places[source].copy_(part)
            self._meet()
            if self.rank != source:
                part.copy_(places[source])

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        heads = torch.zeros(self.size, dtype=torch.int64)
        heads[self.rank] = head(tensor)
        self.all_reduce(heads)
        parts = [tensor.new_empty((n, *tensor.shape[1:])) for n in lengths_of(heads.tolist())]
        parts[self.rank].copy_(tensor)
        for source, part in enumerate(parts):
            self.broadcast(part, source)
        return parts

    def exchange(self, sent: Mapping[int, Tensor]) -> dict[int, Tensor]:
        require_ranks(sent, self.size)
        letters = {destination: pack(tensor) for destination, tensor in sent.items()}
        lengths = torch.zeros(self.size, self.size, dtype=torch.int64)
        for destination, letter in letters.items():
            lengths[self.rank, destination] = len(letter)
        self.all_reduce(lengths)
        leaving = (
            torch.cat([letters[rank] for rank in sorted(letters)])
            if letters
            else lengths[:0].view(torch.uint8)
        )
        ends = lengths.cumsum(dim=1).tolist()
        starts = (lengths.cumsum(dim=1) - lengths).tolist()
        arrived: dict[int, Tensor] = {
            source: torch.empty(length, dtype=torch.uint8)
            for source, length in enumerate(lengths[:, self.rank].tolist())
            if length
        }
        for begin in range(0, int(lengths.sum(dim=1).max()), MOST_AT_ONCE):
            places = self._next_places()
            part = leaving[begin : begin + MOST_AT_ONCE]
            places[self.rank][: len(part)].copy_(part)
            self._meet()
            for source, letter in arrived.items():
                first, last = starts[source][self.rank], ends[source][self.rank]
                low, high = max(first, begin), min(last, begin + MOST_AT_ONCE)
                if low < high:
                    letter[low - first : high - first].copy_(places[source][low - begin : high - begin])
        return {source: unpack(letter) for source, letter in arrived.items()}

    def barrier(self) -> None:
        self._meet()

    def _next_places(self) -> list[Tensor]:
        """Return that half of each process's memory whose turn it is."""
        start = MOST_AT_ONCE * self._second
        self._second = not self._second
        return [piece[start : start + MOST_AT_ONCE] for piece in self.memory.pieces]

    def _add_up(self, tensor: Tensor, *, is_wanted: bool) -> None:
        for part, places in self._in_parts(tensor):
            places[self.rank].copy_(part)
            self._meet()
            total, *others = (place.tensor_split(self.size)[self.rank] for place in places)
            for other in others:
                total += other
            self._meet()
            if is_wanted:
                part.copy_(places[0])

    def _in_parts(self, tensor: Tensor) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Iterate over the parts of a contiguous tensor, each with its place in the memory of every process."""
        for part in torch.split(tensor.detach().view(-1), MOST_AT_ONCE // tensor.element_size()):
            n_bytes = part.numel() * part.element_size()
            yield part, [place[:n_bytes].view(part.dtype) for place in self._next_places()]

    def _meet(self) -> None:
        """Wait for all; ProcessLostError if one has died, or stays away as long as torch's group would wait."""
        are_all_here = self.memory.arrive()
        start = looked = time.monotonic()
        while not are_all_here():
            os.sched_yield()
            now = time.monotonic()
            if now - start > AWAKE:
                time.sleep(NAP)
            if now - looked > LOOK_AFTER_OTHERS:
                gone = gone_of(self.members)
                if gone:
                    raise lost(self.members, gone)
                looked = now
            if now - start > TIMEOUT.total_seconds():
                raise ProcessLostError(
                    f"process {self.rank} has waited {TIMEOUT} for the other {self.size - 1}, which still run but do "
                    "not answer; start the same job again, from its last checkpoint"
                )


@contextmanager
def process_group(device: torch.device, mpi: MpiCommunicator) -> Iterator[Communicator]:
    """Join the processes of this launch: by shared memory where all compute on the CPUs of one node, else by torch."""
    if mpi.size == 1:
        yield Serial()
        return
    memory = None
    if mpi.local_size == mpi.size and set(mpi.all_gather_text(device.type)) == {"cpu"}:
        try:
            memory = NodeMemory(mpi, 2 * MOST_AT_ONCE)
        except OSError as error:
            if mpi.rank == 0:
                print(
                    f"processes share no memory ({error}) and pass tensors by messages, which is slower",
                    flush=True,
                )
    if memory:
        yield NodeGroup(memory, members_of(mpi), mpi.rank)
    else:
        with torch_group(device, mpi) as group:
            yield group
