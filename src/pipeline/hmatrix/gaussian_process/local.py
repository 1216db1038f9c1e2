"""Conditional means and variances from near values alone, and the correction for all values.

A point's variance given its m nearest values costs O(m^3) and is too large; the variance given all values is less by
exactly the mean square of the difference between the two predictors. Random fields show this difference: with S fields
drawn from the model,

    var(f | all) = var(f | near) - E (E[f | all] - E[f | near])^2.

The correction is small beside the variance, so that its relative error of sqrt(2 / S) is smaller still. One solve and
one rectangular product for each of the S fields serve any number of new points. Vecchia's approximation [1] stops at
the first term.

References:
    [1] Katzfuss, Guinness, "A general framework for Vecchia approximations of Gaussian processes", Statistical Science
        2021.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from pipeline.hmatrix import _native
from pipeline.hmatrix.entries import length_scales
from pipeline.hmatrix.gaussian_process.anchored import is_stationary
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.threads import n_threads, one_torch_thread

Array = NDArray[np.float64]

NEIGHBORS = 40  # values that predict a target, unless they tell too little
_ENTRIES = 2**22  # entries of small covariances at a time
_AHEAD = 4  # batches for each thread that are under way at once
_JITTER = 1e-10  # share of the variance: coincident values without noise stay solvable
_LARGEST_GROUP = 32
_SHARED = 2.0  # values whose share of the domain holds the targets of a group
_REACH = 0.3  # largest radius of a group that shares many neighbors, in distances to the farthest of them
_MOST_TOGETHER = 512  # largest number of targets of such a group


@dataclass(frozen=True, eq=False)
class Neighborhoods:
    """Some targets, in groups that share their neighbors, and their predictions from near values.

    Attributes:
        targets: Indices, shape (groups, t).
        neighbors: Indices of the values, shape (groups, m).
        weights: Shape (groups, m, t): a target's prediction is the product of its weights and the neighbors' values.
        variances: Conditional variances of the field at the targets, shape (groups, t).
    """

    targets: NDArray[np.int64]
    neighbors: NDArray[np.int64]
    weights: Tensor
    variances: Tensor

    def predict(self, values: Array) -> Array:
        """Predict fields, shape (n, S), at the targets: shape (groups, t, S)."""
        near = torch.from_numpy(values[self.neighbors])
        return (self.weights.mT @ near).numpy()


def neighborhoods(
    kernel: Kernel,
    points: Array,
    noise: Array,
    targets: Array | None = None,
    *,
    groups: NDArray[np.int64] | None = None,
    n_neighbors: int = NEIGHBORS,
    n_left_out: int | None = None,
) -> Iterator[Neighborhoods]:
    """Predict targets from their nearest values, batch by batch.

    Args:
        kernel: Covariance of the field.
        points: Places of the values, shape (n, d).
        noise: Variances of the values' noise, shape (n,).
        targets: Shape (q, d); left out, every value is predicted from the others.
        groups: Groups of targets that share their neighbors, shape (groups, t); those of `grouped` if left out.
        n_neighbors: Number of values that predict a target.
        n_left_out: Number of values, the first ones, that are predicted from the others; all if left out.
    """
    leave_out = targets is None
    wanted = points[:n_left_out] if targets is None else targets
    if groups is None:
        groups = np.arange(len(wanted))[:, None] if leave_out else grouped(kernel, points, wanted)
    metric = _metric(kernel, points.shape[1])
    if is_stationary(kernel):
        # Relative to one point, so that points far from the origin keep their distances.
        points, wanted = points - points[0], wanted - points[0]
    m = min(n_neighbors, len(points) - leave_out)
    centers = (wanted * metric)[groups].mean(axis=1)
    tree = cKDTree(points * metric)
    at_a_time = max(1, _ENTRIES // max(m * (m + groups.shape[1]), 1))

    def conditioned(first: int) -> Neighborhoods:
        members = groups[first : first + at_a_time]
        found = tree.query(centers[first : first + at_a_time], k=m + leave_out)[1].reshape(len(members), -1)
        if leave_out:
            found = _without(found, members[:, 0])
        return _condition(kernel, points, noise, wanted, members, found)

    yield from _in_threads(conditioned, range(0, len(groups), at_a_time))


def _in_threads(work: Callable[[int], Neighborhoods], items: range) -> Iterator[Neighborhoods]:
    """Do independent work on as many threads as torch may have, each with one thread of torch, a few items ahead."""
    count = n_threads()
    if count == 1:
        yield from map(work, items)
        return
    with one_torch_thread(), ThreadPoolExecutor(count) as pool:
        for first in range(0, len(items), _AHEAD * count):
            yield from pool.map(work, items[first : first + _AHEAD * count])


def grouped(kernel: Kernel, points: Array, targets: Array) -> NDArray[np.int64]:
    """Return groups of neighboring targets, shape (groups, t): if targets are dense among the values, several share
    their neighbors."""
    size = _group_size(len(targets) / max(len(points), 1))
    return _groups(targets * _metric(kernel, points.shape[1]), size)


def groups_within_reach(
    kernel: Kernel, points: Array, targets: Array, chosen: NDArray[np.int64], n_neighbors: int
) -> list[NDArray[np.int64]]:
    """Return groups of chosen targets that can share so many neighbors, each of shape (groups, t) for some t.

    A group is as large as it can be within a fraction of the distance to its neighbors. Where values and new points
    crowd, as at the poles of a grid, hundreds of targets thus share the cost of thousands of neighbors.

    Args:
        kernel: Covariance of the field.
        points: Places of the values, shape (n, d).
        targets: Shape (q, d).
        chosen: Indices of the targets to group.
        n_neighbors: Number of values that predict a target.
    """
    metric = _metric(kernel, points.shape[1])
    places = (targets[chosen] - points[0]) * metric
    tree = cKDTree((points - points[0]) * metric)
    most = max(0, math.ceil(math.log2(max(len(chosen), 1))))
    order = _native.bisect(np.ascontiguousarray(places), most).astype(np.int64)
    places = places[order]
    edges, found = np.array([0, len(chosen)]), []
    undecided = np.ones(1, np.bool_)
    for halving in range(most + 1):
        if halving:
            middle = (edges[:-1] + edges[1:] + 1) // 2
            edges = np.append(np.stack([edges[:-1], middle], axis=1).ravel(), len(chosen))
            undecided = np.repeat(undecided, 2)
        undecided &= np.diff(edges) > 0
        first, stop = edges[:-1][undecided], edges[1:][undecided]
        size = int((stop - first).max(initial=0))
        if not 0 < size <= _MOST_TOGETHER:
            continue
        members = np.minimum(first[:, None] + np.arange(size), stop[:, None] - 1)
        centers = places[members].mean(axis=1)
        reach = np.sqrt(((places[members] - centers[:, None]) ** 2).sum(axis=2)).max(axis=1)
        farthest = tree.query(centers, k=[min(n_neighbors, len(points))])[0][:, 0]
        accepted = (reach <= _REACH * farthest) | (size == 1)
        found.append(chosen[order[members[accepted]]])
        undecided[np.flatnonzero(undecided)[accepted]] = False
    return [groups for groups in found if len(groups)]


def _metric(kernel: Kernel, dimension: int) -> Array:
    scales = length_scales(kernel)
    return np.ones(dimension) if scales is None else 1 / np.array(scales)


def _group_size(density: float) -> int:
    """Return the number of targets that share neighbors: about those in two values' share of the domain."""
    return int(2 ** max(0, min(round(math.log2(max(_SHARED * density, 1))), math.log2(_LARGEST_GROUP))))


