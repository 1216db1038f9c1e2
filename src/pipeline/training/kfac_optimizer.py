"""K-FAC and a torch optimizer as one torch optimizer, for trainers that have a loop of their own."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.runtime.communicator import Communicator
from pipeline.training.kfac import KFAC
from pipeline.training.outer_optimizer import OuterOptimizer
from pipeline.training.passes import Loss
from pipeline.training.settings import KFACSettings


class KFACOptimizer(OuterOptimizer):
    """Precondition gradients by K-FAC, then let another optimizer step.

        optimizer = KFACOptimizer(model, torch.optim.AdamW, lr=1e-3, weight_decay=1e-2)

    It steps, schedules, saves and loads like any torch optimizer: its parameter groups and state are those of the
    inner optimizer, and its `state_dict` has the additional entry "kfac". Save what `state_dict` returns, because
    `torch.distributed.checkpoint.state_dict` drops that entry. With several processes all must call `step`, and all
    must call `state_dict` unless every process holds all factors, which is the default here. With
    `torch.amp.GradScaler` pass it to `scaler.step` as usual; a step with gradients that are not finite changes
    nothing.
    If gradients are unscaled before the step and their scale is not learned from the loss (see `KFAC`), pass `scaler`.
    Adaptive damping needs `kfac.judge` after each step where `kfac.wants_verdict` is true; drawn classes need
    `kfac.sample_fisher` before each backward pass.

    Args:
        model: The network, or `DistributedDataParallel` or `torch.compile` around it.
        optimizer: The class of the inner optimizer, or a function that builds one from parameter groups and options.
        settings: Settings of K-FAC; by default those of `KFACSettings`, with all factors on every process.
        params: Parameters or parameter groups; by default all trained parameters. Others keep their gradients.
        communicator: See `KFAC`.
        loss: See `KFAC`.
        scaler: The gradient scaler, needed if its scale is not learned from the loss.
        n_steps: Number of steps of the whole training; scheduled damping needs it.
        seed: Seed of the drawn classes.
        options: Options of the inner optimizer.

    Attributes:
        kfac: The preconditioner.
        inner: The optimizer that steps.

    Raises:
        ValueError: If the optimizer needs several passes per step, if `n_steps` is missing, if `difference_weight` is
            not 0, or if `KFAC` refuses the network.
    """

    _step_supports_amp_scaling = True  # GradScaler then hands over its scale and does not skip steps itself

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        *,
        settings: KFACSettings | None = None,
        params: Iterable[Any] | None = None,
        communicator: Communicator | None = None,
        loss: Loss = "learned",
        scaler: torch.amp.GradScaler | None = None,
        n_steps: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        if isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"KFACOptimizer builds the inner optimizer itself: pass the class {type(optimizer).__name__} and its "
                "options, as in KFACOptimizer(model, torch.optim.SGD, lr=0.1), not an optimizer"
            )
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"KFACOptimizer needs the network, an nn.Module, where other optimizers take its parameters, not "
                f"{type(model).__name__}; groups of parameters go to params="
            )
        if settings is not None and settings.difference_weight:
            raise ValueError(
                "difference_weight needs the gradients of two halves of a batch, which this optimizer does not see; "
                "use KFAC and its step(lr, difference=...)"
            )
        if settings is not None and settings.damping_rule == "scheduled" and (n_steps is None or n_steps < 1):
            raise ValueError(
                f"damping_rule 'scheduled' needs n_steps, the number of steps of the whole training, not {n_steps}"
            )
        settings = settings or replace(KFACSettings(), placement="replicate")
        chosen = [p for p in model.parameters() if p.requires_grad] if params is None else list(params)
        super().__init__(optimizer(chosen, **options))
        self.kfac = KFAC(
            model, settings, communicator=communicator, loss=loss, seed=seed, params=self.parameters
        )
        self._scaler = scaler
        self._n_steps = n_steps

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Precondition the gradients and step.

        Args:
            closure: Computes the loss and its gradients, if they are not computed yet.

        Returns:
            What the closure returned.

        Raises:
            ConvergenceError: If a gradient is not finite, without a gradient scaler.
            ValueError: If gradients were unscaled before the step by an unknown scale; or as `KFAC.step` raises it.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale = self._unscale()
        if scale is None:
            self.kfac.discard()
            return loss
        done = None if self._n_steps is None else min(1.0, self.kfac.n_done / self._n_steps)
        self.kfac.step(self._rates(), done=done, scale=scale)
        self.inner.step()
        return loss

    def _unscale(self) -> float | None:
        """Undo the scale of a `GradScaler` where it has not been undone; None where gradients are not finite."""
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        if found_inf is None:
            return 1.0
        if bool(found_inf):
            return None
        scale: Tensor | None = getattr(self, "grad_scale", None)
        if scale is not None:
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.grad.div_(scale)
            return float(scale)
        if self._scaler is not None:
            return float(self._scaler.get_scale())
        if not self.kfac.learns_scale:
            raise ValueError(
                "gradients were unscaled before the step, and their scale cannot be learned from this loss; pass "
                "scaler=... to KFACOptimizer"
            )
        return 1.0

    def _rates(self) -> dict[str, float]:
        """The rate of each layer: that of the group of its first parameter; a parameter in no group takes no step."""
        rates = {id(p): float(group["lr"]) for group in self.param_groups for p in group["params"]}
        return self.kfac.by_layer(lambda p: rates.get(id(p), 0.0))

    def state_dict(self) -> dict[str, Any]:
        """Return the inner optimizer's state, with that of K-FAC as the entry "kfac"."""
        return {**self.inner.state_dict(), "kfac": self.kfac.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: If the state of K-FAC is missing or belongs to another network.
        """
        if "kfac" not in state_dict:
            raise ValueError(
                "the state has no entry 'kfac', so it is that of the other optimizer alone; save what this optimizer's "
                "state_dict returns (torch.distributed.checkpoint.state_dict drops K-FAC's part), or load the state by "
                "inner.load_state_dict to start K-FAC afresh"
            )
        self.inner.load_state_dict({name: part for name, part in state_dict.items() if name != "kfac"})
        self.kfac.load_state_dict(state_dict["kfac"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the inner optimizer; layers that have been unfrozen for it are preconditioned from then on."""
        super().add_param_group(param_group)
        if "kfac" in self.__dict__ and self.kfac.is_outdated:
            self.kfac.look_again()
