"""`HalfNetwork`: a trained network in half precision, with its plan, its weights and its float32 twin."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ArtifactError, ConfigError
from pipeline.precision.convert import check_range, round_weights, storable_in_half
from pipeline.precision.error import LayerError, layer_errors
from pipeline.precision.plan import FORMAT, Layer, store_activations
from pipeline.precision.roofline import Roofs
from pipeline.precision.routines import Execution, single_parameters
from pipeline.precision.timing import LayerTiming, time_layers
from pipeline.precision.trace import trace

CALIBRATION_SAMPLES = 256  # more tell no more about the range of the activations


class HalfNetwork:
    """A chain of layers with binary16 weights and activations and binary32 arithmetic.

    Made by `convert` from a torch module or by `from_plan` from what `plan` and `tensors` gave. Runs on one thread of
    the CPU; threads that call it at once take turns.

    Attributes:
        layers: The plan's layers, in order.
    """

    def __init__(
        self,
        layers: tuple[Layer, ...],
        half: Mapping[str, Tensor],
        single: Mapping[str, Tensor] | None,
        instruction_set: str | None,
    ) -> None:
        self.layers = layers
        self._half = dict(half)
        self._single = dict(single) if single is not None else single_parameters(layers, half)
        self._execution = Execution(layers, self._half, "fp16", instruction_set)
        self._twin: Execution | None = None

    @classmethod
    def convert(
        cls, module: nn.Module, calibration: Tensor, *, instruction_set: str | None = None
    ) -> "HalfNetwork":
        """Convert a trained module: trace it, fold normalization in float64, round each weight once.

        A channel whose weights leave the range of binary16 is stored times a power of two, which the float32 epilogue
        undoes. Activations are stored as binary16 unless the calibration shows that it would not hold them, then as
        float32; what exceeds the range later saturates and is counted in `n_saturated`.

        Args:
            module: A chain of Conv2d, BatchNorm, ReLU, pooling, Flatten, Linear and Dropout.
            calibration: Inputs like those to come, shape (n, channels, rows, columns), n >= 1; the first 256 are used.
            instruction_set: One of `instruction_sets()`; None for the best that the processor has.

        Raises:
            ConfigError: If a module is not supported, a parameter is not finite, or there is no calibration input.
        """
        if calibration.ndim < 2 or len(calibration) == 0:
            raise ConfigError(
                f"the calibration set has shape {tuple(calibration.shape)}; wanted at least one input to see the "
                "range of the activations"
            )
        traced, parameters = trace(module, calibration)
        half: dict[str, Tensor] = {}
        single: dict[str, Tensor] = {}
        rounded: list[Layer] = []
        for layer in traced:
            if layer.name in parameters:
                affine = parameters[layer.name]
                check_range(layer.name, affine.weight, affine.bias)
                stored, exponents, report = round_weights(affine.weight)
                single[f"{layer.name}.weight"] = affine.weight.float()
                half[f"{layer.name}.weight"] = stored
                half[f"{layer.name}.bias"] = single[f"{layer.name}.bias"] = affine.bias.float()
                layer = layer.with_rounding(exponents, report)
            rounded.append(layer)
        twin = Execution(rounded, single, "fp32", instruction_set)
        seen = twin.activations(calibration[:CALIBRATION_SAMPLES].cpu())
        wide = {
            layer.name for layer, result in zip(rounded, seen, strict=True) if not storable_in_half(result)
        }
        network = cls(store_activations(tuple(rounded), wide), half, single, instruction_set)
        network._twin = twin
        return network

    @classmethod
    def from_plan(
        cls, plan: Mapping[str, Any], tensors: Mapping[str, Tensor], *, instruction_set: str | None = None
    ) -> "HalfNetwork":
        """Build the network again from what `plan` and `tensors` gave.

        Its float32 twin then has the widened half-precision weights, since the others were not stored.

        Raises:
            ArtifactError: If the plan has another format, or was written for other tensors.
        """
        if plan.get("format") != FORMAT:
            raise ArtifactError(
                f"the plan has format {plan.get('format')!r}, wanted {FORMAT}; convert the network again"
            )
        layers = tuple(Layer.from_dict(document) for document in plan["layers"])
        for name, shape in _tensor_shapes(layers).items():
            found = tuple(tensors[name].shape) if name in tensors else "nothing"
            if found != shape:
                raise ArtifactError(
                    f"the plan wants a tensor {name!r} of shape {shape}, found {found}; "
                    "plan and tensors belong to different networks"
                )
        if plan["digest"] != _digest(tensors):
            raise ArtifactError(
                "the plan was written for other weights than these; convert the network again"
            )
        return cls(layers, tensors, None, instruction_set)

    def plan(self) -> dict[str, Any]:
        """The network without its weights, as JSON can hold it; `digest` names the weights that belong to it."""
        return {
            "format": FORMAT,
            "digest": _digest(self._half),
            "instruction_set": self.instruction_set,
            "layers": [layer.to_dict() for layer in self.layers],
        }

    def tensors(self) -> dict[str, Tensor]:
        """`NAME.weight`, float16, as torch orders it and without its scale, and `NAME.bias`, float32."""
        return dict(self._half)

    def float_twin(self) -> Execution:
        """The same plan at float32: folded, unrounded weights (if they are known) on routines from the same source."""
        if self._twin is None:
            self._twin = Execution(self.layers, self._single, "fp32", self.instruction_set)
        return self._twin

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the logits, float32 of shape (n, classes), for inputs of shape (n, channels, rows, columns)."""
        return self._execution(x)

    def features(self, x: Tensor) -> Tensor:
        """Compute what the last linear layer is given, float32 of shape (n, features)."""
        return self._execution.features(x)

    @property
    def execution(self) -> Execution:
        """The packed half-precision layers."""
        return self._execution

    @property
    def instruction_set(self) -> str:
        return self._execution.instruction_set

    @property
    def n_saturated(self) -> int:
        """How many activations so far were too large for binary16 and stored as +-65504."""
        return self._execution.n_saturated

    @property
    def n_bytes_fp16(self) -> int:
        """Bytes of all parameters as stored."""
        return sum(layer.n_bytes_fp16 for layer in self.layers)

    @property
    def n_bytes_fp32(self) -> int:
        """Bytes of all parameters in float32."""
        return sum(layer.n_bytes_fp32 for layer in self.layers)

    def layer_errors(self, x: Tensor) -> list[LayerError]:
        """Compare every layer's result with float64; see `pipeline.precision.error`."""
        return layer_errors(self.layers, self._single, self._execution, x)

    def time_layers(
        self, inputs: Tensor, batch_sizes: Sequence[int] = (1, 64), roofs: Roofs | None = None, **options: Any
    ) -> list[LayerTiming]:
        """Time every layer in half precision, float32 and torch; see `pipeline.precision.timing.time_layers`."""
        return time_layers(
            self._execution,
            self.float_twin(),
            self._single,
            inputs,
            batch_sizes=batch_sizes,
            roofs=roofs,
            **options,
        )


def _tensor_shapes(layers: Sequence[Layer]) -> dict[str, tuple[int, ...]]:
    """The tensors that belong to a plan."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        if layer.has_weights:
            shapes[f"{layer.name}.weight"] = layer.weight_shape
            shapes[f"{layer.name}.bias"] = layer.output_shape[:1]
    return shapes


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.ndim else b"")
    return digest.hexdigest()
