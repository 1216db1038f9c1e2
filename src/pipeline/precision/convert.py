"""Convert a trained module: trace it, round it, and find what of it half precision may compute within a budget."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram

from pipeline.errors import ConfigError
from pipeline.precision.bias_correction import CORRECTION, bias_corrections
from pipeline.precision.calibration import check_calibration, few_of, observe
from pipeline.precision.execution import Execution
from pipeline.precision.plan import Layer, close, store_activations
from pipeline.precision.rounding import round_parameters
from pipeline.precision.routines import twin as twin_of
from pipeline.precision.selection import fewest, least_errors, trials, typical_routines, warn_of_float32
from pipeline.precision.trace import check_trace, trace
from pipeline.precision.verification import Budget, Verification, require_labels, verify


@dataclass(frozen=True)
class ConvertedNetwork:
    """A network in half precision.

    Attributes:
        layers: The plan.
        tensors: Its tensors as they are stored.
        parameters: The same before rounding.
        execution: The layers, packed.
        verification: What it loses on the calibration set.
    """

    layers: tuple[Layer, ...]
    tensors: Mapping[str, Tensor]
    parameters: Mapping[str, Tensor]
    execution: Execution
    verification: Verification


def converted(
    module: nn.Module | ExportedProgram,
    calibration: Tensor,
    labels: Tensor | None,
    budget: Budget,
    instruction_set: str | None,
) -> ConvertedNetwork:
    """Convert a module, as `HalfNetwork.convert` describes.

    Raises:
        TypeError: If calibration or labels are no torch tensor.
        LabelError: If labels are not one class for each prediction.
        ConfigError: If the module cannot be converted, or gives something else than numbers at float32.
    """
    check_calibration(calibration, labels)
    calibration = calibration.detach().cpu().float()
    one_by_one = isinstance(module, ExportedProgram)  # it takes the batch size of its capture
    if isinstance(module, ExportedProgram):
        _require_batch_of_one(module)
        module = module.module()
    layers, parameters = trace(module, calibration)
    if labels is not None:
        n_classes, *places = layers[-1].output_shape
        require_labels(labels, (len(calibration), *places), n_classes)
    rounded, half, single = round_parameters(layers, parameters)
    few = few_of(calibration, layers)
    check_trace(module, layers, parameters, few, one_by_one=one_by_one)
    twin = Execution(rounded, single, "fp32", instruction_set)
    observed = observe(rounded, twin, calibration)
    half |= bias_corrections(rounded, half, single, observed.given)
    planned = store_activations(rounded, observed.wide)
    tried = trials(planned, half, single, few, twin.instruction_set)
    exact = twin(calibration)
    _require_finite(exact, twin, calibration)

    def verified(
        layers: tuple[Layer, ...], tensors: Mapping[str, Tensor], packed: dict[Layer, Any]
    ) -> ConvertedNetwork:
        execution = Execution(layers, tensors, "fp16", instruction_set, packed)
        return ConvertedNetwork(
            layers, tensors, single, execution, verify(execution(calibration), exact, labels)
        )

    least = least_errors(planned, tried)
    at_once = {name for name, error in least.items() if error > budget.layer_error}
    order = sorted(least.keys() - at_once, key=lambda name: -least[name])
    opened, closed = (
        typical_routines(layers, tried, budget, twin.instruction_set)
        for layers in (planned, close(planned, set(least)))
    )
    found: dict[int, ConvertedNetwork] = {}
    packed: dict[Layer, Any] = {}

    def accepted(n: int) -> bool:
        """Whether it is within the budget with the `n` layers that add most error at float32."""
        if n not in found:
            names = at_once.union(order[:n])
            layers = tuple(
                shut if shut.name in names else one for one, shut in zip(opened, closed, strict=True)
            )
            tensors = half | {f"{of}.weight": single[f"{of}.weight"] for of in names}
            for of in names:  # their weights are not rounded
                del tensors[f"{of}.{CORRECTION}"]
            found[n] = verified(layers, tensors, packed)
        return found[n].verification.within(budget)

    n_closed = fewest(len(order), accepted)
    if n_closed is not None:
        result, is_half = found[n_closed], n_closed < len(order) or not least
    else:
        # Only the error of binary16 activations is left, so use the twin itself, on its general routines.
        layers = tuple(
            replace(one.in_single(), routine=twin_of(one.routine), rounding=None) for one in twin.layers
        )
        result, is_half = verified(layers, single, {}), False
        assert result.verification.within(budget)
    if not is_half:
        warn_of_float32(least, budget, found[0].verification if 0 in found else None, at_once)
    return result


def _require_batch_of_one(program: ExportedProgram) -> None:
    """Refuse a program that was captured with another batch and takes no other."""
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs:
            batch = next(iter(getattr(node.meta.get("val"), "shape", ())), 1)
            if isinstance(batch, int) and batch != 1:
                raise ConfigError(
                    f"the program was exported with a batch of {batch} and takes no other; export it with a batch of "
                    "one, or with a dynamic one (dynamic_shapes)"
                )


def _require_finite(exact: Tensor, twin: Execution, calibration: Tensor) -> None:
    """Refuse a network that gives no numbers at float32, which no budget can correct."""
    bad = ~exact.flatten(1).isfinite().all(dim=1)
    if not bad.any():
        return
    sample = calibration[bad][:1]
    steps = zip(twin.layers, twin.steps(sample), strict=True)
    strange = [layer.name for layer, (_, result, _) in steps if not result.isfinite().all()]
    first = strange[0] if strange else twin.layers[-1].name
    raise ConfigError(
        f"the network gives NaN or infinity at float32 for {int(bad.sum())} of {len(bad)} calibration inputs, first in "
        f"layer {first!r}; wanted finite numbers, so leave such inputs out, or look at the weights of that layer"
    )
