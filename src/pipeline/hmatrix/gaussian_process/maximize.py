"""Maximum likelihood by scoring: Newton steps with the average information in place of the Hessian.

The information is the mean of the expected and the observed one, so that a few steps suffice where a quasi-Newton
method first has to learn the curvature [1]. Steps are damped as Levenberg and Marquardt do, and held within bounds.

References:
    [1] Gilmour, Thompson, Cullis, "Average information REML", Biometrics 1995.
"""

import logging
import math
import time
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear, minimize

from pipeline.errors import ConvergenceError
from pipeline.hmatrix.gaussian_process.divided import agreed
from pipeline.hmatrix.gaussian_process.likelihood import Derivatives, Likelihood, LikelihoodEvaluation

logger = logging.getLogger("pipeline.hmatrix")

Array = NDArray[np.float64]

_GAIN = 1e-3  # nats that a step must promise
_LAST, _NEAR = 1e-2, 0.3  # a shorter step that promises less is the last: it leaves about a tenth of the gain
_DOUBTED = 0.1  # nats that a step may promise because of the gradient's error alone
_UNLIKE = 0.25  # share of a likelihood's error that neighboring points do not have in common
_LONGEST = 1.5  # longest step in any logarithm
_AT_BOUND = 1e-3  # distance of a logarithm from its bound
_FLAT = 3.0  # standard error of a logarithm: the likelihood does not tell a factor of 20 from none
_SILENT = 1e-12  # share of the largest eigenvalue of the information: rounding does not tell less from 0
_UNKNOWN = 1e3  # standard error of a logarithm: the values tell nothing
_TOLD = 3.0  # times the noise of a parameter's information: less information is noise
_DAMPINGS = 8
_EVALUATE, _DONE, _GIVEN_UP = 0.0, 1.0, 2.0  # what process 0 tells the others of its search


@dataclass(frozen=True, eq=False)
class Optimum:
    """The maximum of the likelihood.

    Attributes:
        evaluation: The likelihood there, without the blocks of its matrix; `Likelihood.whole` adds them.
        derivatives: Gradient and information there, or before a last step of less than .01 nats.
        iterations: Evaluations with derivatives.
        notes: Remarks for the caller: parameters at bounds or without effect, a search that ended early.
    """

    evaluation: LikelihoodEvaluation
    derivatives: Derivatives
    iterations: int
    notes: tuple[str, ...]

    def standard_errors(self, lower: Array, upper: Array) -> Array:
        """Return standard errors of the logarithms from the information; NaN for parameters at a bound or fixed."""
        theta = self.evaluation.theta
        inner = (theta > lower + _AT_BOUND) & (theta < upper - _AT_BOUND)
        errors = np.full(len(theta), np.nan)
        # The values tell nothing about a parameter whose information is noise.
        told = np.diag(self.derivatives.information) > _TOLD * self.derivatives.noise
        errors[inner & ~told] = np.inf
        inner &= told
        known = self.derivatives.information - np.diag(self.derivatives.noise)
        information = known[np.ix_(inner, inner)]
        if inner.any():
            values, vectors = np.linalg.eigh(information)
            values = np.maximum(values, _SILENT * max(values.max(), 1e-300))
            found = np.sqrt((vectors**2 / values).sum(axis=1))
            errors[inner] = np.where(found < _UNKNOWN, found, np.inf)
        return errors


def by_scoring(
    likelihood: Likelihood, start: Array, lower: Array, upper: Array, *, max_iterations: int = 30
) -> Optimum:
    """Maximize a likelihood by damped scoring steps, until one promises less than .001 nats, or .01 and was taken.

    Args:
        likelihood: The likelihood to maximize.
        start: Logarithms to start from, shape (parameters,).
        lower, upper: Bounds of the logarithms; equal ones hold a parameter fixed.
        max_iterations: Largest number of evaluations with derivatives.
    """
    at: LikelihoodEvaluation | None = likelihood.at(np.clip(start, lower, upper)).light()
    damping, notes = 1e-3, []
    iterations, began = 0, time.perf_counter()
    while True:
        assert at is not None
        derivatives = likelihood.derivatives(at)
        iterations += 1
        _tell(likelihood, at, iterations, time.perf_counter() - began)
        step, gain = _agreed_step(likelihood, at.theta, derivatives, lower, upper, 0.0)
        if gain < _GAIN:
            break
        if iterations >= max_iterations:
            off = math.sqrt(2 * gain)  # of a quadratic likelihood
            notes.append(
                f"the fit ended after {iterations} steps where another promised {gain:.2g} nats: its parameters may be "
                f"{off:.2g} standard errors off; a larger max_iterations allows more steps"
            )
            break
        is_last = gain < _LAST and float(np.abs(step).max()) < _NEAR
        theta, value, tolerance, promised = at.theta, at.value, at.tolerance, gain
        rejected = False
        for _ in range(_DAMPINGS):
            at = None  # two matrices with their factorizations would be the peak of memory
            step, gain = _agreed_step(likelihood, theta, derivatives, lower, upper, damping)
            with suppress(ConvergenceError):
                at = likelihood.at(theta + step, tolerance=tolerance).light()
            # A gain below the likelihood's error cannot be judged by the likelihood's value.
            unjudged = _UNLIKE * at.error if at is not None and gain < at.error else 0.0
            if at is not None and at.value > value + 1e-4 * gain - unjudged:
                break
            damping, rejected = max(10 * damping, 1e-2), True
        else:
            if gain > 0.1:
                notes.append(
                    f"the fit ended where no step raised the likelihood, though one promised {gain:.2g} nats"
                )
            at = None
            at = likelihood.at(theta, tolerance=tolerance).light()
            break
        damping = max(damping / 10, 1e-6)
        # If a whole step failed, so small a promise comes from the gradient's own error, that of random signs.
        if is_last or (rejected and promised < _DOUBTED):
            break
    return Optimum(
        at, derivatives, iterations, (*notes, *_remarks(likelihood, at, derivatives, lower, upper))
    )


