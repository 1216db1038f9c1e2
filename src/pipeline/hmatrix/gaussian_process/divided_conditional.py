"""Predictions of a fitted model whose values and new points are divided among processes.

Every process gets predictions at its own new points. Products with cross-covariances are those of one divided matrix
over values and new points together, with vectors that are zero at the new points; each process has its share of both.
Near values are looked for in the region whose boxes a process owns, and in the boxes near these.
"""

import math

import numpy as np

from pipeline.hmatrix.distributed.matrix import DistributedH2Matrix
from pipeline.hmatrix.gaussian_process.conditional import (
    AT_A_TIME,
    CHECKED,
    DENSE,
    ENOUGH,
    Array,
    Conditional,
    dense_fields,
    noise_of_fields,
    tighter,
    warn_of_fields,
)
from pipeline.hmatrix.gaussian_process.divided import (
    all_rows,
    from_first,
    root_mean_square,
    rows_before,
    rows_on_first,
    total,
)
from pipeline.hmatrix.gaussian_process.local import neighborhoods
from pipeline.hmatrix.gaussian_process.prepared import deviation
from pipeline.hmatrix.gaussian_process.variances import (
    SOLVED,
    corrected,
    exact_variances,
    inverse_diagonal,
    spread,
)
from pipeline.runtime.communicator import Communicator


