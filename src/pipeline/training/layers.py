"""Which layers of a network K-FAC preconditions, and how: a row of `STRUCTURES` for each kind of layer.

A layer is a weight, perhaps with a bias. Most layers are modules of their own, whose calls are watched. Attention and
recurrences hold several weights and apply them by functions; `functions` watches these functions. Modules that share a
weight are one layer, with the uses of all.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from torch import Tensor, nn
from torch.nn.utils import parametrize

from pipeline.training.structures import (
    BatchNorm,
    Convolution,
    InstanceNorm,
    KroneckerProduct,
    LookUp,
    Structure,
    TiedLookUp,
    Transposed,
    UnitWise,
    working_type,
)

Build = Callable[[bool], Structure]  # whether the bias takes part


@dataclass(frozen=True)
class PossibleLayer:
    """A weight that could be a layer.

    Attributes:
        name: Name of the module, followed by that of the weight if the module holds several.
        module: The module that is called, or that calls functions.
        weight: The weight.
        bias: The bias that is added to the weight's product, or None.
        build: Makes the structure.
        by_function: Whether the weight is applied by a function that is not a call of the module.
    """

    name: str
    module: nn.Module
    weight: Tensor
    bias: Tensor | None
    build: Build
    by_function: bool = False


@dataclass
class Layers:
    """The layers of a network that are preconditioned.

    Attributes:
        structures: Structures by the name of the layer; a layer of several modules has the name of the first.
        calls: Modules whose calls are uses of a layer, each with the layer's name and the structure of the use.
        functions: Layer's name and structure of the use for weights that functions apply, by the weight's `id`.
        by_function: Whether some weights are applied by functions only.
        holders: The modules whose weights functions apply.
        reasons: Why a parameter that one might expect to be preconditioned is not, by the parameter's name.
    """

    structures: dict[str, Structure] = field(default_factory=dict)
    calls: list[tuple[nn.Module, str, Structure]] = field(default_factory=list)
    functions: dict[int, tuple[str, Structure]] = field(default_factory=dict)
    by_function: bool = False
    holders: list[nn.Module] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)


def find_layers(
    model: nn.Module, *, block_size: int, trains: Callable[[Tensor], bool] = lambda _: True
) -> Layers:
    """Find the layers of a network that are preconditioned.

    Weights are left out if they are frozen, of an unknown kind, or shared by layers of kinds that cannot be one layer.

    Args:
        model: The network.
        block_size: Largest number of rows of a block of a factor.
        trains: Whether the optimizer steps a parameter that is not frozen; others are left alone as frozen ones are.

    Raises:
        ValueError: If layers are in single and in double precision.
    """
    found = Layers()
    by_weight: dict[int, list[PossibleLayer]] = {}
    for name, module in model.named_modules():
        for candidate in (_trained(each, trains) for each in candidates(name, module, block_size)):
            if candidate is None:
                continue
            by_weight.setdefault(id(candidate.weight), []).append(candidate)
    for group in by_weight.values():
        _add(group, found)
    types = {working_type(s.parameters[0]): name for name, s in found.structures.items()}
    if len(types) > 1:
        listed = " and ".join(
            f"{str(dtype).removeprefix('torch.')} ({name})" for dtype, name in types.items()
        )
        raise ValueError(
            f"K-FAC computes in one type, but layers have {listed}; convert the network by float() or double(), or "
            "freeze the layers of one type while K-FAC is attached"
        )
    names = {id(p): name for name, p in model.named_parameters()}
    for module in model.modules():
        for p in module._parameters.values():
            if p is not None and p.requires_grad and trains(p) and (why := _unusual(module, p)):
                found.reasons.setdefault(str(id(p)), why)
    found.reasons = {names[int(key)]: why for key, why in found.reasons.items() if int(key) in names}
    return found


def _trained(candidate: PossibleLayer, trains: Callable[[Tensor], bool]) -> PossibleLayer | None:
    """Return what the optimizer steps of a possible layer: all of it, the layer without its bias, or nothing."""
    parameters = [p for p in (candidate.weight, candidate.bias) if p is not None and p.requires_grad]
    if all(trains(p) for p in parameters):
        return candidate
    if isinstance(candidate.module, UNIT_WISE) or not trains(candidate.weight):
        return None
    return replace(candidate, bias=None, build=lambda _: candidate.build(False))


def _add(group: list[PossibleLayer], found: Layers) -> None:
    """Make one layer of the modules that share a weight."""
    first = group[0]
    # Different biases cannot be a column of the common matrix; they are left out.
    shared_bias = all(candidate.bias is first.bias for candidate in group)
    structures = [candidate.build(shared_bias) for candidate in group]
    kinds = {type(structure) for structure in structures}
    if kinds == {LookUp, KroneckerProduct}:
        structures = [
            TiedLookUp(first.weight, getattr(s, "padding", None), scores=type(s) is KroneckerProduct)
            for s in structures
        ]
    elif len(kinds) > 1 or any(s.shapes != structures[0].shapes for s in structures):
        others = ", ".join(candidate.name for candidate in group)
        found.reasons[str(id(first.weight))] = f"layers of different kinds share it: {others}"
        return
    if not structures[0].parameters:
        return  # a frozen scale with shifts of its own
    found.structures[first.name] = structures[0]
    for candidate, structure in zip(group, structures, strict=True):
        if candidate.by_function:
            found.by_function = True
            if candidate.module not in found.holders:
                found.holders.append(candidate.module)
        else:
            found.calls.append((candidate.module, first.name, structure))
        if isinstance(structure, KroneckerProduct | TiedLookUp) and candidate.weight.dim() == 2:
            scores = not isinstance(structure, TiedLookUp) or structure.scores
            if scores:
                found.functions[id(candidate.weight)] = (first.name, structure)


def candidates(name: str, module: nn.Module, block_size: int) -> Iterator[PossibleLayer]:
    """Yield the weights of a module itself, not of its children, that are of a known kind and trained."""
    if parametrize.is_parametrized(module) or any(
        p is not None and p.is_complex() for p in module._parameters.values()
    ):
        return  # its weight is computed and not a parameter, or is complex
    if isinstance(module, nn.MultiheadAttention):
        yield from _attention(name, module, block_size)
        return
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        yield from _recurrence(name, module, block_size)
        return
    kind = next((kind for kind in STRUCTURES if isinstance(module, kind)), None)
    weight = module._parameters.get("weight")
    bias = module._parameters.get("bias")
    if kind is None or weight is None:
        return
    if isinstance(module, UNIT_WISE):
        if any(p is not None and p.requires_grad for p in (weight, bias)) and _computes_as(module, kind):
            yield PossibleLayer(name, module, weight, bias, partial(UnitWise, module))
        return
    if not weight.requires_grad or nn.parameter.is_lazy(weight):
        return
    bias = bias if bias is not None and bias.requires_grad else None
    # A subclass may compute something else; the weight of a linear layer is then watched where `linear` applies it.
    own = _computes_as(module, kind)
    if not own and kind is not nn.Linear:
        return
    build = STRUCTURES[kind](module, block_size)
    if build is not None:
        yield PossibleLayer(name, module, weight, bias, partial(_with_bias, build, bias), by_function=not own)


def _unusual(module: nn.Module, parameter: Tensor) -> str | None:
    """Return what keeps a parameter from being preconditioned that others of its kind do not have; None if nothing."""
    if parameter.is_complex():
        return "it is complex"
    if nn.parameter.is_lazy(parameter):
        return "its shape is not known yet; call the network once before"
    if isinstance(module, nn.Embedding) and _of_embedding(module, 0) is None:
        return "its embedding is sparse, bounded by max_norm or scaled by frequency"
    if isinstance(module, nn.RNNBase) and module.proj_size:
        return "its recurrence projects the states (proj_size)"
    if isinstance(module, parametrize.ParametrizationList):
        return "the layer's weight is computed from it by a parametrization"
    kind = next((kind for kind in STRUCTURES if isinstance(module, kind)), None)
    if kind is not None and kind is not nn.Linear and not _computes_as(module, kind):
        return f"{type(module).__name__} has a forward method of its own, unlike {kind.__name__}"
    if kind is None and parameter.dim() > 1 and not isinstance(module, _BY_FUNCTIONS):
        return f"{type(module).__name__} is no kind of layer that K-FAC knows"
    return None


def _with_bias(
    build: Callable[[Tensor | None], Structure], bias: Tensor | None, takes_part: bool
) -> Structure:
    return build(bias if takes_part else None)


def _computes_as(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module of a subclass, or one with a `forward` of its own, computes what its base does."""
    methods = ("forward", "_conv_forward", "_check_input_dim")
    return not any(method in vars(module) for method in methods) and all(
        getattr(type(module), method, None) is getattr(kind, method, None) or method == "_check_input_dim"
        for method in methods
    )


