"""Kernel ridge classification: one right-hand side for each class, and the class of largest score."""

import torch
from torch import Tensor

from pipeline.hmatrix.gaussian_process.kriging import predict
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.vectors import arrays_as_tensors


@arrays_as_tensors
def one_hot(labels: Tensor, n_classes: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return right-hand sides of kernel ridge classification, shape (n, n_classes): 1 for the class, centered."""
    return torch.nn.functional.one_hot(labels.long(), n_classes).to(dtype) - 1 / n_classes


@arrays_as_tensors
def predict_labels(kernel: Kernel, points: Tensor, weights: Tensor, new_points: Tensor) -> Tensor:
    """Return the class of largest score at new points; weights are the `kriging_weights` of `one_hot` labels."""
    return predict(kernel, points, weights, new_points).argmax(dim=1)
