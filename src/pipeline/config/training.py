"""Training runs: optimizer, smoothing, batch, and the claims that compare them."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.section import Count, Name, NotNegative, Positive, Section
from pipeline.settings import Communication, DampingRule, Fisher, KFACSettings, Placement


class Sgd(Section):
    """Gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    lr: Positive = Field(description="Peak learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Heavy-ball momentum.")
    weight_decay: NotNegative = Field(5e-4, description="L2 penalty on weight matrices, not on biases.")


class Lars(Sgd):
    """Gradient descent with momentum and a rate for each layer from the norms of weights and gradients."""

    name: Literal["lars"] = "lars"  # type: ignore[assignment]
    trust: Positive = Field(2e-2, description="Part of a weight matrix's norm that a step of rate one has.")


class Muon(Sgd):
    """Orthogonalized momentum for hidden weights, AdamW for the rest."""

    name: Literal["muon"] = "muon"  # type: ignore[assignment]


class AdamW(Sgd):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"] = "adamw"  # type: ignore[assignment]
    second_moment: float = Field(0.999, ge=0, lt=1, description="Decay of the mean of squared gradients.")


class Lamb(AdamW):
    """Adam with steps of the size of each layer's weights."""

    name: Literal["lamb"] = "lamb"  # type: ignore[assignment]


class Soap(AdamW):
    """Adam in the eigenbasis of Shampoo's factors."""

    name: Literal["soap"] = "soap"  # type: ignore[assignment]
    second_moment: float = Field(0.95, ge=0, lt=1, description="Decay of squared gradients and factors.")


class Kfac(Sgd):
    """K-FAC preconditioning in front of gradient descent with momentum."""

    name: Literal["kfac"] = "kfac"  # type: ignore[assignment]
    damping: Positive = Field(
        KFACSettings.damping, description="Tikhonov damping, split between the two factors by their traces."
    )
    damping_rule: DampingRule = Field(
        KFACSettings.damping_rule, description="How damping moves during training."
    )
    final_damping: Positive = Field(KFACSettings.final_damping, description="Where scheduled damping ends.")
    factor_decay: float = Field(
        KFACSettings.factor_decay, ge=0, lt=1, description="Moving average of the Kronecker factors."
    )
    factor_interval: Count = Field(
        KFACSettings.factor_interval, description="Steps between updates of the factors."
    )
    inverse_interval: Count = Field(
        KFACSettings.inverse_interval, description="Steps between inversions of the factors."
    )
    adaptive_change: NotNegative = Field(
        KFACSettings.adaptive_change,
        description="Intervals double while factors move by less than this share, else halve; 0: fixed.",
    )
    kl_clip: NotNegative = Field(
        KFACSettings.kl_clip, description="Bound on the predicted KL divergence of a step; 0 is none."
    )
    sample_fraction: float = Field(
        KFACSettings.sample_fraction,
        gt=0,
        le=1,
        description="Part of each batch that the factors are taken from.",
    )
    fisher: Fisher = Field(
        KFACSettings.fisher, description="Gradients of the labels, or of classes drawn from the prediction."
    )
    ekfac: bool = Field(KFACSettings.ekfac, description="Correct the eigenvalues of the Kronecker product.")
    block_size: int = Field(
        KFACSettings.block_size, ge=0, description="Larger factors are cut into diagonal blocks; 0: none is."
    )
    placement: Placement = Field(
        KFACSettings.placement,
        description="What processes exchange: factors, gradients, or whichever is less.",
    )
    communication: Communication = Field(
        KFACSettings.communication, description="Type of the numbers in messages between processes."
    )


class Smoothing(Section):
    """A change to the objective that makes it smoother."""

    full_steps: int = Field(
        0, ge=0, description="With fewer steps in the run the strength falls in proportion; 0: never."
    )


class WeightNoise(Smoothing):
    """The loss averaged over Gaussian perturbations of the weights."""

    name: Literal["weight_noise"] = "weight_noise"
    std: Positive = Field(description="Standard deviation relative to each weight matrix's root mean square.")
    antithetic: bool = Field(True, description="Draw perturbations in pairs of opposite sign.")
    annealed: bool = Field(False, description="Let the deviation fall to zero during training.")
    filter_wise: bool = Field(False, description="Take each row's root mean square instead.")


class Mixup(Smoothing):
    """Convex combinations of pairs of samples and labels."""

    name: Literal["mixup"] = "mixup"
    alpha: Positive = Field(description="Parameter of the Beta distribution of the weights.")


