"""Predictions of a fitted model: means, variances and random fields at new points, and leave-one-out predictions."""

import logging
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipeline.errors import ConvergenceError
from pipeline.hmatrix.admissibility import Strong
from pipeline.hmatrix.gaussian_process.cross import Sources, exactly
from pipeline.hmatrix.gaussian_process.divided import all_rows, kept, root_mean_square, total
from pipeline.hmatrix.gaussian_process.left_out import left_one_out
from pipeline.hmatrix.gaussian_process.likelihood import LikelihoodEvaluation
from pipeline.hmatrix.gaussian_process.prepared import of_noise, prepared, solved
from pipeline.hmatrix.gaussian_process.trend import Regressors
from pipeline.hmatrix.gaussian_process.variances import (
    RESIDUAL,
    exact_variances,
    fields_of,
    inverse_diagonal,
    variances_from_near,
    warned,
)
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.matrix import H2Matrix

logger = logging.getLogger("pipeline.hmatrix")

Array = NDArray[np.float64]

_DIRECT = 4_000_000  # entries of a cross-covariance that is not worth compressing
AT_A_TIME = 2**18  # new points
CHECKED = 64  # rows of a cross-covariance that are also multiplied exactly
LEAST_CHECKED = 8  # further rows in each part of the new points
ENOUGH = 1e-5  # accepted error of a predicted mean, in standard deviations of the values
FEW = 256  # new points whose variances cost one solve each
_OF_WANTED = 0.5  # share of the accepted error that the first product with a cross-covariance aims at
TIGHTEST, _LOOSEST = 1e-11, 1e-5  # tolerances of such products
JITTER = 1e-6  # share of the variance: noise that random fields are drawn with
_LEAST_JITTER = 1e-9  # the least share, for values with hardly any noise
_OF_NOISE = 0.01  # share of the values' least noise: more would show beside the uncertainty that they leave
DENSE = 2048  # points up to which fields are drawn by dense algebra if values have less noise
_LEAST_RESIDUAL = 1e-12  # smallest relative residual of solves with random fields


