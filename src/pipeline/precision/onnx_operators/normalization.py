"""Normalization with given statistics, dropout at rest, and softmax."""

from torch import Tensor
from torch.nn import functional

from pipeline.precision.onnx_operators.table import Refused, operator


@operator("BatchNormalization")
def _batch_normalization(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    spatial: int = 1,
) -> Tensor:
    if training_mode or not spatial:
        raise Refused(
            "normalizes with statistics of the batch; wanted training_mode=0, so export it in evaluation mode"
        )
    return functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, epsilon)


@operator("InstanceNormalization")
def _instance_normalization(x: Tensor, weight: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return functional.group_norm(x, x.shape[1], weight, bias, epsilon)


@operator("GroupNormalization")
def _group_normalization(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    opset: int = 21,
) -> Tensor:
    if opset < 21:  # one weight for each group
        weight, bias = (part.repeat_interleave(x.shape[1] // num_groups) for part in (weight, bias))
    return functional.group_norm(x, num_groups, weight, bias, epsilon)


@operator("LayerNormalization")
def _layer_normalization(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    return functional.layer_norm(x, list(x.shape[axis:]), weight, bias, epsilon)


@operator("Dropout")
def _dropout(
    x: Tensor,
    amount: Tensor | None = None,
    training: Tensor | None = None,
    *,
    seed: int = 0,
    ratio: float = 0.5,
) -> Tensor:
    if training is not None and bool(training):
        raise Refused("drops numbers at random; wanted training_mode=false, so export it in evaluation mode")
    return x


@operator("Softmax")
def _softmax(x: Tensor, *, axis: int | None = None, opset: int = 13) -> Tensor:
    if opset >= 13:
        return x.softmax(-1 if axis is None else axis)
    return x.flatten(1 if axis is None else axis % x.ndim).softmax(-1).reshape(x.shape)


@operator("LogSoftmax")
def _log_softmax(x: Tensor, *, axis: int = -1, opset: int = 13) -> Tensor:
    if opset < 13 and axis not in (-1, x.ndim - 1):
        raise Refused("is a LogSoftmax of an operator set before 13 over several axes; wanted the last one")
    return x.log_softmax(axis)
