"""The structure of all networks: a body that computes features and a linear head that scores classes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.models.initialization import he_normal_


class Classifier(nn.Module):
    """A body followed by one linear layer.

    Args:
        body: Maps (n, c, h, w) to (n, n_features).
        head: Maps features to one score per class; `n_features` and `n_classes` are its sizes.
    """

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def features(self, x: Tensor) -> Tensor:
        """Return the input of the head, shape (n, n_features)."""
        return self.body(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Return scores before the soft-max, shape (n, n_classes)."""
        return self.head(self.body(x))  # type: ignore[no-any-return]


def initialized(build: Callable[[], Classifier], generator: torch.Generator) -> Classifier:
    """Build a network without touching the global random state and initialize it from `generator`."""
    with torch.device("meta"):
        model = build()
    model.to_empty(device=generator.device)
    he_normal_(model, generator)
    return model
