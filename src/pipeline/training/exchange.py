"""How K-FAC's matrices travel between processes: packed triangles, many in one message."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.runtime.communicator import Communicator
from pipeline.training.assignment import n_packed
from pipeline.training.kronecker import pack_triangle, unpack_triangle
from pipeline.training.passes import Key, Moments


@dataclass(frozen=True)
class Exchange:
    """The matrices of one network and the processes that share them.

    Sums over processes travel as `dtype`. In float64 they hardly depend on how samples were dealt. In
    bfloat16 each process's part and each partial sum is rounded by at most 2^-9 of itself, so an entry of a
    factor is off by at most 2^-9 n_processes times the sum of its parts' magnitudes.

    Attributes:
        shapes: The shape of each matrix.
        owners: The process that inverts each matrix; None if all do.
        communicator: The processes.
        dtype: Type of the numbers in messages.
    """

    shapes: Mapping[Key, tuple[int, ...]]
    owners: Mapping[Key, int] | None
    communicator: Communicator
    dtype: torch.dtype = torch.float64

    def is_mine(self, key: Key) -> bool:
        """Whether this process inverts a matrix and counts its failures."""
        return self.owners is None or self.owners[key] == self.communicator.rank

    def count(self, moments: Mapping[Key, Moments], keys: Sequence[Key], device: torch.device) -> list[float]:
        """Return for each of `keys` the number by which the sum over all processes is to be divided."""
        counts = [float(moments[key].n) if key in moments else 0.0 for key in keys]
        total = torch.tensor(counts, dtype=torch.float64, device=device)
        self.communicator.all_reduce(total)
        return total.tolist()

    def mean(self, moments: Mapping[Key, Moments], like: Tensor) -> tuple[dict[Key, Tensor], set[Key]]:
        """Divide sums over the samples of all processes by their number.

        Args:
            moments: This process's sums, which are overwritten; a missing matrix counts as no samples.
            like: A tensor of the dtype and device of the results.

        Returns:
            The means of the matrices that this process inverts, bit-equal where several do; and the keys of
            all matrices that any process has samples of, the same on all.
        """
        keys = list(self.shapes)
        counts = dict(zip(keys, self.count(moments, keys, like.device), strict=True))
        seen = {key for key in keys if counts[key]}
        owners = self.owners
        groups: Mapping[int | None, list[Key]] = {None: [key for key in keys if key in seen]}
        if owners is not None:
            groups = {
                owner: [key for key in keys if key in seen and owners[key] == owner]
                for owner in range(self.communicator.size)
            }
        means: dict[Key, Tensor] = {}
        for owner, group in groups.items():
            for key, total in self._sum(moments, group, owner, like.device).items():
                mean = total.mul_(1 / counts[key]).to(like.dtype)  # sums are not needed again
                packed = self.communicator.size > 1
                means[key] = unpack_triangle(mean, self.shapes[key]) if packed else mean
        return means, seen

    def _sum(
        self, moments: Mapping[Key, Moments], keys: Sequence[Key], owner: int | None, device: torch.device
    ) -> dict[Key, Tensor]:
        """Sum matrices over processes: whole ones of a single process, else packed ones, returned at their owner."""
        if self.communicator.size == 1 or not keys:
            return {key: moments[key].total for key in keys}
        lengths = [n_packed(self.shapes[key]) for key in keys]
        parts = [
            pack_triangle(moments[key].total)
            if key in moments
            else torch.zeros(n, dtype=torch.float64, device=device)
            for key, n in zip(keys, lengths, strict=True)
        ]
        message = torch.cat(parts).to(self.dtype)
        if owner is None:
            self.communicator.all_reduce(message)
        else:
            self.communicator.reduce(message, owner)
        if owner not in (None, self.communicator.rank):
            return {}
        return dict(zip(keys, torch.split(message.double(), lengths), strict=True))

    def share(self, matrices: dict[Key, Tensor], keys: Sequence[Key], like: Tensor) -> None:
        """Replace the symmetric matrices under `keys` by those of their owners, so that all processes hold the same
        bits."""
        if self.owners is None or self.communicator.size == 1:
            return
        for owner in range(self.communicator.size):
            owned = [key for key in keys if self.owners[key] == owner]
            if not owned:
                continue
            lengths = [n_packed(self.shapes[key]) for key in owned]
            message = like.new_zeros(sum(lengths))
            if owner == self.communicator.rank:
                message = torch.cat([pack_triangle(matrices[key]) for key in owned])
            # ASSUME: an inverse rounded to bfloat16 may cease to be positive definite, so these keep their type.
            self.communicator.broadcast(message, owner)
            for key, triangle in zip(owned, torch.split(message, lengths), strict=True):
                matrices[key] = unpack_triangle(triangle, self.shapes[key])

    def broadcast(self, message: Tensor, owner: int) -> None:
        """Replace a gradient by that of its owner. If messages are in bfloat16, the owner's own copy is rounded too."""
        if self.dtype == torch.bfloat16:
            short = message.to(self.dtype)
            self.communicator.broadcast(short, owner)
            message.copy_(short)
        else:
            self.communicator.broadcast(message, owner)
