"""The likelihood of a Gaussian process, its gradient and its information, from factorizations.

With covariance A(theta) = K + nugget N, values y and regressors H of unknown coefficients,

    L = -1/2 (log det A + r' A^-1 r + n log 2 pi),  r = y - H beta,  beta by generalized least squares,

and REML subtracts 1/2 log det(H' A^-1 H), and p from n [1]. Parameters enter as logarithms. For the derivative A_i of
A, and P = A^-1 - A^-1 H (H' A^-1 H)^-1 H' A^-1,

    dL/dtheta_i = 1/2 (y' P A_i P y - tr A^-1 A_i)    (REML: tr P A_i).

For the nugget, and for a parameter that scales the whole kernel, these are products with N, since A P y = r, and
tr A^-1 N, estimated with random signs on far-apart points (`probes.py`). All other derivatives are symmetric
differences of L between two factorizations, whose errors cancel between log-determinant and quadratic form.

The average information [2], 1/2 y' P A_i P A_j P y, is the mean of observed and expected information where the
likelihood is greatest. With d_i = d(P y)/dtheta_i = -P A_i P y, which the same differences give, it is
1/2 (L^T d_i)' (L^T d_j) for the root L of A.

References:
    [1] Harville, "Maximum likelihood approaches to variance component estimation", JASA 1977.
    [2] Gilmour, Thompson, Cullis, "Average information REML", Biometrics 1995, equation 4.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConvergenceError
from pipeline.hmatrix.distributed.factor import DistributedFactorization
from pipeline.hmatrix.factorization import Factorization
from pipeline.hmatrix.gaussian_process.divided import (
    Covariance,
    agreed,
    compressed,
    factorized_with,
    from_first,
    kept,
    rows_on_first,
    total,
    without_blocks,
)
from pipeline.hmatrix.gaussian_process.parameters import (
    NUGGET,
    Parameter,
    logarithms,
    with_logarithms,
)
from pipeline.hmatrix.gaussian_process.probes import (
    colors_of_rows,
    diagonal_of_inverse_trace,
)
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.matrix import H2Matrix
from pipeline.hmatrix.streams import Purpose, stream
from pipeline.runtime.communicator import Communicator

logger = logging.getLogger("pipeline.hmatrix")

Array = NDArray[np.float64]

# Accepted estimated error, in nats. From 2,048 values on it grows as the likelihood's standard deviation sqrt(n / 2).
# It is 1.5 thousandths of that, and moves a parameter by about this share of its standard error. From 65,536 values on
# it grows as n: at a million it is six thousandths, and a smaller error would cost memory in vain.
_NATS, _NATS_AT, _OF_VALUES, _MANY = 0.05, 0.1, 8192, 65536
_AIMED = 0.5  # share of the accepted error that a tolerance aims at, given the error at another
_GROWTH = 1.9  # power of the number of values by which the error grows; 1.6 to 1.9 were found
_PROBES = 4
_TIGHTEST = 1e-10
_TIGHTENINGS = 5
_STEP = 1e-2  # step of a logarithm: a factorization's error, divided by it, stays far below a standard error


@dataclass(frozen=True, eq=False)
class LikelihoodEvaluation:
    """The likelihood at one point, with the quantities that predictions need.

    Attributes:
        theta: Logarithms of the parameters.
        kernel, nugget: Kernel and nugget at theta.
        value: Log-likelihood, in nats.
        error: Estimated error of `value`, in nats: the differences of the factorization's log-determinant and quadratic
            form from A's, to first order. If the values fit the model, the two almost cancel. This is the root mean
            square of the estimates of four random vectors, and includes their scatter: the error, which is the mean of
            such estimates, is more than three times as large with a probability below 1 %.
        tolerance: Tolerance of compression and factorization that was needed.
        A: Covariance of the values; `light` leaves out its blocks.
        F: Factorization of A.
        weights: A^-1 (y - H beta), shape (n,).
        beta: Coefficients of the regressors, shape (p,).
        solved_basis: A^-1 H, shape (n, p).
        gram: H' A^-1 H, shape (p, p).
        communicator: The processes, each of which has n of the rows; None if one process has all.
        is_light: Whether A has no blocks.
    """

    theta: Array
    kernel: Kernel
    nugget: float
    value: float
    error: float
    tolerance: float
    A: Covariance
    F: Factorization | DistributedFactorization
    weights: Array
    beta: Array
    solved_basis: Array
    gram: Array
    communicator: Communicator | None = None
    is_light: bool = False

    def light(self) -> "LikelihoodEvaluation":
        """Return the evaluation without A's blocks: derivatives need none, and a search takes half of the memory."""
        return replace(self, A=without_blocks(self.A), is_light=True)

    def project(self, b: Array) -> Array:
        """Return P b for b of shape (n, m)."""
        solved = np.asarray(self.F.solve(b))
        if not len(self.gram):
            return solved
        inner = total(self.communicator, self.solved_basis.T @ b)
        return np.asarray(solved - self.solved_basis @ np.linalg.solve(self.gram, inner))


