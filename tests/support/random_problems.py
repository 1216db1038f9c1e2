"""Random kernels, scales, diagonals, tolerances and precisions, from harmless to hopeless."""

import numpy as np

from pipeline.hmatrix import kernels

N = 800

# Largest allowed ratio of the standard deviations' relative errors (root mean square) to their stated error.
# Corrections are means of 32 squares, u = (their relative error) / sqrt(2 / 32). By Markov and Jensen, a mean over
# points of u^2 exceeds 4^2 with probability at most E u^8 / 4^8, less than 1 %, however points depend on each other.
STATED_ERRORS = 4


def random_problem(seed):
    """Return points, kernel, diagonal and tolerance, and the random generator that drew them."""
    generator = np.random.default_rng(seed)
    dimension = int(generator.integers(1, 4))
    unit = 10.0 ** generator.uniform(-6, 6)
    points = unit * (generator.random((N, dimension)) + generator.choice([0.0, 1e3]))
    if generator.random() < 0.3:
        points[:20] = points[20:40] + 1e-6 * unit
    length, variance = unit * 10.0 ** generator.uniform(-1.5, 0.5), 10.0 ** generator.uniform(-3, 3)
    kernel = [
        kernels.Matern(length, variance, float(generator.choice([0.5, 1.5, 2.5]))),
        kernels.SquaredExponential(length, variance),
        kernels.RationalQuadratic(length, variance, alpha=1.5),
        kernels.Matern(length, variance) + kernels.SquaredExponential(2 * length, variance),
        kernels.Matern(length, variance) * kernels.Matern(3 * length, nu=1.5),
    ][int(generator.integers(5))]
    diagonal = variance * 10.0 ** generator.uniform(-9, 1, N if generator.random() < 0.3 else None)
    tolerance = 10.0 ** generator.uniform(-9, -2)
    if generator.random() < 0.25:
        points, tolerance = points.astype(np.float32), max(tolerance, 1e-5)
    return points, kernel, diagonal, tolerance, generator


def relative(found, wanted):
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
