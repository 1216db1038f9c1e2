"""`HalfNetwork`: a trained network in half precision, with its plan, its weights and its float32 twin."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from pipeline.precision.calibration import few_of
from pipeline.precision.choice import choose, measure
from pipeline.precision.convert import converted
from pipeline.precision.error import LayerError, layer_errors
from pipeline.precision.execution import Execution
from pipeline.precision.layer_timing import LayerTiming
from pipeline.precision.plan import FORMAT, Layer
from pipeline.precision.roofline import Roofs
from pipeline.precision.routines import all_routines, instruction_sets, single_parameters
from pipeline.precision.sampling import Sampling
from pipeline.precision.selection import Candidate, trials
from pipeline.precision.stored import check_complete, digest_of, read_layers
from pipeline.precision.timing import time_layers
from pipeline.precision.torch_state import plain_torch
from pipeline.precision.verification import Budget, Verification, verify, warn_of_hidden_loss


@dataclass(frozen=True)
class Selection:
    """What came out of choosing routines by measurement.

    Attributes:
        network: The network with the chosen routines.
        batch: The batch size that they were chosen for.
        candidates: Seconds and error of what there was to choose from, by layer; the first is the general float32 one.
        n_moves: How many of `n_possible` moves away from float32 the budget allows. It is 0 also where the budget does
            not even allow float32 routines on the weights as stored, but the plan's own routines, which are then kept.
        verification: What the whole network loses on the samples.
    """

    network: "HalfNetwork"
    batch: int
    candidates: Mapping[str, Sequence[Candidate]]
    n_moves: int
    n_possible: int
    verification: Verification

    def rows(self) -> list[dict[str, Any]]:
        """What there was to choose from, as a table."""
        chosen = {layer.name: layer.routine for layer in self.network.layers}
        return [
            {
                "layer": name,
                "batch": self.batch,
                "chosen": candidate.routine == chosen[name],
                **asdict(candidate),
            }
            for name, of_layer in self.candidates.items()
            for candidate in of_layer
        ]


class HalfNetwork:
    """A network with binary16 weights and activations and binary32 arithmetic.

    Made by `convert` from a torch module or by `from_plan` from what `plan` and `tensors` gave. Runs on the CPU;
    threads that call it at once take turns.

    Attributes:
        layers: The plan's layers, in order.
    """

    @plain_torch()
    def __init__(
        self,
        layers: tuple[Layer, ...],
        half: Mapping[str, Tensor],
        single: Mapping[str, Tensor] | None,
        instruction_set: str | None,
        packed: dict[Layer, Any] | None = None,
    ) -> None:
        self.layers = layers
        self._half = dict(half)
        self._single = dict(single) if single is not None else single_parameters(layers, half)
        self._execution = Execution(layers, self._half, "fp16", instruction_set, packed)
        self._twin: Execution | None = None
        self._warned = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles hold the plan and its tensors; they are packed anew, for the processor at hand."""
        return _unpickled, (self.layers, self._half, self._single, self.instruction_set)

    @classmethod
    @plain_torch()
    def convert(
        cls,
        module: nn.Module | ExportedProgram,
        calibration: Tensor,
        labels: Tensor | None = None,
        *,
        budget: Budget | None = None,
        instruction_set: str | None = None,
    ) -> "HalfNetwork":
        """Convert a trained module: trace it, fold normalization in float64, round each weight once.

        A channel whose weights leave the range of binary16 is stored times a power of two, which the float32 epilogue
        undoes. Activations are stored as binary16 unless the calibration shows that it would not hold them, then as
        float32; what exceeds the range later saturates and is counted in `n_saturated`.

        Routines are those that a typical processor runs fastest among those whose error fits: the same input gives the
        same network again. `choose_routines` measures instead. Where the budget is exceeded, as many of the layers that
        add most error go back to float32 weights as it takes, by bisection, and if that is not enough, activations
        and routines do so too. One that ends at float32 altogether is warned of, with the budget to change it.

        Args:
            module: Operators as `operators.SUPPORTED` lists them, with one input and one output; a program of
                `torch.export.export` if it takes a batch of one.
            calibration: Inputs like those to come, shape (n, channels, rows, columns), n >= 1; ranges are those of the
                first 256.
            labels: Their classes, shape (n,), for the accuracy; without them only errors count.
            budget: What half precision may cost.
            instruction_set: One of `instruction_sets()`; None for the best that the processor has.

        Raises:
            TypeError: If calibration or labels are no torch tensor.
            LabelError: If labels are not one class for each prediction.
            ConfigError: If a module is not supported or its layers compute something else than itself, a parameter is
                not finite, there is no calibration input, or results at float32 are not finite.
        """
        found = converted(module, calibration, labels, budget or Budget(), instruction_set)
        packed = dict(zip(found.execution.layers, found.execution.native, strict=True))
        network = cls(found.layers, found.tensors, found.parameters, instruction_set, packed)
        if found.execution.n_saturated:
            network._warn_of_saturation(calibration.float(), stacklevel=3)
        warn_of_hidden_loss(found.verification, stacklevel=3)
        return network

    @classmethod
    def from_plan(
        cls,
        plan: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        complete: Mapping[str, Tensor] | None = None,
        *,
        instruction_set: str | None = None,
    ) -> "HalfNetwork":
        """Build the network again from what `plan` and `tensors` gave, and `parameters`, where they were kept.

        Without these its float32 twin has the widened half-precision weights, so that no error includes what rounding
        them did. Warns of layers whose routine this processor or instruction set does not have and which get another.

        Raises:
            ArtifactError: If the plan has another format, or was written for other tensors.
        """
        layers = read_layers(plan, tensors)
        if complete is not None:
            check_complete(layers, tensors, complete)
        network = cls(layers, tensors, complete, instruction_set)
        replaced = [
            f"{planned.name}: {running.routine} for {planned.routine}"
            for planned, running in zip(layers, network.execution.layers, strict=True)
            if planned.routine not in ("", running.routine)
        ]
        if replaced:
            warnings.warn(
                f"{network.instruction_set} runs other routines than the plan says ({'; '.join(replaced)}), with other "
                "rounding errors; choose_routines chooses anew",
                stacklevel=2,
            )
        return network

    def __repr__(self) -> str:
        sizes = f"{self.n_bytes_fp16 / 1e3:.1f} kB instead of {self.n_bytes_fp32 / 1e3:.1f} kB"
        return f"HalfNetwork({len(self.layers)} layers on {self.instruction_set}, {sizes})"

    def plan(self) -> dict[str, Any]:
        """The network without its weights, as JSON can hold it; `digest` names the weights that belong to it."""
        return {
            "format": FORMAT,
            "digest": digest_of(self._half),
            "layers": [layer.to_dict() for layer in self.layers],
        }

    def tensors(self) -> dict[str, Tensor]:
        """`NAME.weight`, as torch orders it, without its scale, float16 unless planned otherwise, and `NAME.bias`.

        `NAME.bias_correction` is what the bias makes up for; see `pipeline.precision.bias_correction`.
        """
        return dict(self._half)

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """`NAME.weight` and `NAME.bias`, float32: as they were before rounding, or else what the stored stand for."""
        return self._single

    @plain_torch()
    def float_twin(self) -> Execution:
        """Return the plan at float32: folded, unrounded weights (if they are known), routines from the same source."""
        if self._twin is None:
            self._twin = Execution(self.layers, self._single, "fp32", self.instruction_set)
        return self._twin

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the logits, float32 of shape (n, classes), for inputs of shape (n, channels, rows, columns)."""
        before = self._execution.n_saturated
        result = self._execution(x)
        if self._execution.n_saturated > before and not self._warned:
            self._warn_of_saturation(x, stacklevel=2)
        return result

    def _warn_of_saturation(self, x: Tensor, *, stacklevel: int) -> None:
        """Name the layer with the most results that binary16 does not hold, once."""
        self._warned = True
        counts = self._execution.saturated(x)
        name = max(counts, key=lambda layer: counts[layer])
        warnings.warn(
            f"{sum(counts.values())} activations are too large for binary16 and were stored as +-65504, {counts[name]} "
            f"of them in layer {name!r}: inputs exceed what the network was calibrated with, so convert it with inputs "
            "like these; later ones are only counted in n_saturated",
            stacklevel=stacklevel + 1,
        )

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
        return sum(tensor.numel() * tensor.element_size() for tensor in self._half.values())

    @property
    def n_bytes_fp32(self) -> int:
        """Bytes of all parameters in float32."""
        return sum(layer.n_bytes_fp32 for layer in self.layers)

    @plain_torch()
    def layer_errors(self, x: Tensor) -> list[LayerError]:
        """Compare every layer's result with float64; see `pipeline.precision.error`."""
        return layer_errors(self.layers, self._single, self._execution, x)

    @plain_torch()
    def choose_routines(
        self,
        samples: Tensor,
        labels: Tensor | None = None,
        *,
        batch: int = 1,
        exact: Tensor | None = None,
        budget: Budget | None = None,
        sampling: Sampling | None = None,
    ) -> Selection:
        """Measure every routine of every layer inside the network, and take the fastest ones that the budget allows.

        The weights stay as they are stored; only the routines change. See `pipeline.precision.selection`.

        Args:
            samples: Inputs that the network was not trained on, n >= 1; those of a batch are timed, all verify.
            labels: Their classes, for the accuracy.
            batch: The batch size to be fast at.
            exact: What the network gave for the samples before it was rounded; else its float32 twin tells.
            budget: What half precision may cost.
            sampling: How to sample; its defaults if None.

        Raises:
            ValueError: If there is no sample, it does not fit the network, or there is not one label for each.
            ConfigError: If neither float32 routines on the stored weights nor the plan's own are within the budget.
        """
        self._execution.check(samples)
        if len(samples) == 0 or batch != int(batch) or batch < 1:
            raise ValueError(
                f"wanted at least one sample and a batch of at least 1, found {len(samples)} and {batch}"
            )
        repeated = samples[torch.arange(int(batch)) % len(samples)]
        few = few_of(samples, self.layers)
        tried = trials(self.layers, self._half, self._single, few, self.instruction_set)
        errors = {
            name: {routine: trial.error for routine, trial in of_layer.items()}
            for name, of_layer in tried.items()
        }
        wanted = self.float_twin()(samples) if exact is None else exact

        packed: dict[Layer, Any] = {}

        def variant(routines: Mapping[str, str]) -> Execution:
            return self._on_routines(routines, packed).execution

        def verified(routines: Mapping[str, str]) -> Verification:
            return verify(variant(routines)(samples), wanted, labels)

        measured = measure(self.layers, errors, variant, repeated, sampling or Sampling())
        choice = choose(measured, budget or Budget(), verified)
        warn_of_hidden_loss(choice.verification, stacklevel=3)
        return Selection(
            network=self._on_routines(choice.routines, packed),
            batch=batch,
            candidates=measured,
            n_moves=choice.n_moves,
            n_possible=choice.n_possible,
            verification=choice.verification,
        )

    def with_routines(self, routines: Mapping[str, str]) -> "HalfNetwork":
        """Return the network on other routines, which are given by layer; layers left out keep theirs.

        A routine that only this instruction set lacks, or that the layer's stored weights exclude, is replaced by the
        first of `candidates`, as in plans from other machines.

        Raises:
            ValueError: If there is no such layer, or no instruction set has such a routine for it.
        """
        return self._on_routines(routines, None)

    def _on_routines(self, routines: Mapping[str, str], packed: dict[Layer, Any] | None) -> "HalfNetwork":
        known = {layer.name: all_routines(layer) for layer in self.layers}
        for name, routine in routines.items():
            if name not in known:
                raise ValueError(f"there is no layer {name!r}; wanted one of {', '.join(known)}")
            if routine not in known[name]:
                raise ValueError(
                    f"layer {name!r} has no routine {routine!r}; wanted one of {', '.join(known[name])}"
                )
        layers = tuple(
            replace(layer, routine=routines.get(layer.name, layer.routine)) for layer in self.layers
        )
        return HalfNetwork(layers, self._half, self._single, self.instruction_set, packed)

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


def _unpickled(
    layers: tuple[Layer, ...], half: Mapping[str, Tensor], single: Mapping[str, Tensor], instruction_set: str
) -> HalfNetwork:
    known = instruction_set if instruction_set in instruction_sets() else None
    return HalfNetwork(layers, half, single, known)
