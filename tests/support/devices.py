"""Devices for batched computations: a GPU if there is one, and a device without numbers.

Torch's meta device computes only shapes, so a test can tell which values leave it.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.hmatrix import exact_rows
from pipeline.hmatrix.batched import bucket, build, compression, interpolation, kernel, padding

BATCHES = torch.device("cuda" if torch.cuda.is_available() else "cpu")

_MODULES = (exact_rows, bucket, build, compression, interpolation, kernel)


class OnOneDevice(TorchDispatchMode):
    """Refuse operations that mix tensors of two devices, even where torch would copy silently."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        assert len({x.device for x in tensors}) <= 1, func
        return func(*args, **(kwargs or {}))


class Answers:
    """The values that the host read in one run, to be replayed in a run that computes none."""

    def __init__(self, monkeypatch):
        self.told, self.replay, self.real = [], None, padding.to_host
        for module in _MODULES:
            monkeypatch.setattr(module, "to_host", self)

    def __call__(self, values):
        if self.replay is None:
            self.told.append(self.real(values))
            return self.told[-1]
        assert values.device.type == "meta"
        answer = next(self.replay)
        assert answer.shape == tuple(values.shape)
        return answer

    def tell_again(self):
        self.replay = iter(self.told)
