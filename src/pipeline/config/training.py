"""Training runs: optimizer, smoothing, batch, and the claims that compare them."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.section import Count, Name, NotNegative, Positive, Section


class Sgd(Section):
    """Gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    lr: Positive = Field(description="Peak learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Heavy-ball momentum.")
    weight_decay: NotNegative = Field(5e-4, description="L2 penalty on weight matrices, not on biases.")


class Kfac(Sgd):
    """K-FAC preconditioning in front of gradient descent with momentum."""

    name: Literal["kfac"] = "kfac"  # type: ignore[assignment]
    damping: Positive = Field(
        3e-2, description="Tikhonov damping, split between the two factors by their traces."
    )
    factor_decay: float = Field(0.5, ge=0, lt=1, description="Moving average of the Kronecker factors.")
    factor_interval: Count = Field(5, description="Steps between updates of the factors.")
    inverse_interval: Count = Field(5, description="Steps between inversions of the factors.")
    kl_clip: NotNegative = Field(
        1e-3, description="Bound on the predicted KL divergence of a step; 0 is none."
    )
    sample_fraction: float = Field(
        0.25, gt=0, le=1, description="Part of each batch that the factors are taken from."
    )


class WeightNoise(Section):
    """The loss averaged over Gaussian perturbations of the weights."""

    name: Literal["weight_noise"] = "weight_noise"
    std: Positive = Field(description="Standard deviation relative to each weight matrix's root mean square.")
    antithetic: bool = Field(True, description="Draw perturbations in pairs of opposite sign.")
    annealed: bool = Field(False, description="Let the deviation fall to zero during training.")


class Mixup(Section):
    """Convex combinations of pairs of samples and labels."""

    name: Literal["mixup"] = "mixup"
    alpha: Positive = Field(description="Parameter of the Beta distribution of the weights.")


class LabelSmoothing(Section):
    """Part of every label spread over all classes."""

    name: Literal["label_smoothing"] = "label_smoothing"
    amount: float = Field(gt=0, lt=1, description="The part that is spread.")


class Run(Section):
    """One way of training, repeated for every seed."""

    label: str = Field("", max_length=80, description="What the report calls it; the run's name if empty.")
    optimizer: Annotated[Sgd | Kfac, Field(discriminator="name")] = Field(description="The method, by name.")
    smoothing: tuple[Annotated[WeightNoise | Mixup | LabelSmoothing, Field(discriminator="name")], ...] = (
        Field((), description="Smoothings of the objective, applied together.")
    )
    batch_size: Count = Field(description="Samples of one step, over all processes.")
    epochs: Annotated[int, Field(ge=1, le=10**6)] = Field(description="Passes over the training images.")
    warmup_epochs: NotNegative = Field(
        1.0, description="Epochs over which the learning rate rises to its peak."
    )
    micro_batch: Count = Field(256, description="Samples of one forward and backward pass.")


class Roles(Section):
    """Which runs the claims of large-batch training compare."""

    reference: Name = Field(description="Small-batch SGD.")
    large_batch: Name = Field(description="Large-batch SGD.")
    second_order: Name = Field(description="Large-batch K-FAC.")
    smoothed: Name = Field(description="Large-batch K-FAC with a smoothed objective.")


class Training(Section):
    """All training runs of the study."""

    runs: dict[Name, Run] = Field(min_length=1, description="Training runs by name.")
    claims: Roles | None = Field(None, description="The runs that the report's claims table compares.")
