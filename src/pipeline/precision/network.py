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
    """Result of choosing routines by measurement.

    Attributes:
        network: The network with the chosen routines.
        batch: The batch size that they were chosen for.
        candidates: The candidates with their seconds and errors, by layer; the first is the general float32 routine.
        n_moves: Number of moves away from float32 that the budget allows. It is also 0 if the budget excludes float32
            routines on the weights as stored but allows the plan's own routines, which are then kept.
        n_possible: Number of all moves.
        verification: What the whole network loses on the samples.
    """

    network: "HalfNetwork"
    batch: int
    candidates: Mapping[str, Sequence[Candidate]]
    n_moves: int
    n_possible: int
    verification: Verification

    def rows(self) -> list[dict[str, Any]]:
        """Return the candidates as a table."""
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

    `convert` makes it from a torch module, `from_plan` from former results of `plan` and `tensors`. It runs on the CPU;
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
        """Copies and pickles hold the plan and its tensors; weights are packed anew, for the processor at hand."""
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

        A channel whose weights leave the range of binary16 is stored multiplied by a power of two, which the float32
        epilogue undoes. Activations are stored as binary16, or as float32 if the calibration set shows that binary16
        would not hold them. Later activations beyond the range saturate and are counted in `n_saturated`.

        Each layer gets the routine that should be fastest on a typical processor, among those whose error fits: the
        same input always gives the same network. `choose_routines` measures instead. If the network exceeds the budget,
        the layers that add most error go back to float32 weights; bisection finds how many must. If that is not enough,
        activations and routines go back too. If everything ends at float32, a warning names the budget that would
        change this.

        Args:
            module: A module of the operators in `operators.SUPPORTED` with one input and one output, or a program of
                `torch.export.export` that takes a batch of one.
            calibration: Representative inputs, shape (n, channels, rows, columns), n >= 1; ranges are those of the
                first 256.
            labels: Their classes, shape (n,), for the accuracy; without labels only errors count.
            budget: What half precision may cost.
            instruction_set: One of `instruction_sets()`; None for the best that the processor has.

        Raises:
            TypeError: If calibration or labels are no torch tensor.
            LabelError: If labels are not one class for each prediction.
            ConfigError: If the module is not supported, if its layers compute something else than the module, if a
                parameter or a result at float32 is not finite, or if there is no calibration input.
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
        """Rebuild the network from the results of `plan` and `tensors`, and of `parameters` if they were kept.

        Without `complete`, the float32 twin has the widened half-precision weights, so errors do not include their
        rounding. Warns of layers that get another routine because this processor or instruction set lacks the plan's.

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
        """`NAME.weight` in torch's order, without its scale, float16 unless planned otherwise, and `NAME.bias`.

        `NAME.bias_correction` is subtracted from the bias; see `pipeline.precision.bias_correction`.
        """
        return dict(self._half)

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """`NAME.weight` and `NAME.bias`, float32, from before rounding if known, else widened from the stored ones."""
        return self._single

    @plain_torch()
    def float_twin(self) -> Execution:
        """Return the float32 twin: folded, unrounded weights (if they are known) on routines from the same source."""
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
        """Compute the inputs of the last linear layer, float32 of shape (n, features)."""
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
            samples: Inputs that the network was not trained on, n >= 1; one batch of them is timed, all are used to
                verify.
            labels: Their classes, for the accuracy.
            batch: The batch size to choose for.
            exact: Results of the network for the samples before rounding; by default those of its float32 twin.
            budget: What half precision may cost.
            sampling: Settings of the sampling; its defaults if None.

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

        A routine that this instruction set lacks but another one has, or that the layer's stored weights exclude, is
        replaced by the first of `candidates`, as in plans from other machines.

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
