"""Tensors of any type and shape as bytes, for what passes bytes only."""

import torch
from torch import Tensor

_TYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.complex128,
    torch.complex64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)


def pack(tensor: Tensor) -> Tensor:
    """Return a tensor as bytes on its device: type, number of dimensions, shape, contents."""
    head = torch.tensor([_TYPES.index(tensor.dtype), tensor.ndim, *tensor.shape], device=tensor.device)
    # One number counts as contiguous whatever its stride, with which bytes cannot be told apart.
    flat = tensor.detach().resolve_conj().contiguous().as_strided((tensor.numel(),), (1,))
    return torch.cat([head.view(torch.uint8), flat.view(torch.uint8)])


def unpack(letter: Tensor) -> Tensor:
    """Return the tensor that `pack` has made bytes of."""
    kind, n_dimensions = letter[:16].clone().view(torch.int64).tolist()
    end = 16 + 8 * n_dimensions
    shape = letter[16:end].clone().view(torch.int64).tolist()
    return letter[end:].clone().view(_TYPES[kind]).reshape(shape)
