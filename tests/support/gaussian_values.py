"""Values drawn from a Gaussian process, and scikit-learn's regressor of the same one."""

import numpy as np

from pipeline.hmatrix import kernels

KERNEL = kernels.Matern(nu=1.5, length_scale=0.2, variance=2.0)
NUGGET = 0.05


def sample(n, kernel=KERNEL, nugget=NUGGET, seed=0, dimension=2):
    generator = np.random.default_rng(seed)
    points = generator.random((n, dimension))
    root = np.linalg.cholesky(kernel(points, points) + nugget * np.eye(n))
    return points, root @ generator.standard_normal(n)


def theirs():
    # Takes two seconds, which every process of the tests would spend.
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process import kernels as sk

    kernel = sk.ConstantKernel(2.0) * sk.Matern(0.2, nu=1.5) + sk.WhiteKernel(NUGGET)
    return GaussianProcessRegressor(kernel, optimizer=None)
