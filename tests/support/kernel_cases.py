"""One case for every kernel, for the tests of entries and of compressed products."""

from pipeline.hmatrix import kernels


def absolute_difference(targets, sources):
    return (targets[..., :, None, 0] - sources[..., None, :, 0]).abs()


KERNEL_CASES = {
    "matern": kernels.Matern(nu=1.5, length_scale=0.3, variance=2.0),
    "squared_exponential": kernels.SquaredExponential(length_scale=0.4),
    "rational_quadratic": kernels.RationalQuadratic(length_scale=0.4, alpha=1.7),
    "laplace_single_layer": kernels.LaplaceSingleLayer(),
    "helmholtz": kernels.Helmholtz(wavenumber=3.0),
    "yukawa": kernels.Yukawa(decay=2.0),
    "thin_plate": kernels.ThinPlate(variance=2.0),
    "custom": kernels.Custom(absolute_difference, symmetric=True),
    "imported": kernels.Imported("torch:cdist", symmetric=True),
}
