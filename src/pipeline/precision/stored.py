"""Checks that a stored plan and its tensors belong together."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from pipeline.errors import ArtifactError
from pipeline.precision.bias_correction import CORRECTION
from pipeline.precision.error import UNIT_SINGLE, relative_error
from pipeline.precision.plan import FORMAT, FUNCTIONS, INPUT, Kind, Layer
from pipeline.precision.rounding import widen


def read_layers(plan: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[Layer, ...]:
    """Return the plan's layers after checking that these are its tensors.

    Raises:
        ArtifactError: If the plan has another format, or was written for other tensors.
    """
    if not isinstance(plan, Mapping):
        raise ArtifactError(f"the plan is a {type(plan).__name__}; wanted a result of `HalfNetwork.plan`")
    if plan.get("format") != FORMAT:
        raise ArtifactError(
            f"the plan has format {plan.get('format')!r}, wanted {FORMAT}; convert the network again"
        )
    try:
        layers = tuple(Layer.from_dict(document) for document in plan["layers"])
        _check_order(layers)
        _check_shapes(layers, tensors)
    except (KeyError, TypeError, AttributeError, IndexError, AssertionError) as failure:
        raise ArtifactError(
            f"the plan cannot be read ({type(failure).__name__}: {failure}); convert the network again"
        ) from failure
    if plan.get("digest") != digest_of(tensors):
        raise ArtifactError("the plan was written for other weights than these; convert the network again")
    return layers


def check_complete(
    layers: Sequence[Layer], tensors: Mapping[str, Tensor], complete: Mapping[str, Tensor]
) -> None:
    """Refuse parameters that were not rounded to the stored ones.

    The plan holds how much rounding changed, summed over all weights of a layer; other weights would give another
    figure. A bias is not rounded.

    Raises:
        ArtifactError: Naming the layer.
    """
    _check_shapes(layers, complete)
    for layer in layers:
        if not layer.has_weights:
            continue
        stored = widen(tensors[f"{layer.name}.weight"], layer.scale_exponents)
        found = relative_error(stored, complete[f"{layer.name}.weight"])
        wanted = layer.rounding.relative_error if layer.rounding is not None else 0.0
        # The plan's figure is that of float64 weights, and these are rounded to float32.
        if abs(found - wanted) > 2 * UNIT_SINGLE:
            raise ArtifactError(
                f"layer {layer.name!r}: the stored weights differ from the complete ones by {found:.3g}, but by "
                f"{wanted:.3g} in the plan; they belong to different networks, so convert the network again"
            )
        if not torch.equal(tensors[f"{layer.name}.bias"], complete[f"{layer.name}.bias"]):
            raise ArtifactError(
                f"layer {layer.name!r}: the stored bias differs from the complete one; they belong to different "
                "networks, so convert the network again"
            )


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.ndim else b"")
    return digest.hexdigest()


def _check_order(layers: Sequence[Layer]) -> None:
    """Refuse a plan without layers, unknown layers, and layers that read later results."""
    if not layers:
        raise ArtifactError("the plan has no layers; convert the network again")
    known = {INPUT}
    for layer in layers:
        if layer.kind not in get_args(Kind):
            raise ArtifactError(f"the plan's layer {layer.name!r} is of an unknown kind {layer.kind!r}")
        if layer.function not in ("", *FUNCTIONS):
            raise ArtifactError(f"the plan's layer {layer.name!r} has an unknown function {layer.function!r}")
        for source in layer.sources:
            if source not in known:
                raise ArtifactError(
                    f"the plan's layer {layer.name!r} reads {source!r}, which no layer before it gives"
                )
        known.add(layer.name)


def _check_shapes(layers: Sequence[Layer], tensors: Mapping[str, Tensor]) -> None:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        shapes |= {f"{layer.name}.{part}": shape for part, shape in layer.tensor_shapes.items()}
        if (
            layer.has_weights and f"{layer.name}.{CORRECTION}" in tensors
        ):  # plans of earlier versions have none
            shapes[f"{layer.name}.{CORRECTION}"] = (2, layer.output_shape[0])
    for name, shape in shapes.items():
        found = tuple(tensors[name].shape) if name in tensors else "nothing"
        if found != shape:
            raise ArtifactError(
                f"the plan wants a tensor {name!r} of shape {shape}, found {found}; "
                "plan and tensors belong to different networks"
            )