class DividedConditional(Conditional):
    """The distribution of a Gaussian process given values, of which this process has some. Methods are collective."""

    @property
    def _group(self) -> Communicator:
        assert self.fitted.communicator is not None
        return self.fitted.communicator

    def _number(self, new_points: Array) -> int:
        return int(total(self._group, np.array([len(new_points)]))[0])

    def _joint(self, new_points: Array, tolerance: float) -> DistributedH2Matrix:
        """Return the covariance of own values and own new points with those of all processes."""
        points = np.concatenate([self.points, new_points])
        return DistributedH2Matrix.from_kernel(points, self.fitted.kernel, self._group, tolerance=tolerance)

    def _applied(self, matrix: DistributedH2Matrix, x: Array) -> Array:
        """Multiply a joint matrix with x at the values, and return the product at own new points."""
        n = len(self.points)
        padded = np.concatenate([x, np.zeros((matrix.n_own_rows - n, x.shape[1]))])
        return np.asarray(matrix @ padded)[n:]

    def _cross(self, new_points: Array, x: Array, *, check: bool = False, tolerance: float = 1e-7) -> Array:
        group = self._group
        most = max(int(size[0]) for size in all_rows(group, np.array([[len(new_points)]])))
        if most > AT_A_TIME:
            order = np.argsort(new_points[:, int(np.argmax(np.ptp(new_points, axis=0)))], kind="stable")
            result = np.empty((len(new_points), x.shape[1]))
            for part in np.array_split(order, math.ceil(most / AT_A_TIME)):
                result[part] = self._cross(new_points[part], x, check=check, tolerance=tolerance)
            return result
        if not check:
            return self._applied(self._joint(new_points, tolerance), x)
        rows = np.linspace(0, len(new_points) - 1, min(len(new_points), math.ceil(CHECKED / group.size)))
        rows = rows.astype(int)
        exact = self._exactly(new_points[rows], x[:, :1])
        wanted = ENOUGH * deviation(self.values, group)
        while True:
            result = self._applied(self._joint(new_points, tolerance), x)
            error = root_mean_square(group, result[rows, :1] - exact)
            if error <= wanted:
                return result
            tolerance = tighter(tolerance, error, wanted)

    def _exactly(self, new_points: Array, x: Array) -> Array:
        """Return k(new_points, points of all processes) x."""
        everybodys = all_rows(self._group, new_points)
        first = rows_before(self._group, len(new_points))
        products = total(self._group, self.fitted.kernel(everybodys, self.points) @ x)
        return products[first : first + len(new_points)]

    def _root_mean_square(self, errors: Array) -> float:
        return root_mean_square(self._group, errors)

    def _exact_variance(self, new_points: Array) -> tuple[Array, Array]:
        group, n = self._group, len(new_points)
        first = rows_before(group, n)
        found = exact_variances(self.model, self.points, self.noise, all_rows(group, new_points))
        variances, errors = (of_all[first : first + n] for of_all in found)
        return variances, errors

    def _corrected_variance(self, new_points: Array, full: Array) -> tuple[Array, Array]:
        drawn, _ = self._fields
        n, d = self.points.shape
        kernel = self.fitted.kernel
        matrix = self._joint(new_points, 1e-5)
        is_new = np.arange(matrix.n_own_rows)[:, None] >= n
        noise = np.append(self.noise, np.zeros(len(new_points)))[:, None]
        places = np.concatenate([self.points, new_points])
        rows = np.column_stack([places, is_new, noise, np.concatenate([drawn, full])])
        own = matrix.form.route.there(matrix.communicator, rows)
        near = np.concatenate([own, matrix.form.near_halo.fetch(matrix.communicator, own)])
        values, targets = near[near[:, d] == 0], np.flatnonzero(own[:, d])
        found = np.zeros((len(own), 2))
        if len(targets) and len(values):
            wanted = own[targets]
            for part in neighborhoods(kernel, values[:, :d], values[:, d + 1], wanted[:, :d]):
                difference = wanted[part.targets, d + 2 :] - part.predict(values[:, d + 2 :])
                found[targets[part.targets], 0] = part.variances.numpy()
                found[targets[part.targets], 1] = np.mean(difference**2, axis=-1)
        elif len(targets):  # far from all values: the fields alone tell the correction
            found[targets, 0] = kernel.diagonal(own[targets, :d])
            found[targets, 1] = np.mean(own[targets, d + 2 :] ** 2, axis=1)
        variances, corrections = matrix.form.route.back(matrix.communicator, found)[n:].T
        variances, relative = corrected(variances, corrections)
        return variances, np.maximum(relative, self._measured(new_points, variances))

    def _measured(self, new_points: Array, variances: Array) -> float:
        """Return the relative error of standard deviations, as a solve each shows at some of all new points."""
        group, n = self._group, len(new_points)
        first, n_all = rows_before(group, n), self._number(new_points)
        checked = spread(n_all, SOLVED) - first
        own = checked[(checked >= 0) & (checked < n)]
        exact, lost = self._exact_variance(new_points[own])
        off = np.sqrt(variances[own] / np.maximum(exact, 1e-300)) - 1
        return math.hypot(root_mean_square(group, off), root_mean_square(group, lost))

    def _estimated_diagonal(self) -> tuple[Array, Array]:
        matrix, d = self.fitted.A, self.points.shape[1]
        assert isinstance(matrix, DistributedH2Matrix)
        rows = np.column_stack([self.points, self.noise, *self._fields])
        own = matrix.form.route.there(matrix.communicator, rows)
        near = np.concatenate([own, matrix.form.near_halo.fetch(matrix.communicator, own)])
        drawn, solved = np.split(near[:, d + 1 :], 2, axis=1)
        found = inverse_diagonal(self.fitted.kernel, near[:, :d], near[:, d], drawn, solved, len(own))
        diagonal, relative = matrix.form.route.back(matrix.communicator, np.column_stack(found)).T
        return diagonal.copy(), relative.copy()

    def _joint_fields(
        self, new_points: Array, n_samples: int, generator: np.random.Generator
    ) -> tuple[Array, Array, float]:
        kernel, group = self.fitted.kernel, self._group
        points = np.concatenate([self.points, new_points])
        variance = float(np.max(all_rows(group, kernel.diagonal(points)), initial=0.0))
        least = float(np.min(all_rows(group, self.noise), initial=math.inf))
        drawn_noise, is_little = noise_of_fields(least, variance)
        seed = int(generator.integers(2**62))
        own = np.random.default_rng((seed, group.rank))
        normal = own.standard_normal((len(self.points), n_samples))
        if not is_little and self._number(points) <= DENSE:
            everybodys, first = rows_on_first(group, points), rows_before(group, len(points))
            draw = np.random.default_rng((seed, group.size))
            fields = from_first(group, lambda: dense_fields(kernel, everybodys, n_samples, draw))
            return fields[first : first + len(points)], normal, 0.0
        warn_of_fields(is_little)
        tolerance = min(1e-7, 0.1 * drawn_noise / variance)
        matrix = DistributedH2Matrix.from_kernel(
            points, kernel, group, diagonal=drawn_noise, tolerance=tolerance
        )
        fields = matrix.factorize(tolerance, kind="cholesky").sample(generator, n_samples)
        return fields, normal, drawn_noise