class RunningMixup(Smoothing):
    """Convex combinations with the mixed samples of former steps."""

    name: Literal["running_mixup"] = "running_mixup"
    alpha: Positive = Field(description="Parameter of the Beta distribution of the weights.")
    depth: Count = Field(3, description="How many former steps take part.")


class LabelSmoothing(Smoothing):
    """Part of every label spread over all classes."""

    name: Literal["label_smoothing"] = "label_smoothing"
    amount: float = Field(gt=0, lt=1, description="The part that is spread.")


class Sam(Smoothing):
    """The gradient where the loss nearby is worst."""

    name: Literal["sam"] = "sam"
    rho: Positive = Field(description="How far each micro-batch climbs, in the 2-norm of all weights.")
    adaptive: bool = Field(False, description="Measure distances relative to each weight's magnitude.")


class GradientNoise(Smoothing):
    """The loss averaged over steps that small batches might have taken."""

    name: Literal["gradient_noise"] = "gradient_noise"
    std: Positive = Field(description="Norm of the displacement relative to that of all weights.")


class WeightAverage(Smoothing):
    """The mean of the weights of the last steps."""

    name: Literal["weight_average"] = "weight_average"
    share: float = Field(gt=0, le=1, description="The part of all steps, the last ones, that is averaged.")


class Crop(Section):
    """A random shift."""

    name: Literal["crop"] = "crop"
    padding: Count = Field(description="Pixels in each direction, at most.")


class Flip(Section):
    """A mirror image, half of the time."""

    name: Literal["flip"] = "flip"


class Erasing(Section):
    """Noise in place of a random rectangle."""

    name: Literal["erasing"] = "erasing"
    probability: float = Field(0.5, gt=0, le=1, description="That an image loses a rectangle.")
    largest: float = Field(0.25, ge=0.02, le=1, description="Largest part of the image's area.")


class Cosine(Section):
    """Half a cosine wave from one to zero."""

    name: Literal["cosine"] = "cosine"


class Polynomial(Section):
    """A power of the part of training that is left."""

    name: Literal["polynomial"] = "polynomial"
    power: Positive = Field(2.0, description="1 is linear.")


class Constant(Section):
    """No decay."""

    name: Literal["constant"] = "constant"


class Run(Section):
    """One way of training, repeated for every seed."""

    label: str = Field("", max_length=80, description="What the report calls it; the run's name if empty.")
    optimizer: Annotated[Sgd | Lars | Lamb | AdamW | Muon | Soap | Kfac, Field(discriminator="name")] = Field(
        description="The method, by name."
    )
    smoothing: tuple[
        Annotated[
            WeightNoise | Mixup | RunningMixup | LabelSmoothing | Sam | GradientNoise | WeightAverage,
            Field(discriminator="name"),
        ],
        ...,
    ] = Field((), description="Smoothings of the objective, applied together.")
    augmentation: tuple[Annotated[Crop | Flip | Erasing, Field(discriminator="name")], ...] = Field(
        (), description="Random changes of the training images, applied in order."
    )
    train_samples: Count | None = Field(
        None, description="Training images, the first of the data set's; null is all of them."
    )
    batch_size: Count = Field(description="Samples of one step, over all processes.")
    epochs: Annotated[int, Field(ge=1, le=10**6)] = Field(description="Passes over the training images.")
    warmup_epochs: NotNegative = Field(
        1.0, description="Epochs over which the learning rate rises to its peak."
    )
    schedule: Annotated[Cosine | Polynomial | Constant, Field(discriminator="name")] = Field(
        Cosine(), description="Decay of the learning rate after the warm-up."
    )
    coupled_momentum: bool = Field(False, description="Let momentum fall with the learning rate.")
    rescaled_weights: bool = Field(
        False, description="Keep the norm of weights that batch normalization follows."
    )
    micro_batch: Count = Field(256, description="Samples of one forward and backward pass.")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Of activations and their gradients, where autocasting lowers it."
    )


class Roles(Section):
    """Which runs the claims of large-batch training compare."""

    reference: Name = Field(description="Small-batch SGD.")
    large_batch: Name = Field(description="Large-batch SGD.")
    second_order: Name = Field(description="Large-batch K-FAC.")
    smoothed: Name = Field(description="Large-batch K-FAC with a smoothed objective.")


class Training(Section):
    """All training runs of the study."""

    runs: dict[Name, Run] = Field(min_length=1, description="Training runs by name.")
    test: bool = Field(
        True,
        description="Judge finished networks on the test images; not while hyper-parameters are chosen.",
    )
    claims: Roles | None = Field(None, description="The runs that the report's claims table compares.")
