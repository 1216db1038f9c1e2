"""Loss and accuracy of a network."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.runtime.communicator import Communicator, Serial
from pipeline.training.sampling import Samples, cut, n_pieces

BATCH = 1024  # samples of one pass; bounds the memory of activations


@dataclass(frozen=True)
class Evaluation:
    """Figures over all samples.

    Attributes:
        loss: Mean cross-entropy with hard labels, without any smoothing, in nats.
        accuracy: Share of samples whose highest score is their label, in [0, 1].
        n_samples: Number of samples.
        predictions: Class of each sample, shape (n_samples,), int64.
    """

    loss: float
    accuracy: float
    n_samples: int
    predictions: Tensor


@torch.no_grad()
def evaluate(model: nn.Module, samples: Samples, *, communicator: Communicator | None = None) -> Evaluation:
    """Measure a network in evaluation mode; its mode is restored.

    The processes take consecutive parts of the samples and all return the same figures.
    """
    communicator = communicator or Serial()
    part = cut(len(samples), communicator.size)[communicator.rank]
    n = part.stop - part.start
    totals = torch.zeros(2, dtype=torch.float64, device=samples.labels.device)
    predictions = [samples.labels.new_empty(0)]
    was_training = model.training
    model.eval()
    for piece in cut(n, n_pieces(n, BATCH)):
        # Only this piece is read where samples stay in their file.
        images, labels = (
            values[part.start + piece.start : part.start + piece.stop]
            for values in (samples.images, samples.labels)
        )
        # A copy starts at an aligned address wherever the samples came from; the rounding of products depends on that.
        scores = model(images.clone())
        predictions.append(scores.argmax(dim=1))
        totals[0] += functional.cross_entropy(scores, labels, reduction="none").double().sum()
        totals[1] += (predictions[-1] == labels).sum()
    model.train(was_training)
    communicator.all_reduce(totals)
    loss, accuracy = (totals / max(len(samples), 1)).tolist()
    return Evaluation(
        loss, accuracy, len(samples), torch.cat(communicator.all_gather(torch.cat(predictions)))
    )