@dataclass(frozen=True, eq=False)
class Conditional:
    """The distribution of a Gaussian process given values.

    Attributes:
        points: Shape (n, d).
        values: Shape (n,).
        noise: Variances of the values' noise, shape (n,).
        regressors: Regressors of the mean.
        fitted: Likelihood at the parameters in use, with weights and factorization.
        seed: Seed of the fields drawn for variances.
    """

    points: Array
    values: Array
    noise: Array
    regressors: Regressors
    fitted: LikelihoodEvaluation
    seed: int = 0

    @kept
    def _prepared(self) -> tuple[LikelihoodEvaluation, float]:
        """The model with weights and trend as accurate as the values' noise requires, and their residual."""
        return prepared(self.fitted, self.points, self.values, self._basis, self.noise)

    @property
    def model(self) -> LikelihoodEvaluation:
        """The model that predictions are made with."""
        return self._prepared[0]

    @property
    def residual(self) -> float:
        """Root mean square of the weights' residual on sampled exact rows, in the values' unit."""
        return self._prepared[1]

    @kept
    def _basis(self) -> Array:
        return self.regressors(self.points)

    def predict(
        self, new_points: Array, *, exact: bool | None = None, variances: bool = True
    ) -> tuple[Array, Array, float]:
        """Return means, variances of the field without noise, both of shape (q,), and the error of standard deviations.

        The means are a rectangular H2 product, checked on exact rows. For up to 256 points, or with `exact`, each
        variance costs a solve. For more, variances are predicted from near values, and corrected for the other values
        by 32 random fields (`variances.py`). The error is the root mean square of the standard deviations' relative
        standard errors; a warning is logged if it is 10 % or more.

        Raises:
            ConvergenceError: If the product is not accurate to 1e-5 of the values' standard deviation or so.
        """
        weights, basis = self.model.weights[:, None], self.model.solved_basis
        exact = self._number(new_points) <= FEW if exact is None else exact
        fields = self._fields[1] if variances and not exact else weights[:, :0]
        # One product for all vectors.
        images = self._cross(new_points, np.column_stack([weights, basis, fields]), check=True)
        p = basis.shape[1]
        regressors = self.regressors(new_points)
        mean = regressors @ self.model.beta + images[:, 0]
        if not variances:
            return mean, np.zeros(0), 0.0
        # A value that is known exactly has no variance, and thus no relative error.
        found, errors = np.zeros(len(new_points)), np.zeros(len(new_points))
        unknown = ~self._known(new_points)
        if exact:
            found[unknown], errors[unknown] = self._exact_variance(new_points[unknown])
        else:
            found[unknown], errors[unknown] = self._corrected_variance(
                new_points[unknown], images[unknown, 1 + p :]
            )
        if p:
            # The coefficients of the trend are uncertain too.
            missed = regressors - images[:, 1 : 1 + p]
            found = found + (missed * np.linalg.solve(self.model.gram, missed.T).T).sum(axis=1)
        return mean, found, warned(self._root_mean_square(errors))

    def _known(self, new_points: Array) -> NDArray[np.bool_]:
        """Return which new points are places of values without noise."""
        exact = all_rows(self.model.communicator, self.points[self.noise == 0])
        if not len(exact) or not len(new_points):
            return np.zeros(len(new_points), np.bool_)
        return np.asarray(cKDTree(exact).query(new_points)[0] == 0)

    def _root_mean_square(self, errors: Array) -> float:
        """Return the root mean square of errors at all new points."""
        return math.sqrt(float(np.mean(errors**2))) if len(errors) else 0.0

    def _cross(self, new_points: Array, x: Array, *, check: bool = False) -> Array:
        """Return k(new_points, points) x for x of shape (n, m), its first column checked on exact rows."""
        kernel, A = self.model.kernel, self.model.A
        assert isinstance(A, H2Matrix)
        if len(new_points) * len(self.points) <= _DIRECT or not isinstance(A.admissibility, Strong):
            return exactly(kernel, new_points, self.points, x)
        wanted = ENOUGH * float(np.std(self.values)) if check else math.inf
        sources = self._sources
        new = sources.places_of(new_points)
        result = np.empty((len(new_points), x.shape[1]))
        parts = list(new.parts(AT_A_TIME))
        n_checked = -(-CHECKED // max(len(parts), 1)) + LEAST_CHECKED
        for chosen in parts:
            rows = np.unique(np.linspace(0, len(chosen) - 1, n_checked).astype(int))
            exact = exactly(kernel, new_points[chosen[rows]], self.points, x[:, :1]) if check else None
            while True:
                result[chosen] = sources.product(new, chosen, x)
                if exact is None:
                    break
                error = float(np.sqrt(np.mean((result[chosen[rows], :1] - exact) ** 2)))
                if error <= wanted:
                    break
                # Later parts start at the tolerance that this one has needed.
                tolerance = tighter(sources.tolerance, error, wanted)
                logger.info(
                    "means err by %.1e at tolerance %.0e (wanted %.1e): the values are compressed anew at %.0e",
                    error, sources.tolerance, wanted, tolerance,
                )  # fmt: skip
                sources = Sources.of(A.form, tolerance)
        for chosen in new.parts_outside(AT_A_TIME):
            result[chosen] = sources.apart(new_points[chosen], x)
        return result

    @kept
    def _sources(self) -> Sources:
        """The values as sources, compressed as their weights need.

        Weights are as irregular as noise, so that a product with them errs by the tolerance times the norm of a row.
        """
        A = self.model.A
        assert isinstance(A, H2Matrix)
        size = float(np.sqrt(np.mean(self.model.weights**2))) * A.norm / math.sqrt(len(self.points))
        wanted = ENOUGH * float(np.std(self.values))
        tolerance = _OF_WANTED * wanted / size if size else _LOOSEST
        return Sources.of(A.form, min(max(tolerance, TIGHTEST), _LOOSEST))

    def _number(self, new_points: Array) -> int:
        """Return the number of new points, over all processes."""
        return len(new_points)

    def _exact_variance(self, new_points: Array) -> tuple[Array, Array]:
        """Return variances by a solve each, and their errors, as `exact_variances` does."""
        return exact_variances(self.model, self.points, self.noise, new_points)

    @kept
    def _fields(self) -> tuple[Array, Array]:
        """Values of random fields drawn from the model, noise included, and A^-1 times them: both of shape (n, S)."""
        return fields_of(self.model, self.noise, self.seed)

    def _corrected_variance(self, new_points: Array, full: Array) -> tuple[Array, Array]:
        """Return variances from near values, corrected by products with the fields, shape (q, S)."""
        return variances_from_near(self.model, self.points, self.noise, new_points, self._fields[0], full)

    def leave_one_out(self) -> tuple[Array, Array, float]:
        """Return mean and standard deviation of each value from the others, (n,), and their error (`left_out.py`)."""
        return left_one_out(self.model, self.points, self.values, self.noise, self._estimated_diagonal)

    def _estimated_diagonal(self) -> tuple[Array, Array]:
        """Return an estimate of the diagonal of A^-1 and its relative errors, both of shape (n,)."""
        return inverse_diagonal(self.model.kernel, self.points, self.noise, *self._fields)

    def sample(self, new_points: Array, n_samples: int, generator: np.random.Generator) -> Array:
        """Return random fields given the values, at new points, shape (q, n_samples), noise not included.

        A field is drawn at the values' points and new points together, and corrected by the values [1]: this costs one
        factorization of n + q points, and one solve and product for each field. Drawing needs a little noise: a
        millionth of the variance, or a hundredth of the values' noise if that is less, but at least a billionth. It is
        subtracted from the noise that the values get. If a billionth is too much, fields at up to 2,048 points in all
        are drawn by dense algebra, without such noise.

        Raises:
            ConvergenceError: If the joint covariance is not positive definite.

        References:
            [1] Wilson, Borovitskiy, Terenin, Mostowsky, Deisenroth, "Pathwise conditioning of Gaussian processes", JMLR
                2021, equation 11.
        """
        n, group = len(self.points), self.model.communicator
        fields, normal, drawn_noise = self._joint_fields(new_points, n_samples, generator)
        noisy = fields[:n] + np.sqrt(np.maximum(self.noise - drawn_noise, 0.0))[:, None] * normal
        # Conditioning on the drawn values by P includes the trend's uncertainty.
        missed = self._solve(noisy)
        basis, gram = self.model.solved_basis, self.model.gram
        beta: Array = np.zeros((0, n_samples))
        if len(gram):
            beta = np.asarray(np.linalg.solve(gram, total(group, basis.T @ noisy)))
            missed = missed - basis @ beta
        result = fields[n:] - self._cross(new_points, missed) - self.regressors(new_points) @ beta
        return np.asarray(result + self.predict(new_points, variances=False)[0][:, None])

    def _solve(self, b: Array) -> Array:
        """Return A^-1 b for b of shape (n, m), as accurately as the noise requires."""
        group = self.model.communicator
        relative = of_noise(self.noise, group) / (root_mean_square(group, b) or 1.0)
        return solved(self.model, b, min(max(relative, _LEAST_RESIDUAL), RESIDUAL))[0]

    def _joint_fields(
        self, new_points: Array, n_samples: int, generator: np.random.Generator
    ) -> tuple[Array, Array, float]:
        """Return fields at values and new points, shape (n + q, n_samples), normal numbers, and the fields' own noise.

        The normal numbers are for the values' noise, shape (n, n_samples).
        """
        kernel = self.model.kernel
        joint = np.concatenate([self.points, new_points])
        variance = float(kernel.diagonal(joint).max())
        drawn_noise, is_little = noise_of_fields(float(self.noise.min()), variance)
        if not is_little and len(joint) <= DENSE:
            fields, drawn_noise = dense_fields(kernel, joint, n_samples, generator), 0.0
        else:
            warn_of_fields(is_little)
            tolerance = min(1e-7, 0.1 * drawn_noise / variance)
            matrix = H2Matrix.from_kernel(joint, kernel, diagonal=drawn_noise, tolerance=tolerance)
            fields = matrix.factorize(tolerance, kind="cholesky").sample(generator, n_samples).numpy()
        return fields, generator.standard_normal((len(self.points), n_samples)), drawn_noise


def noise_of_fields(least: float, variance: float) -> tuple[float, bool]:
    """Return the variance of random fields' own noise, for values with noise of `least` or more, and if it is little.

    It is little if it does not show beside the uncertainty that such values leave.
    """
    wanted, possible = min(JITTER * variance, _OF_NOISE * least), _LEAST_JITTER * variance
    return max(wanted, possible), wanted >= possible


def warn_of_fields(is_little: bool) -> None:
    """Log a warning unless the fields' own noise is little."""
    if not is_little:
        logger.warning(
            "random fields have noise of %.0e of their variance, which may be more than values without noise leave "
            "unknown: give a nugget, or at most %d points",
            _LEAST_JITTER, DENSE,
        )  # fmt: skip


def dense_fields(kernel: Kernel, points: Array, n_samples: int, generator: np.random.Generator) -> Array:
    """Return fields at points without any noise, shape (n, n_samples)."""
    values, vectors = np.linalg.eigh(kernel(points, points))
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return np.asarray(root @ generator.standard_normal((len(points), n_samples)))


def tighter(tolerance: float, error: float, wanted: float) -> float:
    """Return a tolerance at which products should err by `wanted`, given a larger error at `tolerance`.

    Raises:
        ConvergenceError: If `tolerance` is the tightest already.
    """
    if tolerance <= TIGHTEST:
        raise ConvergenceError(
            f"predicted means err by {error:.1e} on exact rows (wanted {wanted:.0e}): the values' weights are too "
            "large for the compressed product; raise the nugget"
        )
    return max(tolerance * min(0.1, 0.3 * wanted / error), TIGHTEST)


def as_tensor_like(values: Array, given: object) -> "Array | torch.Tensor":
    """Return values as a tensor on the device of `given` if that is a tensor, else as they are."""
    return torch.from_numpy(values).to(given.device) if isinstance(given, torch.Tensor) else values
