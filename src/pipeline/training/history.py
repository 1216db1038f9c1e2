"""What a run reports after each epoch."""

from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.training.halves import Noise


@dataclass(frozen=True)
class EpochRecord:
    """Figures of a network after an epoch.

    Attributes:
        epoch: Number of the epoch, from 1.
        steps: Optimizer steps since the start of training.
        seconds: Time in steps since the start of training, without evaluations and checkpoints; a resumed run goes on
            counting. Only the fields in seconds are not reproducible.
        objective: Mean over the epoch of the minimized loss, smoothing included, each step's at its own weights.
        train_loss: True loss (no smoothing) after the epoch on a fixed set of training samples, in nats.
        train_accuracy: Share of these samples that are classified correctly.
        validation_loss: The same on the held-out samples.
        validation_accuracy: The same on the held-out samples.
        n_retries: K-FAC's inversions since the start that needed more damping; 0 without K-FAC, like the next two.
        n_stale: Inversions that failed even then and left the former inverse in place.
        n_skipped: Updates of the factors left out because statistics were not finite.
        gap: Validation loss minus training loss, in nats.
        step_size: About twice the KL divergence between the predictions before and after K-FAC's last, clipped step.
        damping: K-FAC's damping in the last step.
        factor_age: Steps since K-FAC's factors were updated, including the step of the update.
        inverse_age: Steps since the factors were inverted, including the step of the inversion.
        gradient_seconds: The part of `seconds` in forward and backward passes, messages included.
        preconditioner_seconds: The part of `seconds` in K-FAC.
        factor_seconds: The part of `preconditioner_seconds` in the exchange and averaging of factors.
        inverse_seconds: The part of `preconditioner_seconds` in inversions; the rest is spent on natural gradients.
        evaluation_seconds: Time in evaluations, which `seconds` leaves out.
        noise_variance: Trace of the covariance of single samples' gradients, averaged over the steps of the epoch; 0
            unless it was measured. With K-FAC it covers the preconditioned layers, in the metric of the inverse Fisher
            matrix.
        noise_square: The squared norm of the true gradient in the same metric, estimated without bias: it may be
            negative.
        layers: After the last epoch, by layer: "trace_A", "condition_A" (with damping) and the same of the other
            factors, and "pi", the balance by which damping is split between A and G.
    """

    epoch: int
    steps: int
    seconds: float
    objective: float
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    gap: float
    n_retries: int = 0
    n_stale: int = 0
    n_skipped: int = 0
    step_size: float = 0.0
    damping: float = 0.0
    factor_age: int = 0
    inverse_age: int = 0
    gradient_seconds: float = 0.0
    preconditioner_seconds: float = 0.0
    factor_seconds: float = 0.0
    inverse_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    noise_variance: float = 0.0
    noise_square: float = 0.0
    layers: dict[str, dict[str, float]] = field(default_factory=dict)


History = list[EpochRecord]


@dataclass
class RunState:
    """How far a run is.

    Attributes:
        step: Optimizer steps done.
        seconds: Time in steps.
        gradient_seconds: The part of `seconds` in forward and backward passes.
        preconditioner_seconds: The part of `seconds` in K-FAC.
        factor_seconds: The part of `preconditioner_seconds` in factors.
        inverse_seconds: The part of `preconditioner_seconds` in inverses.
        evaluation_seconds: Time in evaluations, which `seconds` leaves out.
        objective_sum: Loss summed over the samples of the running epoch so far.
        n_samples: Number of these samples.
        noise_variance: The estimates of this figure, summed over the steps of the running epoch.
        noise_square: The same for the squared norm of the true gradient.
        history: Records of the completed epochs.
    """

    step: int = 0
    seconds: float = 0.0
    gradient_seconds: float = 0.0
    preconditioner_seconds: float = 0.0
    factor_seconds: float = 0.0
    inverse_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    objective_sum: float = 0.0
    n_samples: int = 0
    noise_variance: float = 0.0
    noise_square: float = 0.0
    history: History = field(default_factory=list)

    def add(self, loss: float, n_samples: int, seconds: float) -> None:
        """Count a step with this mean loss; the times of its parts are added elsewhere."""
        self.step += 1
        self.seconds += seconds
        self.objective_sum += loss * n_samples
        self.n_samples += n_samples

    def add_noise(self, noise: Noise) -> None:
        """Add the noise estimated from a step's batch."""
        self.noise_variance += noise.variance
        self.noise_square += noise.square

    def end_epoch(self, record: EpochRecord) -> None:
        """Keep the record and start the next epoch's sums."""
        self.history.append(record)
        self.objective_sum, self.n_samples = 0.0, 0
        self.noise_variance = self.noise_square = 0.0

    def to_scalars(self) -> dict[str, Any]:
        """Return all fields as values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_scalars(cls, scalars: dict[str, Any]) -> "RunState":
        """Invert `to_scalars`; other entries are ignored."""
        own = {name: scalars[name] for name in cls.__dataclass_fields__}
        own["history"] = [EpochRecord(**record) for record in own["history"]]
        return cls(**own)
