"""K-FAC: replace gradients by natural gradients before any torch optimizer.

    loss.backward()
    kfac.step(lr)
    optimizer.step()

`KFACOptimizer` does the last two in one step, for trainers that have a loop of their own.

Every `factor_interval` steps the moving averages of each layer's Kronecker factors are updated from the step's
statistics; every `inverse_interval` steps the factors are inverted. The work is divided among modules: `capture` has
the hooks, `passes` and `sums` the statistics that they collect, `coverage` the layers that they miss, `curvature` the
factors and their inverses, `intervals` the steps in which they are due, `damping` the rules of damping, `kronecker` and
`structures` the mathematics, `layers` the kinds of layers, `exchange` the messages, and `assignment` the owners of the
inversions.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import DivergenceError
from pipeline.runtime.communicator import Communicator
from pipeline.training.capture import Capture
from pipeline.training.coverage import Coverage
from pipeline.training.curvature import Curvature
from pipeline.training.damping import TrialStep, adapted, require_told, scheduled
from pipeline.training.fisher_projection import with_difference
from pipeline.training.gradients import Gradients
from pipeline.training.intervals import Intervals
from pipeline.training.layers import find_layers
from pipeline.training.loss_terms import Terms
from pipeline.training.outer_optimizer import require_own
from pipeline.training.passes import Loss
from pipeline.training.processes import detected, require_all, require_known, unwrapped
from pipeline.training.randomness import Purpose, generator
from pipeline.training.settings import KFACSettings
from pipeline.training.state import COUNTS, KFACState, require_state, without


class KFAC:
    """Precondition the gradients of layers by their approximate Fisher matrices.

    The Fisher matrix of a layer is approximated by a Kronecker product for linear and convolutional layers, projections
    of attention and gates of recurrences; by a Kronecker product with a diagonal input factor for embeddings; and by a
    2 x 2 matrix per unit for normalizations. Modules that share a weight are one layer. The Fisher matrix is the
    empirical one, of single samples' gradients as `backward` computes them, or that of classes drawn by
    `sample_fisher`; it is a mean over the terms of the loss. Statistics come from passes in training mode between two
    calls of `step`, so gradients may be accumulated over several passes.

    Only passes that contribute to the gradients rewritten by `step` count. Ignored are calls without a backward pass,
    `torch.autograd.grad` with respect to anything but weights, and passes whose gradients have since been set to zero
    or None. A layer whose weight the network also uses where no hook sees it, as in a matrix product, keeps its
    gradient and is named in a warning. Frozen layers are left alone. Call `look_again` after parameters were replaced,
    added or unfrozen.

    With several processes each contributes its own passes: statistics are summed over all, and all end with bit-equal
    gradients. Gradients must be reduced before `step`, as `DistributedDataParallel` does. All processes must call
    `step`, `statistics` and `state_dict` together.

    The gradients of single samples are those that `backward` computes, divided by the weight of a term in the loss.
    With the loss "learned" this weight is inferred from the network's output and its gradient if the output (scores,
    probabilities or log-probabilities) goes into a softmax or binary cross-entropy. Accumulation, tokens,
    `ignore_index` and gradient scalers then need no settings. Rows that a loss ignores still count as inputs. If the
    network has several outputs, the one whose loss weighs most sets the scale. Other losses, and all with "mean", are
    taken to be a mean over the first dimension of the network's output and over the passes since the last step; with
    "learned", a warning says so once. If other passes of the step are recognized, their scale is taken. `terms` says
    what was found.

    Args:
        model: The network, or `DistributedDataParallel` or `torch.compile` around it; its hooks stay until `remove`.
            Compiled code ignores new hooks, so attaching and `remove` discard all compiled code of the process, which
            is compiled anew at its next call.
        settings: Settings of the preconditioning.
        communicator: The processes that train together; by default those of a `DistributedDataParallel` or of
            torch's default process group, if one is open. Pass `Serial()` if each process trains a network of its own.
        loss: "learned"; "mean"; or "sum", where losses are summed and gradients are divided before `step`.
        sums_gradients: Whether the caller sums the gradients of several passes itself and sets them to zero in between;
            then all passes count.
        scaler: The `torch.amp.GradScaler` in use. Its scale is used where none is learned. As the scaler does, `step`
            then skips gradients that are not finite instead of raising an error.
        seed: Seed of the classes that `sample_fisher` draws.
        params: The parameters that the optimizer steps, or a function that returns those of the moment; by default all
            that are not frozen. Others are left alone as frozen ones are: nobody may clear their gradients, and natural
            gradients would add up there.

    Attributes:
        damping: The current damping.
        step_size: lr^2 u'g of the last step after clipping, for the gradient g and its natural gradient u: about twice
            the KL divergence of the step.
        squares: Squared norms of the last step's gradient and `difference` in the metric of the inverse Fisher matrix.
        seconds: Time spent so far in "factors" (their exchange and average), "inverses" and "gradients".

    Raises:
        ValueError: If adaptive damping or a `difference_weight` needs all factors on every process and `placement`
            distributes them, if weights are sharded, if `params` has no parameter of the network, or if there is no
            such `loss`.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: KFACSettings | None = None,
        *,
        communicator: Communicator | None = None,
        loss: Loss = "learned",
        sums_gradients: bool = False,
        scaler: torch.amp.GradScaler | None = None,
        seed: int = 0,
        params: Iterable[Tensor] | Callable[[], Iterable[Tensor]] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"K-FAC watches a network and needs the nn.Module itself, not {type(model).__name__}"
            )
        self.settings = settings = settings or KFACSettings()
        self._detects = communicator is None
        communicator = communicator or detected(model)
        self._called, self._model = model, unwrapped(model)
        for option, is_set in (
            ("damping_rule 'adaptive'", settings.damping_rule == "adaptive"),
            (f"difference_weight {settings.difference_weight}", settings.difference_weight != 0),
        ):
            if is_set and communicator.size > 1 and settings.placement != "replicate":
                raise ValueError(
                    f"{option} needs all factors on every process; set placement to 'replicate', not "
                    f"{settings.placement!r}"
                )
        self.damping = settings.damping
        self.step_size = 0.0
        self.squares = (0.0, 0.0)
        self.seconds = {"factors": 0.0, "inverses": 0.0, "gradients": 0.0}
        self._seed = seed
        self._intervals = Intervals(
            settings.factor_interval, settings.inverse_interval, settings.adaptive_change
        )
        self._trial: TrialStep | None = None
        self._scaler = scaler
        self._communicator = communicator
        self._loss: Loss = loss
        self._takes_mean = self._told_of_mean = False
        self._sums_gradients = sums_gradients
        self._params = params if params is None or callable(params) else list(params)
        if self._params is not None:
            require_own(self._model, self._params() if callable(self._params) else self._params)
        self._attach()

    def _trains(self) -> Callable[[Tensor], bool]:
        """Return a function that tells whether the optimizer steps a parameter that is not frozen."""
        if self._params is None:
            return lambda _: True
        stepped = {id(p) for p in (self._params() if callable(self._params) else self._params)}
        return lambda p: id(p) in stepped

    def _attach(self) -> None:
        """Find the layers of the network and add hooks."""
        found = find_layers(self._model, block_size=self.settings.block_size, trains=self._trains())
        self._layers = found.structures
        self._gradients = Gradients(self._model, self._layers, self._trains)
        self._coverage = Coverage(self._layers, self._gradients.weights, found.reasons, self._communicator)
        self._curvature = Curvature(self._layers, self.settings, self._communicator)
        self._checked = self._communicator.size == 1
        self._capture = Capture(
            self._model,
            found,
            active=lambda: self._intervals.factors_are_due,
            sample_fraction=self.settings.sample_fraction,
            loss=self._loss,
            sampled=self.settings.fisher == "monte_carlo",
            reduced=self.settings.weight_sharing == "reduce",
            bases=self._curvature.bases,
            forgets=not self._sums_gradients,
        )

    @property
    def communicator(self) -> Communicator:
        """The processes that train together."""
        return self._communicator

    def look_again(self) -> None:
        """Find the layers again after some were unfrozen, added or replaced; all processes must call it together.

        Unchanged layers keep their factors. Statistics since the last step are discarded, so call it before the first
        pass of a step; that step renews factors and inverses.
        """
        former, capture = self._curvature, self._capture
        capture.remove()
        self._attach()
        self._capture.loss_scale = capture.loss_scale
        self._capture.watches_functions |= capture.watches_functions
        self._curvature.take_over(former)
        self._intervals.next_factors = self._intervals.next_inverses = self._intervals.step

    @property
    def is_outdated(self) -> bool:
        """Whether the network trains parameters that it did not train when its layers were found."""
        return self._gradients.are_outdated

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a KFAC watches its network by hooks and cannot be copied; save its state_dict")

    @property
    def preconditioned(self) -> tuple[str, ...]:
        """Names of the layers whose gradients are rewritten."""
        return self._coverage.preconditioned

    @property
    def not_preconditioned(self) -> tuple[str, ...]:
        """Names of the trained parameters that keep their gradients."""
        return self._coverage.not_preconditioned

    @property
    def reasons(self) -> dict[str, str]:
        """Why a parameter keeps its gradient, by name, for those that one might expect to be preconditioned."""
        return self._coverage.reasons

    def remove(self) -> None:
        """Remove the hooks from the model, and discard all compiled code of the process, which contains them."""
        self._capture.remove()

    def paused(self) -> AbstractContextManager[None]:
        """Ignore passes within the context."""
        return self._capture.pause()

    def discard(self) -> None:
        """Forget the statistics of the passes since the last step."""
        self._capture.discard()

    def set_loss_scale(self, scale: float) -> None:
        """Set the factor by which the losses of the following backward passes are multiplied against underflow."""
        self._capture.loss_scale = scale

    def sample_fisher(self, scores: Tensor, *position: int) -> None:
        """Draw a class for every sample and take statistics of the gradients for these classes.

        Call it between the forward and the backward pass if `fisher` is "monte_carlo"; otherwise it does
        nothing.

        Args:
            scores: The network's output, shape (n, n_classes).
            position: Number of the micro-batch; it determines the random numbers together with the step.
        """
        if self.settings.fisher == "monte_carlo" and not self._capture.paused:
            rng = generator(self._seed, Purpose.FISHER, self._intervals.step, *position)
            self._capture.sample(scores, torch.from_numpy(rng.random(len(scores))).to(scores.device))

    @property
    def terms(self) -> Terms | None:
        """The terms of which the loss of the last pass with statistics was taken to be a sum."""
        return self._capture.terms

    @torch._disable_dynamo  # type: ignore[attr-defined]
    @torch.no_grad()
    def step(
        self,
        lr: float | Mapping[str, float],
        *,
        done: float | None = None,
        scale: float = 1.0,
        difference: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Rewrite the gradients of all preconditioned layers.

        Args:
            lr: The learning rate of the optimizer step that follows, which `kl_clip` uses; or the rate of each layer by
                name.
            done: The part of training that is done, in [0, 1]; scheduled damping needs it.
            scale: Factor by which losses were multiplied since the last step and gradients were divided again.
            difference: Gradient of the first half of the batch minus that of the second, by the parameter's name. It is
                needed if `difference_weight` is not 0, and for `squares`.

        Raises:
            DivergenceError: If a gradient or a natural gradient is not finite; step and layer are named.
            ValueError: If the processes hold different gradients in the first step; inside `join`; if a process group
                was opened after K-FAC was attached; if `fisher` is "monte_carlo" and `sample_fisher` was not called; if
                `difference`, `done` or a call of `judge` is missing; if parameters were replaced, added or unfrozen; or
                if gradients are natural gradients already.
        """
        require_told(self.settings.damping_rule, done, waits=self._tries and self._trial is not None)
        if self.settings.difference_weight and difference is None:
            raise ValueError(
                "difference_weight needs step(lr, difference=...), the gradients of two halves of the batch"
            )
        if self._detects:
            require_known(self._communicator, self._called)
        if self._communicator.size > 1:
            require_all(self._called)
        if self._scaler is not None and not self._gradients.are_finite():
            self.discard()
            self._curvature.n_skipped += 1
            return
        if not self._checked:
            self._checked = True
            self._gradients.require_equal(self._communicator)
        if self._scaler is not None:
            scale = float(self._scaler.get_scale())
        if self._intervals.factors_are_due:
            self._gradients.require_same_parameters()
        if self._layers:
            self._curvature.follow()
            if done is not None and self.settings.damping_rule == "scheduled":
                self.damping = scheduled(self.settings.damping, self.settings.final_damping, done)
            if self._intervals.factors_are_due:
                with self._timed("factors"):
                    has_statistics = self._update_factors(scale)
                if not has_statistics and self._gradients.are_zero():
                    # No training step: torch.distributed.checkpoint takes such a step to fill an optimizer's state.
                    self._checked = self._communicator.size == 1
                    return
            if self._intervals.inverses_are_due and self._curvature.seen:
                with self._timed("inverses"):
                    self._curvature.invert(self.damping)
                self._intervals.inverted()
            trial = TrialStep.begin(self._gradients.weights) if self._tries else self._trial
            with self._timed("gradients"):
                self._precondition(lr, difference)
            if self._takes_mean and not self._told_of_mean:
                self._tell_of_mean()
            self._trial = trial
        self._intervals.step += 1

    @property
    def learns_scale(self) -> bool:
        """Whether the scales of all passes since the last step are known; true if no statistics were taken."""
        return self._capture.learns_scale

    def by_layer(self, value: Callable[[Tensor], float]) -> dict[str, float]:
        """Return a value of the first parameter of each layer, by the layer's name."""
        return {name: value(layer.parameters[0]) for name, layer in self._layers.items()}

    @property
    def wants_verdict(self) -> bool:
        """Whether adaptive damping waits for `judge`."""
        return self._trial is not None

    @torch.no_grad()
    def judge(self, before: float, after: float) -> None:
        """Adapt the damping by how well the quadratic model predicted the change of the loss.

        Call it after the optimizer's step if `wants_verdict` is true.

        Args:
            before: Mean loss of the step's batch at the weights before the step.
            after: Mean loss after the step, for the same samples, noise and mixtures.
        """
        assert self._trial is not None
        predicted = self._trial.predicted_change(
            self._gradients.weights, self._layers, self._curvature.factors, self.damping
        )
        self.damping = adapted(self.damping, after - before, predicted)
        self._trial = None

    @torch.no_grad()
    def statistics(self) -> dict[str, Any]:
        """Return figures for a log; all processes must call it together and get the same.

        Returns:
            The attributes `damping`, `step_size`, `n_retries`, `n_stale`, `n_skipped` and `seconds`;
            "factor_age" and "inverse_age" in steps; and under "layers", by layer and factor, the "damping" on
            its diagonal, its "trace", and its "condition" with damping. Costs the eigenvalues of all factors.
        """
        return {
            "damping": self.damping,
            "step_size": self.step_size,
            "n_retries": self.n_retries,
            "n_stale": self.n_stale,
            "n_skipped": self.n_skipped,
            "factor_age": self.factor_age,
            "inverse_age": self.inverse_age,
            "seconds": dict(self.seconds),
            "layers": self._curvature.figures(self.damping),
        }

    def state_dict(self) -> KFACState:
        """Return all that the next step depends on, whole on every process; tensors are not copied.

        All processes must call it together: matrices that `placement` has distributed are gathered. A run may thus
        continue with another number of processes.
        """
        return {
            "tensors": self._curvature.tensors(),
            "scalars": {name: getattr(self._curvature, name) for name in COUNTS}
            | self._intervals.state()
            | self._coverage.state()
            | {
                "damping": self.damping,
                "asked_damping": [self.settings.damping_rule, self.settings.damping],
                "layers": list(self._layers),
                "seen": sorted(self._curvature.seen),
                "watches_functions": self._capture.watches_functions,
            },
        }

    def load_state_dict(self, state: KFACState) -> None:
        """Restore what `state_dict` returned; the settings are those of this object, but the damping is the state's.

        Raises:
            ValueError: If the state is that of another network, or of other blocks, or lacks layers, or is no state of
                K-FAC.
        """
        if (
            self._params is not None
        ):  # a former version had layers of parameters that the optimizer does not step
            every = find_layers(self._model, block_size=self.settings.block_size).structures
            state = without(state, [name for name in every if name not in self._layers])
        require_state(state, self._layers)
        left_out = self._curvature.load(state["tensors"])
        for name in COUNTS:
            setattr(self._curvature, name, state["scalars"][name])
        self._take_damping(state["scalars"])
        self._trial = None
        self._intervals.load(state["scalars"])
        if left_out:
            self._intervals.next_inverses = self._intervals.step
        self._coverage.load(state["scalars"])
        # A layer that has statistics is not looked for again, and functions may have applied it.
        self._capture.watches_functions |= state["scalars"].get("watches_functions", True)

    @property
    def n_retries(self) -> int:
        """Inversions that needed ten times the damping."""
        return self._curvature.n_retries

    @property
    def n_stale(self) -> int:
        """Inversions that failed even then; the last inverse stayed, or the identity if there was none."""
        return self._curvature.n_stale

    @property
    def n_skipped(self) -> int:
        """Factor updates left out because statistics were not finite."""
        return self._curvature.n_skipped

    @property
    def factor_age(self) -> int:
        """Steps since the factors were updated, including the step of the update."""
        return self._intervals.factor_age

    @property
    def inverse_age(self) -> int:
        """Steps since the factors were inverted, including the step of the inversion."""
        return self._intervals.inverse_age

    @property
    def n_done(self) -> int:
        """Number of steps done."""
        return self._intervals.step

    @property
    def _tries(self) -> bool:
        """Whether adaptive damping judges the quadratic model by this step."""
        return self.settings.damping_rule == "adaptive" and self._intervals.step % TrialStep.INTERVAL == 0

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        start = perf_counter()
        yield
        self.seconds[phase] += perf_counter() - start

    def _update_factors(self, scale: float) -> bool:
        """Update the factors; return whether any process had statistics, without which the update stays due."""
        if self._capture.waits_for_sample:
            raise ValueError(
                "fisher 'monte_carlo' draws classes from the network's scores: call sample_fisher(scores) between the "
                "forward and the backward pass, or set fisher to 'empirical'"
            )
        self._takes_mean = self._loss == "learned" and not self._capture.learns_scale
        before = self._curvature.n_averaged
        change = self._curvature.average(self._capture.take(scale=scale))
        has_statistics = self._curvature.n_averaged > before
        if has_statistics:
            self._intervals.factors_moved(change)
        self._coverage.update(self._capture, self._curvature)
        return has_statistics

    def _take_damping(self, scalars: Mapping[str, Any]) -> None:
        """Take the damping of a state, and warn if the settings ask for another than they did when it was saved."""
        settings, self.damping = self.settings, scalars["damping"]
        asked = [settings.damping_rule, settings.damping]
        # A state of an earlier version does not tell what was asked for; only a fixed damping stays what it was.
        former = ["fixed", self.damping] if settings.damping_rule == "fixed" else asked
        overrides = settings.damping_rule != "scheduled" and self.damping != settings.damping
        if overrides and list(scalars.get("asked_damping", former)) != asked and self._communicator.rank == 0:
            warnings.warn(
                f"K-FAC goes on with the damping {self.damping} of the state that it has loaded, not with the "
                f"{settings.damping} of its settings; set the attribute damping of KFAC to change it",
                stacklevel=3,
            )

    def _tell_of_mean(self) -> None:
        self._told_of_mean = True
        if self._communicator.rank == 0:
            warnings.warn(
                "K-FAC does not recognize this loss and takes it to be a mean over the first dimension of the "
                "network's output; pass loss='mean' if it is one, or loss='sum' if it is a sum over that dimension",
                stacklevel=6,
            )

    def _precondition(self, lr: float | Mapping[str, float], difference: Mapping[str, Tensor] | None) -> None:
        ready = [name for name in self._layers if name in self._curvature.ready - self._coverage.left]
        gradients = self._gradients.of_layers(ready)
        self._gradients.require_new(gradients)
        step = self._intervals.step + 1
        self._gradients.require_finite(without=gradients, step=step)
        if not gradients:
            return
        natural = self._curvature.natural(gradients, self.damping)
        if difference is not None:
            apart = self._gradients.as_layers(gradients, difference)
            weight = self.settings.difference_weight
            natural, self.squares = with_difference(
                gradients, natural, apart, self._curvature, damping=self.damping, weight=weight
            )
        products = [torch.dot(natural[name].flatten(), g.flatten()) for name, g in gradients.items()]
        by_layer = torch.stack(products).tolist()
        for name, product in zip(gradients, by_layer, strict=True):
            if not math.isfinite(product):
                raise DivergenceError(
                    f"the natural gradient of layer {name} is not finite at step {step}; raise damping or lower lr"
                )
        rates = [float(lr[name] if isinstance(lr, Mapping) else lr) for name in gradients]
        self.step_size = abs(sum(rate**2 * product for rate, product in zip(rates, by_layer, strict=True)))
        scale = 1.0
        if self.settings.kl_clip > 0:
            scale = min(1.0, math.sqrt(self.settings.kl_clip / (self.step_size + 1e-30)))
        self.step_size *= scale**2
        self._gradients.set(
            {name: natural[name].mul_(scale) if scale != 1 else natural[name] for name in gradients}
        )