def _linear(weight: Tensor, block_size: int, parts: int = 1) -> Callable[[Tensor | None], Structure]:
    return lambda bias: KroneckerProduct(weight, bias, block_size, parts=parts)


def _attention(name: str, module: nn.MultiheadAttention, block_size: int) -> Iterator[PossibleLayer]:
    """Yield the projections to queries, keys and values; the output projection is a linear layer of its own."""
    dot = f"{name}." if name else ""
    weight, bias = module._parameters["in_proj_weight"], module._parameters["in_proj_bias"]
    bias = bias if bias is not None and bias.requires_grad else None
    if weight is not None:
        if weight.requires_grad:
            build = partial(_with_bias, _linear(weight, block_size, parts=3), bias)
            yield PossibleLayer(f"{dot}in_proj", module, weight, bias, build, by_function=True)
        return
    for projection in ("q_proj", "k_proj", "v_proj"):
        weight = getattr(module, f"{projection}_weight")
        if weight.requires_grad:
            # Their biases are parts of one parameter, which is left out.
            build = partial(_with_bias, _linear(weight, block_size), None)
            yield PossibleLayer(f"{dot}{projection}", module, weight, None, build, by_function=True)


def _recurrence(name: str, module: nn.RNNBase | nn.RNNCellBase, block_size: int) -> Iterator[PossibleLayer]:
    """Yield the weights of the inputs and of the states, each with a block of G for every gate."""
    dot = f"{name}." if name else ""
    if getattr(module, "proj_size", 0):
        return
    cells = {"LSTM": nn.LSTMCell, "GRU": nn.GRUCell}
    mode = getattr(module, "mode", None) or next(
        (m for m, cell in cells.items() if isinstance(module, cell)), ""
    )
    parts = {"LSTM": 4, "GRU": 3}.get(mode, 1)
    for key, weight in module.named_parameters(recurse=False):
        if not key.startswith("weight") or not weight.requires_grad:
            continue
        bias = module._parameters.get(key.replace("weight", "bias"))
        bias = bias if bias is not None and bias.requires_grad else None
        build = partial(_with_bias, _linear(weight, block_size, parts), bias)
        yield PossibleLayer(
            f"{dot}{key.removeprefix('weight_')}", module, weight, bias, build, by_function=True
        )


