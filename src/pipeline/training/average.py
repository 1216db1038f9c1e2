"""The mean of a network's weights over steps."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The mean of all real and complex weights and buffers of a network over the steps that were added.

    Args:
        model: The network whose weights are averaged.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._means: dict[str, Tensor] = {}
        self.n_added = 0

    @torch.no_grad()
    def add(self) -> None:
        """Add the current weights to the mean."""
        self.n_added += 1
        for name, tensor in self._tensors():
            # A half-precision mean of hundreds of tensors would no longer change.
            tensor = tensor.float() if tensor.dtype.itemsize < 4 else tensor
            if name in self._means:
                self._means[name].lerp_(tensor, 1 / self.n_added)
            else:
                self._means[name] = tensor.clone()

    @torch.no_grad()
    def settle(self) -> None:
        """Give the network the mean; it keeps its weights if none were added."""
        for name, tensor in self._tensors():
            tensor.copy_(self._means.get(name, tensor))

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Give the network the mean within the context; afterwards its weights are restored bit for bit."""
        originals = {name: tensor.clone() for name, tensor in self._tensors()} if self._means else {}
        self.settle()
        try:
            yield
        finally:
            for name, tensor in self._tensors():
                tensor.copy_(originals.get(name, tensor))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the means by name, not copied; there are none before the first `add`."""
        return dict(self._means)

    def load_state_dict(self, means: Mapping[str, Tensor], n_added: int) -> None:
        """Restore the results of `state_dict` and `n_added`."""
        self._means = {name: tensor.clone() for name, tensor in means.items()}
        self.n_added = n_added

    def _tensors(self) -> list[tuple[str, Tensor]]:
        return [
            (name, tensor)
            for name, tensor in self._model.state_dict().items()
            # A module's `get_extra_state` may put anything there.
            if not name.endswith("_extra_state") and (tensor.is_floating_point() or tensor.is_complex())
        ]