def _groups(points: Array, size: int) -> NDArray[np.int64]:
    """Return indices of near points in groups of at most `size`, shape (groups, size); a group may repeat its last."""
    if size == 1 or len(points) == 0:
        return np.arange(len(points))[:, None]
    halvings = max(0, math.ceil(math.log2(len(points) / size)))
    order = _native.bisect(np.ascontiguousarray(points), halvings).astype(np.int64)
    edges = np.array([0, len(points)])
    for _ in range(halvings):
        middle = (edges[:-1] + edges[1:] + 1) // 2
        edges = np.append(np.stack([edges[:-1], middle], axis=1).ravel(), len(points))
    places = edges[:-1, None] + np.arange(size)
    return np.asarray(order[np.minimum(places, edges[1:, None] - 1)])


def _without(found: NDArray[np.int64], own: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each row without its own index, or without the last one where that is missing."""
    drop = found == own[:, None]
    drop[~drop.any(axis=1), -1] = True
    return np.reshape(found[~drop], (len(found), -1))


def _condition(
    kernel: Kernel,
    points: Array,
    noise: Array,
    targets: Array,
    members: NDArray[np.int64],
    neighbors: NDArray[np.int64],
) -> Neighborhoods:
    near, places = torch.from_numpy(points[neighbors]), torch.from_numpy(targets[members])
    variance = kernel.diagonal(places)
    covariance = kernel(near, near)
    jitter = _JITTER * float(variance.max()) if variance.numel() else 0.0
    covariance.diagonal(dim1=-2, dim2=-1).add_(torch.from_numpy(noise[neighbors]) + jitter)
    factor = torch.linalg.cholesky(covariance)
    half = torch.linalg.solve_triangular(factor, kernel(near, places), upper=False)
    weights = torch.linalg.solve_triangular(factor.mT, half, upper=True)
    # The mean square error of these weights, which the jitter has changed, under the covariance without it.
    added = half.square().sum(dim=-2) + jitter * weights.square().sum(dim=-2)
    return Neighborhoods(members, neighbors, weights, variance - added)
