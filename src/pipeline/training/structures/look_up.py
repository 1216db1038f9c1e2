"""Embeddings, and embeddings whose weight is that of another layer too."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from pipeline.training.kronecker import (
    linear_columns,
    occurrences,
    second_moment,
    split_damping,
)
from pipeline.training.structures.structure import Means, Shape, gradient_of, spread, working_type


@dataclass
class LookUp:
    """A ⊗ G of an embedding: inputs are one-hot, so A is exactly diagonal.

    Attributes:
        weight: The table.
        padding: Index of the padding row, which is not trained and whose look-ups do not count; None if there is none.
    """

    weight: Tensor
    padding: int | None = None

    @property
    def shapes(self) -> dict[str, Shape]:
        n_rows, n_features = self.weight.shape
        return {"A": (n_rows, 1, 1), "G": (n_features, n_features)}

    @property
    def parameters(self) -> list[Tensor]:
        return [self.weight]

    @property
    def n_dimensions(self) -> int:
        return 1

    @property
    def features_last(self) -> bool:
        return True

    @property
    def keeps_inputs(self) -> bool:
        return self.padding is not None

    def inputs(self, x: Tensor, n: int, output: Shape | None = None) -> Tensor:
        return spread(x, n).reshape(n, -1)

    def n_uses(self, inputs: Tensor) -> int:
        return inputs.numel() if self.padding is None else int((inputs != self.padding).sum())

    def input_moments(self, inputs: Tensor) -> dict[str, Tensor]:
        counts = occurrences(inputs, len(self.weight), working_type(self.weight))
        if self.padding is not None:
            counts[self.padding] = 0
        return {"A": counts}

    def gradient_moments(self, inputs: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        return {"G": second_moment(self._columns(inputs, gradient), bias=False)}

    def gradient(self) -> Tensor | None:
        return None if self.weight.grad is None else gradient_of(self.weight)

    def set_gradient(self, natural: Tensor) -> None:
        assert self.weight.grad is not None
        self.weight.grad.copy_(natural)

    def dampings(self, means: Means, damping: float) -> dict[str, float]:
        return dict(zip("AG", split_damping(means["A"], means["G"], damping), strict=True))

    def normalization(self, means: Means) -> float:
        return 1.0

    def _columns(self, inputs: Tensor, gradient: Tensor) -> Tensor:
        """Gradients at the outputs of look-ups as columns, samples last; zero where padding was looked up."""
        columns = linear_columns(gradient)
        return columns if self.padding is None else columns * (inputs.T.reshape(-1) != self.padding)

    def natural(self, gradient: Tensor, inverses: Mapping[str, Tensor]) -> Tensor:
        return gradient * inverses["A"].view(-1, 1) @ inverses["G"]


@dataclass
class TiedLookUp(LookUp):
    """A table that is looked up and also scores its rows, as the head of a language model does.

    A use contributes l l' ⊗ r r' with l over rows and r over features: in a look-up, l is one-hot and r the gradient at
    the output; in scoring, l is the gradient at the scores and r the input. Their sum is approximated by the separable
    matrix with the same partial traces, A ⊗ G / tr G with A = E sum |r|^2 diag(l l') and G = E sum |l|^2 r r', of which
    A is kept diagonal. Both statistics are sums over samples and need the backward pass.

    Attributes:
        scores: Whether this is the use that scores rows.
    """

    scores: bool = False

    @property
    def n_dimensions(self) -> int:
        return 2 if self.scores else 1

    @property
    def keeps_inputs(self) -> bool:
        return True

    def inputs(self, x: Tensor, n: int, output: Shape | None = None) -> Tensor:
        return linear_columns(spread(x, n)) if self.scores else super().inputs(x, n)

    def n_uses(self, inputs: Tensor) -> int:
        return inputs.shape[-1] if self.scores else super().n_uses(inputs)

    def input_moments(self, inputs: Tensor) -> dict[str, Tensor]:
        return {}

    def gradient_moments(self, inputs: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        if self.scores:
            columns = linear_columns(gradient)
            by_use = columns.square().sum(dim=0).sqrt()
            rows = columns.square() @ inputs.square().sum(dim=0)
            return {"A": rows.view(-1, 1, 1), "G": second_moment(inputs * by_use, bias=False)}
        columns = self._columns(inputs, gradient)
        rows = columns.new_zeros(len(self.weight))
        # Columns have samples last.
        rows.index_add_(0, inputs.T.reshape(-1), columns.square().sum(dim=0))
        return {"A": rows.view(-1, 1, 1), "G": second_moment(columns, bias=False)}

    def dampings(self, means: Means, damping: float) -> dict[str, float]:
        trace = means["G"] * self.weight.shape[1]
        for_A, for_G = split_damping(means["A"], means["G"] / trace if trace else 0.0, damping)
        return {"A": for_A, "G": for_G * trace if trace else for_G}

    def normalization(self, means: Means) -> float:
        trace = means["G"] * self.weight.shape[1]
        return 1 / trace if trace else 1.0
