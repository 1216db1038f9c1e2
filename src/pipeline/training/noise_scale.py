"""The critical batch size of a method, predicted from the noise of its gradients at a small batch size.

Where single samples' gradients have mean G and covariance S, the noise scale is B = tr(S) / |G|^2, and a step of a
batch b makes 1 / (1 + B / b) of the progress that a step without noise would [1, equation 2.6]. B changes during
training. The run makes the progress of s = sum 1 / (1 + B / b) steps without noise, for which a very small batch would
need e = sum B / (1 + B / b) samples [1, appendix D]. The critical batch size is e / s: a batch of that size needs twice
the samples of a very small one, and twice the steps of a very large one.

References:
    [1] McCandlish, Kaplan, Amodei et al., "An empirical model of large-batch training", 2018, arXiv:1812.06162.
"""

import math
from collections.abc import Iterable

from pipeline.training.halves import Noise


def noise_scale(noise: Noise) -> float:
    """Return tr(S) / |G|^2, in samples; infinite where noise hides the gradient."""
    return noise.variance / noise.square if noise.square > 0 else math.inf


def critical_batch(phases: Iterable[tuple[int, Noise]], batch_size: float) -> float:
    """Return the batch size that needs twice the samples of a very small one.

    Args:
        phases: Number of steps and their noise, for each part of training.
        batch_size: Samples of each of these steps.

    Returns:
        A number of samples; infinite where noise hides the gradient throughout.
    """
    steps = samples = 0.0
    for n_steps, noise in phases:
        square, variance = max(noise.square, 0.0), max(noise.variance, 0.0)
        if square == variance == 0:
            continue
        share = n_steps * batch_size / (batch_size * square + variance)
        steps += share * square
        samples += share * variance
    return samples / steps if steps else math.inf
