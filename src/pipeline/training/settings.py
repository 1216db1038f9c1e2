"""How K-FAC preconditions: its settings, with their bounds and defaults."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from pipeline.options import Count, Decay, NotNegative, Positive, Share, require_bounds

DampingRule = Literal["fixed", "scheduled", "adaptive"]
Fisher = Literal["empirical", "monte_carlo"]
PlacementName = Literal["replicate", "memory", "hybrid"]
Communication = Literal["float64", "float32", "bfloat16"]
WeightSharing = Literal["expand", "reduce"]


@dataclass(frozen=True, kw_only=True)
class KFACSettings:
    """How gradients are preconditioned.

    Attributes:
        damping: Tikhonov damping of each layer's Fisher matrix, split between its two factors by their traces.
        damping_rule: How damping changes during training. "scheduled": geometrically to `final_damping`; "adaptive": by
            the Levenberg-Marquardt rule.
        final_damping: Last value of scheduled damping.
        factor_decay: Weight of the past in the moving average of the Kronecker factors; the first updates form a plain
            mean.
        factor_interval: Steps between updates of the factors.
        inverse_interval: Steps between inversions of the factors.
        adaptive_change: Relative change of the factors below which intervals double, and else halve; 0: fixed
            intervals.
        kl_clip: Bound on lr^2 u'g of a step, for the gradient g and the natural gradient u: about twice the step's KL
            divergence. Larger steps are scaled down; 0: no bound.
        sample_fraction: Part of each batch that the factors are computed from: samples in even distances.
        fisher: The gradients from which factors are computed. "empirical": those of the labels; "monte_carlo": those of
            one class per sample drawn from the network's own prediction.
        ekfac: Whether to correct the eigenvalues of the Kronecker product in its eigenbasis.
        weight_sharing: How the uses of a weight within a sample, at several positions or in several calls, are treated.
            "expand": as independent samples; "reduce": summed first, which suits a loss of their mean.
        block_size: Largest number of rows of a factor; larger ones are cut into diagonal blocks of about equal size. 0:
            no limit.
        placement: What several processes exchange. "replicate": factors go to all; "memory": a layer's factors go to
            one process, which sends natural gradients back; "hybrid": inverses or natural gradients, whichever is less
            for a layer.
        communication: Type of the numbers in messages between processes.
        difference_weight: Weight in the gradient of the difference between two halves of a batch, taken orthogonal to
            their mean in the Fisher metric; 0: none.
    """

    damping: Positive = 3e-2
    damping_rule: DampingRule = "fixed"
    final_damping: Positive = 3e-3
    factor_decay: Decay = 0.5
    factor_interval: Count = 5
    inverse_interval: Count = 5
    adaptive_change: NotNegative = 0.0
    kl_clip: NotNegative = 1e-3
    sample_fraction: Share = 0.25
    fisher: Fisher = "empirical"
    ekfac: bool = False
    weight_sharing: WeightSharing = "expand"
    block_size: Annotated[int, Ge(0)] = 512
    placement: PlacementName = "hybrid"
    communication: Communication = "float64"
    difference_weight: NotNegative = 0.0

    def __post_init__(self) -> None:
        require_bounds(self)
        if self.ekfac and self.weight_sharing == "reduce":
            raise ValueError("ekfac looks at the gradients of whole samples; set weight_sharing to 'expand'")
