"""Fuse a spelled-out hard swish, x min(max(x + 3, 0), 6) / 6, into the layer that gives x.

Exporters of older operator sets write it as an addition, a bound, a product and a quotient: four passes over memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from pipeline.precision.plan import Layer
from pipeline.precision.tracer import Affine, Index, Parameters

WITH_FUNCTIONS = ("conv2d", "linear", "add")  # kinds whose routines apply a function at no cost


def fuse_hard_swish(
    layers: Sequence[Layer], parameters: Mapping[str, Affine | Index]
) -> tuple[tuple[Layer, ...], Parameters]:
    """Return layers that compute the same, with each spelled-out hard swish as a function.

    Args:
        layers: The network's layers in the order of their execution; the last one gives its result.
        parameters: The parameters of each layer that has some, by its name.
    """
    fused = list(layers)
    for name in [layer.name for layer in layers]:
        last = next((layer for layer in fused if layer.name == name), None)
        spelled = None if last is None else _spelled(last, fused, parameters)
        if last is not None and spelled is not None:
            source, others = spelled
            function = Layer(
                last.name, "activation", source, last.input_shape, last.output_shape, function="hard_swish"
            )
            fused = [function if layer is last else layer for layer in fused if layer not in others]
            fused = _into_source(function, fused)
    names = {layer.name for layer in fused}
    return tuple(fused), {name: own for name, own in parameters.items() if name in names}


def _spelled(
    last: Layer, layers: Sequence[Layer], parameters: Mapping[str, Affine | Index]
) -> tuple[str, list[Layer]] | None:
    """Return the source of x and the layers between, if `last` ends a hard swish of x; else None."""
    by_name = {layer.name: layer for layer in layers}

    def only_reader(layer: Layer | None, reader: Layer) -> bool:
        return layer is not None and [one for one in layers if layer.name in one.sources] == [reader]

    def plain_product(layer: Layer | None) -> bool:
        return layer is not None and layer.kind == "multiply" and not layer.relu and not layer.function

    sixth = _is_affine(last, parameters, 1 / 6, 0.0) and not last.function
    product = by_name.get(last.source) if sixth else last
    if not plain_product(product) or (sixth and not only_reader(product, last)):
        return None
    assert product is not None
    assert product.addend is not None
    for x, factor in ((product.source, product.addend), (product.addend, product.source)):
        path, bound = [product] if sixth else [], by_name.get(factor)
        reader = product
        if (
            not sixth
            and bound is not None
            and _is_affine(bound, parameters, 1 / 6, 0.0)
            and not bound.function
        ):
            if not only_reader(bound, product):
                continue
            path, reader, bound = [bound], bound, by_name.get(bound.source)
        elif not sixth:
            continue
        if bound is None or not only_reader(bound, reader) or bound.source != x:
            continue
        if (bound.function, bound.constants) == ("clip", (0.0, 6.0)) and _is_affine(
            bound, parameters, 1.0, 3.0
        ):
            return x, [*path, bound]
    return None


def _is_affine(layer: Layer, parameters: Mapping[str, Affine | Index], factor: float, shift: float) -> bool:
    """Whether a layer, apart from its function, multiplies each number by `factor` and adds `shift`."""
    own = parameters.get(layer.name)
    if layer.kind != "conv2d" or not isinstance(own, Affine) or layer.relu or layer.addend is not None:
        return False
    geometry = layer.geometry
    assert geometry is not None
    if (
        geometry.kernel != (1, 1)
        or geometry.groups != len(own.weight)
        or layer.input_shape != layer.output_shape
    ):
        return False
    wanted = torch.tensor([factor, shift], dtype=torch.float64)
    return all(
        bool(torch.isclose(part, constant, rtol=1e-7, atol=0.0).all())
        for part, constant in zip((own.weight, own.bias), wanted, strict=True)
    )


def _into_source(function: Layer, layers: list[Layer]) -> list[Layer]:
    """Let the layer that gives the function's input apply the function, if nothing else reads this input."""
    place = next((place for place, layer in enumerate(layers) if layer.name == function.source), None)
    if place is None:
        return layers
    before = layers[place]
    read_by_others = [layer for layer in layers if before.name in layer.sources] != [function]
    is_result = layers[-1] is function and layers[-2] is not before
    if read_by_others or is_result or before.relu or before.function or before.kind not in WITH_FUNCTIONS:
        return layers
    layers[place] = replace(before, function="hard_swish")
    read = {function.name: before.name}
    return [
        replace(
            layer,
            source=read.get(layer.source, layer.source),
            addend=None if layer.addend is None else read.get(layer.addend, layer.addend),
        )
        for layer in layers
        if layer is not function
    ]
