"""How K-FAC's symmetric matrices travel between processes: packed triangles, many in one message."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.runtime.communicator import Communicator
from pipeline.training.capture import Key, Moments
from pipeline.training.kronecker import pack_triangle, unpack_triangle


@dataclass(frozen=True)
class Exchange:
    """The matrices of one network and the processes that share them.

    Attributes:
        sizes: Dimension of each matrix.
        owners: Which process inverts it.
    """

    sizes: Mapping[Key, int]
    owners: Mapping[Key, int]
    communicator: Communicator

    def mean(self, moments: Mapping[Key, Moments], like: Tensor) -> dict[Key, Tensor]:
        """Divide sums over the samples of all processes by their number.

        Args:
            moments: This process's sums; what is missing counts as no samples.
            like: A tensor of the dtype and device of the results.

        Returns:
            The means, bit-equal on all processes; a matrix that no process has samples of is missing.
        """
        parts = [like.new_zeros(n * (n + 1) // 2, dtype=torch.float64) for n in self.sizes.values()]
        counts = torch.zeros(len(parts), dtype=torch.float64, device=like.device)
        for i, key in enumerate(self.sizes):
            if key in moments:
                parts[i], counts[i] = moments[key].total, moments[key].n_samples
        message = torch.cat([counts, *parts])
        self.communicator.all_reduce(message)
        counts, *parts = torch.split(message, [len(counts), *(len(part) for part in parts)])
        return {
            key: unpack_triangle((part / count).to(like.dtype), n)
            for (key, n), part, count in zip(self.sizes.items(), parts, counts.tolist(), strict=True)
            if count
        }

    def share(self, matrices: dict[Key, Tensor], keys: Sequence[Key], like: Tensor) -> None:
        """Replace the matrices under `keys` by their owners', so that all processes hold the same bits."""
        if self.communicator.size == 1:
            return
        for owner in range(self.communicator.size):
            owned = [key for key in keys if self.owners[key] == owner]
            if not owned:
                continue
            sizes = [self.sizes[key] for key in owned]
            message = like.new_zeros(sum(n * (n + 1) // 2 for n in sizes))
            if owner == self.communicator.rank:
                message = torch.cat([pack_triangle(matrices[key]) for key in owned])
            self.communicator.broadcast(message, source=owner)
            triangles = torch.split(message, [n * (n + 1) // 2 for n in sizes])
            for key, triangle, n in zip(owned, triangles, sizes, strict=True):
                matrices[key] = unpack_triangle(triangle, n)
