"""Attention as one operator, which exporters write from operator set 23 on, and the triangles of its masks."""

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.precision.onnx_operators.table import Refused, operator


@operator("Trilu")
def _triangle(x: Tensor, k: Tensor | None = None, *, upper: int = 1) -> Tensor:
    diagonal = 0 if k is None else int(k)
    ones = torch.ones(x.shape[-2:], dtype=torch.bool)
    kept = ones.triu(diagonal) if upper else ones.tril(diagonal)
    return torch.where(kept, x, torch.zeros((), dtype=x.dtype))


@operator("Attention")
def _attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    *earlier: Tensor | None,
    is_causal: int = 0,
    q_num_heads: int = 0,
    kv_num_heads: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int = 1,
    qk_matmul_output_mode: int = 0,
) -> Tensor:
    if any(part is not None for part in earlier):
        raise Refused("reads keys and values of earlier calls, or lengths; wanted what it computes itself")
    if softcap:
        raise Refused(f"has softcap={softcap:g}; wanted none")
    flat = queries.ndim == 3  # the heads beside each other
    if flat:
        queries = torch.unflatten(queries, -1, (q_num_heads, -1)).transpose(1, 2)
        keys, values = (
            torch.unflatten(part, -1, (kv_num_heads, -1)).transpose(1, 2) for part in (keys, values)
        )
    shared = queries.shape[1] // keys.shape[1]  # heads that share keys and values
    if shared > 1:
        keys, values = (part.repeat_interleave(shared, dim=1) for part in (keys, values))
    if is_causal:
        past = torch.ones(queries.shape[2], keys.shape[2], dtype=torch.bool).tril()
        if mask is None or mask.dtype == torch.bool:
            mask = past if mask is None else mask & past
        else:
            mask = mask.masked_fill(~past, -torch.inf)
    found = functional.scaled_dot_product_attention(queries, keys, values, mask, scale=scale)
    return found.transpose(1, 2).flatten(2) if flat else found
