"""Tensors of any type and shape as bytes, for transports of bytes only; and heads of tensors that are to be joined."""

from collections.abc import Iterable

import torch
from torch import Tensor

_TYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex128, torch.complex64,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


def pack(tensor: Tensor) -> Tensor:
    """Return a tensor as bytes on its device: type, number of dimensions, shape, contents."""
    head = torch.tensor([_TYPES.index(tensor.dtype), tensor.ndim, *tensor.shape], device=tensor.device)
    # A single number counts as contiguous whatever its stride, and then cannot be viewed as bytes.
    flat = tensor.detach().resolve_conj().contiguous().as_strided((tensor.numel(),), (1,))
    return torch.cat([head.view(torch.uint8), flat.view(torch.uint8)])


def unpack(letter: Tensor) -> Tensor:
    """Return the tensor that `pack` turned into bytes."""
    kind, n_dimensions = letter[:16].clone().view(torch.int64).tolist()
    end = 16 + 8 * n_dimensions
    shape = letter[16:end].clone().view(torch.int64).tolist()
    return letter[end:].clone().view(_TYPES[kind]).reshape(shape)


def head(tensor: Tensor) -> int:
    """Return one number that encodes the type of a tensor and its length."""
    return len(tensor) * len(_TYPES) + _TYPES.index(tensor.dtype)


def lengths_of(heads: Iterable[int]) -> list[int]:
    """Return the lengths of the processes' tensors from their heads; TypeError unless all have one type."""
    lengths, kinds = zip(*(divmod(int(one), len(_TYPES)) for one in heads), strict=True)
    for rank, kind in enumerate(kinds):
        if kind != kinds[0]:
            raise TypeError(
                f"all_gather: process {rank} passes a tensor of {_TYPES[kind]}, process 0 one of {_TYPES[kinds[0]]}; "
                "pass the same type on all"
            )
    return list(lengths)