def structure_of(layer: nn.Module, *, block_size: int) -> Structure | None:
    """Return the structure of a layer with one weight; None if the layer is unknown, frozen or unusual."""
    found = list(candidates("", layer, block_size))
    return found[0].build(True) if len(found) == 1 and not found[0].by_function else None


MakeBuild = Callable[[nn.Module, int], Callable[[Tensor | None], Structure] | None]


def _of_embedding(layer: nn.Module, block_size: int) -> Callable[[Tensor | None], Structure] | None:
    assert isinstance(layer, nn.Embedding)
    plain = not layer.sparse and not layer.scale_grad_by_freq and layer.max_norm is None
    return (lambda _: LookUp(layer.weight, layer.padding_idx)) if plain else None


def _of_linear(layer: nn.Module, block_size: int) -> Callable[[Tensor | None], Structure]:
    assert isinstance(layer, nn.Linear)
    return _linear(layer.weight, block_size)


def _of_convolution(layer: nn.Module, block_size: int) -> Callable[[Tensor | None], Structure]:
    assert isinstance(layer, Convolution | Transposed)
    return lambda bias: KroneckerProduct(layer.weight, bias, block_size, convolution=layer)


def _of_normalization(layer: nn.Module, block_size: int) -> Callable[[Tensor | None], Structure]:
    assert isinstance(layer, UNIT_WISE)
    return lambda _: UnitWise(layer)


UNIT_WISE = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, *BatchNorm.__args__, *InstanceNorm.__args__)

_BY_FUNCTIONS = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)
STRUCTURES: dict[type[nn.Module], MakeBuild] = {
    nn.Linear: _of_linear,
    nn.Conv1d: _of_convolution,
    nn.Conv2d: _of_convolution,
    nn.Conv3d: _of_convolution,
    nn.ConvTranspose1d: _of_convolution,
    nn.ConvTranspose2d: _of_convolution,
    nn.ConvTranspose3d: _of_convolution,
    nn.Embedding: _of_embedding,
    **dict.fromkeys(UNIT_WISE, _of_normalization),
}