@dataclass(frozen=True, eq=False)
class Derivatives:
    """How the likelihood depends on its parameters at one point.

    Attributes:
        gradient: Derivatives by the logarithms of the parameters, shape (parameters,).
        error: Standard error of the gradient's random estimates, shape (parameters,).
        information: The average information, shape (parameters, parameters).
        noise: Part of the information's diagonal that comes from errors of factorizations, shape (parameters,).
    """

    gradient: Array
    error: Array
    information: Array
    noise: Array


@dataclass(frozen=True, eq=False)
class Likelihood:
    """The log-likelihood of values as a function of the logarithms of a kernel's parameters and the nugget.

    Attributes:
        points: Shape (n, d).
        values: Shape (n,).
        basis: Regressors of the mean, shape (n, p).
        noise: Relative variances of the noise, shape (n,): the diagonal is nugget times these.
        kernel: The kernel whose `parameters` vary.
        parameters: Parameters of the kernel that vary.
        nugget: Variance of the noise, or its start if it varies.
        nugget_varies: Whether the nugget is a parameter too, the last one.
        tolerance: Tolerance of compression and factorization. It is tightened if the likelihood would err by more than
            .05 nats or, for many values, a few thousandths of its standard deviation: .1 at 8,192, .3 at 65,536, 4.3 at
            a million.
        restricted: Whether to take the restricted likelihood (REML).
        seed: Seed of the random signs: the same for every call, so that equal arguments give equal results.
        communicator: The processes, each of which has n of the rows; None if one process has all. With processes, every
            method is collective.
    """

    points: Array
    values: Array
    basis: Array
    noise: Array
    kernel: Kernel
    parameters: tuple[Parameter, ...]
    nugget: float
    nugget_varies: bool
    tolerance: float = 1e-6
    restricted: bool = False
    seed: int = 0
    communicator: Communicator | None = None
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = tuple(parameter.name for parameter in self.parameters)
        object.__setattr__(self, "names", (*names, NUGGET) if self.nugget_varies else names)

    @kept
    def n_values(self) -> int:
        """Values of all processes."""
        return int(total(self.communicator, np.array([len(self.values)]))[0])

    @property
    def start(self) -> Array:
        """The logarithms of the parameters as they are given."""
        values = logarithms(self.kernel, self.parameters)
        return np.append(values, math.log(self.nugget)) if self.nugget_varies else values

    def parameters_at(self, theta: Array) -> tuple[Kernel, float]:
        """Return the kernel and the nugget that logarithms stand for."""
        kernel = with_logarithms(self.kernel, self.parameters, theta[: len(self.parameters)])
        return kernel, float(np.exp(theta[-1])) if self.nugget_varies else self.nugget

    @property
    def allowed_error(self) -> float:
        """Accepted estimated error of the likelihood, in nats."""
        spread = _NATS_AT * math.sqrt(self.n_values / _OF_VALUES)
        return max(_NATS, spread * max(1.0, math.sqrt(self.n_values / _MANY)))

    def foreseen(self, part: LikelihoodEvaluation, n_part: int) -> float:
        """Predict the tolerance that all values need from what a subset of `n_part` values has needed."""
        error = part.error * math.pow(self.n_values / n_part, _GROWTH)
        return min(
            max(part.tolerance * _AIMED * self.allowed_error / max(error, 1e-300), _TIGHTEST), self.tolerance
        )

    def for_predictions(self, theta: Array) -> LikelihoodEvaluation:
        """Evaluate as accurately as predictions need: they iterate on A, whose factorization only has to be definite.

        If the nugget is small beside tolerance times norm, this takes a fraction of the time and memory of `at`, but
        the value may be inaccurate, as `error` tells. For one process only.

        Raises:
            ConvergenceError: If no tolerance makes the covariance positive definite.
        """
        kernel, nugget = self.parameters_at(theta)
        used = self.tolerance
        while True:
            try:
                return self._evaluate(theta, kernel, nugget, used, checked=False)
            except ConvergenceError:
                if used <= _TIGHTEST:
                    raise
            used = max(used / 10, _TIGHTEST)

    def at(
        self, theta: Array, *, tolerance: float | None = None, found: LikelihoodEvaluation | None = None
    ) -> LikelihoodEvaluation:
        """Evaluate the likelihood, at a tighter tolerance if it would not be accurate.

        Costs one compression, one factorization, and a solve with p + 1 right-hand sides. An evaluation at theta that
        was `found` before serves as the first attempt.

        Raises:
            ConvergenceError: If no tolerance makes the covariance positive definite, or its solves accurate.
        """
        theta = agreed(self.communicator, np.asarray(theta, dtype=np.float64))
        kernel, nugget = self.parameters_at(theta)
        used = self.tolerance if tolerance is None else tolerance
        if found is not None:
            used = found.tolerance
        allowed = self.allowed_error
        F: Factorization | DistributedFactorization | None = None
        for attempt in range(_TIGHTENINGS + 1):
            last = attempt == _TIGHTENINGS or used <= _TIGHTEST
            try:
                if found is None:
                    found = self._evaluate(theta, kernel, nugget, used, F)
            except ConvergenceError:
                if last:
                    raise
                used = max(used / 10, _TIGHTEST)
                continue
            if found.error > allowed and last:
                logger.warning(
                    "the log-likelihood errs by about %.2g nats even at tolerance %.0e: raise the nugget's lower bound",
                    found.error, found.tolerance,
                )  # fmt: skip
            if found.error <= allowed or last:
                return found
            # The error is proportional to the tolerance.
            used = max(used * min(0.1, _AIMED * allowed / found.error), _TIGHTEST)
            # A factorization that had to be tighter than asked serves again: only the matrix is not accurate enough.
            F = found.F if found.F.used_tolerance <= used else None
            found = None  # nor its matrix and factorization, when the next ones are made
        raise AssertionError("the last attempt returns or raises")

    def _evaluate(
        self,
        theta: Array,
        kernel: Kernel,
        nugget: float,
        tolerance: float,
        F: Factorization | DistributedFactorization | None = None,
        *,
        checked: bool = True,
    ) -> LikelihoodEvaluation:
        group = self.communicator
        A = compressed(self.points, kernel, group, diagonal=nugget * self.noise, tolerance=tolerance)
        if F is None:
            if isinstance(A, H2Matrix):
                F = A.factorize(tolerance, "cholesky", checked=checked)
            else:
                F = A.factorize(tolerance, "cholesky")
        probes = self._probes()
        solution, solved_probes = self._solve(F, probes)
        weights = solution.weights
        images = np.asarray(A @ np.column_stack([weights, solved_probes]))
        sums = [weights @ images[:, 0], *(probes * (images[:, 1:] - probes)).sum(axis=0)]
        represented, *traces = total(group, np.array(sums))
        # With E = A - F: log det A is trace(F^-1 E) more to first order, and the quadratic form w' E w less.
        lost = np.array(traces) - (represented - solution.quadratic)
        error = 0.5 * float(np.sqrt(np.mean(lost**2)))
        constant = (self.n_values - self.basis.shape[1] * self.restricted) * math.log(2 * math.pi)
        value = solution.value - 0.5 * constant
        value, error = agreed(group, np.array([value, error])).tolist()
        return LikelihoodEvaluation(
            theta, kernel, nugget, value, error, tolerance, A, F,
            weights, solution.beta, solution.solved_basis, solution.gram, group,
        )  # fmt: skip

    def _solve(
        self, F: Factorization | DistributedFactorization, others: Array | None = None
    ) -> tuple["_Solution", Array]:
        """Return a factorization's solution for the values, and its solutions for other right-hand sides, (n, m)."""
        p = self.basis.shape[1]
        others = self.values[:, None][:, :0] if others is None else others
        solved = np.asarray(F.solve(np.column_stack([self.values, self.basis, others])))
        solved_basis = solved[:, 1 : 1 + p]
        inner = total(self.communicator, self.basis.T @ solved[:, : 1 + p])
        gram = (inner[:, 1:] + inner[:, 1:].T) / 2
        beta = np.asarray(np.linalg.solve(gram, inner[:, 0])) if p else np.zeros(0)
        weights = np.asarray(solved[:, 0] - solved_basis @ beta)
        residual = self.values - self.basis @ beta
        quadratic = float(total(self.communicator, np.array([residual @ weights]))[0])
        value = -0.5 * (F.logdet() + quadratic)
        if self.restricted and p:
            value -= 0.5 * float(np.linalg.slogdet(gram)[1])
        return _Solution(value, quadratic, weights, beta, solved_basis, gram), solved[:, 1 + p :]

    def whole(self, at: LikelihoodEvaluation) -> LikelihoodEvaluation:
        """Return an evaluation with A's blocks, which are compressed again if `light` left them out."""
        if not at.is_light:
            return at
        A = compressed(
            self.points, at.kernel, self.communicator, diagonal=at.nugget * self.noise, tolerance=at.tolerance
        )
        return replace(at, A=A, is_light=False)

    def _probes(self) -> Array:
        """Return random signs, shape (n, 4), that measure the error of a factorization's log-determinant."""
        generator = stream(
            Purpose.SIGNS, self.seed, 0 if self.communicator is None else self.communicator.rank
        )
        return generator.choice([-1.0, 1.0], (len(self.values), _PROBES))

    def derivatives(self, at: LikelihoodEvaluation) -> Derivatives:
        """Return gradient and average information at a point.

        Costs two factorizations with a solve for every parameter but the nugget and one that scales the whole kernel,
        and a block of solves.
        """
        group = self.communicator
        moves = np.empty((len(self.values), len(self.names)))  # d(P y)/dtheta
        noises = np.zeros_like(moves)
        gradient, errors = np.zeros(len(self.names)), np.zeros(len(self.names))
        colors = colors_of_rows(self.points, at.A, self.n_values)
        trace, noise_error = diagonal_of_inverse_trace(at.F, colors, self.noise, self.seed, group)
        noise_trace, noise_error = at.nugget * trace, at.nugget * noise_error
        noise = at.nugget * self.noise
        scaled, residual = noise * at.weights, self.values - self.basis @ at.beta
        noise_quadratic, quadratic = total(group, np.array([at.weights @ scaled, at.weights @ residual]))
        n_free = self.n_values
        if self.restricted and len(at.gram):
            inner = total(group, at.solved_basis.T @ (noise[:, None] * at.solved_basis))
            noise_trace -= float(np.trace(np.linalg.solve(at.gram, inner)))
            n_free -= len(at.gram)
        from_noise = at.project(scaled[:, None])[:, 0]
        for i, name in enumerate(self.names):
            if i == len(self.parameters):
                moves[:, i], errors[i] = -from_noise, noise_error
                gradient[i] = 0.5 * (noise_quadratic - noise_trace)
            elif self.parameters[i].scales_all:
                # K = A - nugget N, and P A P = P
                moves[:, i], errors[i] = from_noise - at.weights, noise_error
                gradient[i] = 0.5 * ((quadratic - noise_quadratic) - (n_free - noise_trace))
            else:
                gradient[i], moves[:, i], noises[:, i] = self._difference(at, i)
            logger.info("derivative by %s: %.6g", name, gradient[i])
        roots = np.asarray(at.F.multiply_root_transposed(np.column_stack([moves, noises])))
        known, unknown = np.split(roots, 2, axis=1)
        information, noise_of_it = total(group, known.T @ known), total(group, (unknown**2).sum(axis=0))
        return Derivatives(gradient, 0.5 * errors, 0.5 * information, 0.5 * noise_of_it)

    def _difference(self, at: LikelihoodEvaluation, i: int) -> tuple[float, Array, Array]:
        """Return dL/dtheta_i, d(P y)/dtheta_i, and noise like that of the latter; both of shape (n,).

        The derivatives are symmetric differences. The second difference of P y is almost pure noise: the errors of
        three factorizations, which have little in common, give it 3 times the variance of the first difference.
        """
        ends = []
        for step in (_STEP, -_STEP):
            theta = at.theta.copy()
            theta[i] += step
            # One factorization at a time, beside that of the point itself.
            ends.append(self._solve(factorized_with(at.A, self.parameters_at(theta)[0], at.tolerance))[0])
        after, before = ends
        noise = (after.weights + before.weights - 2 * at.weights) / (2 * _STEP * math.sqrt(3))
        return (
            (after.value - before.value) / (2 * _STEP),
            (after.weights - before.weights) / (2 * _STEP),
            noise,
        )


@dataclass(frozen=True, eq=False)
class _Solution:
    """A solution for the values: L without its constant, r' A^-1 r, and attributes as in `LikelihoodEvaluation`."""

    value: float
    quadratic: float
    weights: Array
    beta: Array
    solved_basis: Array
    gram: Array


def on_first(likelihood: Likelihood, work: Callable[[Likelihood], Array]) -> Array:
    """Return the result of `work` on the data of all processes, which process 0 gathers; collective."""
    group = likelihood.communicator
    if group is None:
        return work(likelihood)
    parts = (likelihood.points, likelihood.values, likelihood.basis, likelihood.noise)
    points, values, basis, noise = (rows_on_first(group, part) for part in parts)
    whole = replace(likelihood, points=points, values=values, basis=basis, noise=noise, communicator=None)
    return from_first(group, lambda: work(whole))
