"""Settings that the library and the files of a study share: each default is written once, here."""

from dataclasses import dataclass
from typing import Literal, get_args

DampingRule = Literal["fixed", "scheduled", "adaptive"]
Fisher = Literal["empirical", "monte_carlo"]
Placement = Literal["replicate", "memory", "hybrid"]
Communication = Literal["float64", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class KFACSettings:
    """How gradients are preconditioned.

    Attributes:
        damping: Tikhonov damping of each layer's Fisher matrix, split between the factors.
        damping_rule: "fixed"; "scheduled", geometrically from `damping` to `final_damping` during training;
            or "adaptive" by Levenberg's and Marquardt's rule.
        final_damping: Where the schedule ends.
        factor_decay: Weight of the past in the moving average of factors. The first steps average plainly.
        factor_interval: Steps between updates of the factors.
        inverse_interval: Steps between updates of the inverses.
        adaptive_change: Where positive, both intervals double while the factors move by less than this share
            from one update to the next, and halve otherwise.
        kl_clip: Largest lr^2 u'g of a step, u'g standing for u'Fu; larger steps are scaled down. 0: no limit.
        sample_fraction: Share of each pass's samples that the factors are computed from.
        fisher: "empirical", of the gradients that training computes; or "monte_carlo", of one class per
            sample drawn from the network's own prediction.
        ekfac: Whether to correct the eigenvalues of the Kronecker product in its eigenbasis.
        block_size: Factors of more rows are cut into diagonal blocks of about equal size; 0: none is cut.
        placement: What several processes exchange: factors to all ("replicate"), factors to one and natural
            gradients back ("memory"), or for each layer inverses or gradients, whichever is less ("hybrid").
        communication: Type of the numbers in these messages: "float64", "float32", "bfloat16".
    """

    damping: float = 3e-2
    damping_rule: DampingRule = "fixed"
    final_damping: float = 3e-3
    factor_decay: float = 0.5
    factor_interval: int = 5
    inverse_interval: int = 5
    adaptive_change: float = 0.0
    kl_clip: float = 1e-3
    sample_fraction: float = 0.25
    fisher: Fisher = "empirical"
    ekfac: bool = False
    block_size: int = 512
    placement: Placement = "hybrid"
    communication: Communication = "float64"

    def __post_init__(self) -> None:
        if not (self.damping > 0 and self.final_damping > 0):
            raise ValueError(f"damping must be positive, not {min(self.damping, self.final_damping)}")
        for name in ("factor_interval", "inverse_interval"):
            steps = getattr(self, name)
            if not (isinstance(steps, int) and steps >= 1):
                raise ValueError(f"{name} must be a whole number of steps, 1 or more, not {steps!r}")
        if not (isinstance(self.block_size, int) and self.block_size >= 0):
            raise ValueError(f"block_size must be a whole number of rows, or 0, not {self.block_size!r}")
        for name, holds, range_ in (
            ("factor_decay", 0 <= self.factor_decay < 1, "[0, 1)"),
            ("sample_fraction", 0 < self.sample_fraction <= 1, "(0, 1]"),
            ("kl_clip", self.kl_clip >= 0, "[0, infinity)"),
            ("adaptive_change", self.adaptive_change >= 0, "[0, infinity)"),
        ):
            if not holds:
                raise ValueError(f"{name} must lie in {range_}, not {getattr(self, name)}")
        for name, kind in (
            ("damping_rule", DampingRule),
            ("fisher", Fisher),
            ("placement", Placement),
            ("communication", Communication),
        ):
            if getattr(self, name) not in get_args(kind):
                choices = ", ".join(get_args(kind))
                raise ValueError(f"{name} must be one of {choices}, not {getattr(self, name)!r}")