def by_lbfgs(
    likelihood: Likelihood, start: Array, lower: Array, upper: Array, *, max_iterations: int = 60
) -> Optimum:
    """Maximize a likelihood by SciPy's L-BFGS-B: more evaluations than scoring, and no use of the information."""
    best: list[tuple[LikelihoodEvaluation, Derivatives]] = []
    calls, began = 0, time.perf_counter()
    group = likelihood.communicator

    def evaluate(theta: Array) -> tuple[float, Array]:
        nonlocal calls
        calls += 1
        at = likelihood.at(theta).light()
        derivatives = likelihood.derivatives(at)
        _tell(likelihood, at, calls, time.perf_counter() - began)
        if not best or at.value > best[0][0].value:
            best[:] = [(at, derivatives)]
        return -at.value, -derivatives.gradient

    def negative(theta: Array) -> tuple[float, Array]:
        agreed(group, np.array([_EVALUATE, *theta]))
        return evaluate(theta)

    success, message = True, ""
    if group is None or group.rank == 0:
        found = minimize(
            negative, np.clip(start, lower, upper), jac=True, method="L-BFGS-B",
            bounds=list(zip(lower, upper, strict=True)),
            options={"maxiter": max_iterations, "ftol": 1e-8, "gtol": 0.5},
        )  # fmt: skip
        success, message = bool(found.success), str(found.message)
        agreed(group, np.array([_DONE if success else _GIVEN_UP, *found.x]))
    else:
        # Process 0 searches, and tells the others where all evaluate together.
        while (told := agreed(group, np.zeros(1 + len(start))))[0] == _EVALUATE:
            evaluate(told[1:])
        success, message = told[0] == _DONE, "process 0 knows why"
    at, derivatives = best[0]
    notes = () if success else (f"L-BFGS-B ended early: {message}",)
    return Optimum(at, derivatives, calls, (*notes, *_remarks(likelihood, at, derivatives, lower, upper)))


def _tell(likelihood: Likelihood, at: LikelihoodEvaluation, step: int, seconds: float) -> None:
    """Log a line about a step of the fit, which may take minutes."""
    found = zip(likelihood.names, np.exp(at.theta), strict=True)
    logger.info(
        "fit to %d values, step %d, %.1f s: log-likelihood %.3f at %s",
        likelihood.n_values, step, seconds, at.value, ", ".join(f"{name} {value:.4g}" for name, value in found),
    )  # fmt: skip


OPTIMIZERS = {"scoring": by_scoring, "lbfgs": by_lbfgs}


def _agreed_step(
    likelihood: Likelihood, theta: Array, derivatives: Derivatives, lower: Array, upper: Array, damping: float
) -> tuple[Array, float]:
    """Return what `_step` returns on process 0."""
    step, gain = _step(theta, derivatives, lower, upper, damping)
    told = agreed(likelihood.communicator, np.append(step, gain))
    return told[:-1], float(told[-1])


def _step(
    theta: Array, derivatives: Derivatives, lower: Array, upper: Array, damping: float
) -> tuple[Array, float]:
    """Return the step that maximizes the damped quadratic model in a box, and the gain that the model promises.

    The box holds the steps of at most 1.5 within the bounds. Scaling or cutting a step instead would leave almost no
    gain if one parameter hardly matters, and the search would end there.
    """
    gradient, information = derivatives.gradient, derivatives.information
    scale = np.sqrt(np.maximum(np.diag(information), 1e-8))
    # The information is scaled to a unit diagonal, and gets some curvature in every direction.
    values, vectors = np.linalg.eigh(information / np.outer(scale, scale))
    damped = (vectors * (np.maximum(values, 1e-4) + damping)) @ vectors.T * np.outer(scale, scale)
    least, most = np.maximum(lower - theta, -_LONGEST), np.minimum(upper - theta, _LONGEST)
    free = most > least
    step = np.zeros(len(theta))
    if free.any():
        root = np.linalg.cholesky(damped[np.ix_(free, free)]).T
        target = np.linalg.solve(root.T, gradient[free])
        step[free] = lsq_linear(root, target, bounds=(least[free], most[free]), method="bvls").x
    return step, float(gradient @ step - 0.5 * step @ information @ step)


def _remarks(
    likelihood: Likelihood, at: LikelihoodEvaluation, derivatives: Derivatives, lower: Array, upper: Array
) -> tuple[str, ...]:
    """Return a sentence for each parameter that ended at a bound or that the values do not determine."""
    notes = []
    errors = Optimum(at, derivatives, 0, ()).standard_errors(lower, upper)
    for i, name in enumerate(likelihood.names):
        if upper[i] <= lower[i]:
            continue
        value = math.exp(at.theta[i])
        for bound, side in ((lower[i], "lower"), (upper[i], "upper")):
            if abs(at.theta[i] - bound) <= _AT_BOUND:
                notes.append(
                    f"{name} ended at its {side} bound of {value:.4g}; its fitted value is the bound's, not the data's"
                )
        if errors[i] > _FLAT:
            told = f"hardly depends on {name} ({value:.4g}): its logarithm has a standard error of {errors[i]:.2g}"
            if math.isinf(errors[i]):
                told = f"does not depend on {name} ({value:.4g})"
            notes.append(f"the likelihood {told}; fix it, or give a simpler kernel")
    return tuple(notes)
