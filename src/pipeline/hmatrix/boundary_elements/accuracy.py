"""Errors of integrals over slivers and across narrow gaps, measured against known integrals.

On a closed surface the double layer of 1 is -1/2 by Gauss's law, on any triangle. The integral of 1/r over a triangle
and itself has a closed form. The wavenumber changes neither error: what is hard to integrate is 1/r.
"""

import logging
import math

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.hmatrix.boundary_elements.near_field import near_pairs
from pipeline.hmatrix.boundary_elements.normal_derivative import inner, radial
from pipeline.hmatrix.boundary_elements.operators import LayerOperators
from pipeline.hmatrix.boundary_elements.pair_rules import TrianglePairs, touching_rule
from pipeline.hmatrix.boundary_elements.panel_integrals import integrals, with_rules
from pipeline.hmatrix.boundary_elements.quadrature import gauss_rule, self_mean
from pipeline.meshes.triangles import TriangleMesh

logger = logging.getLogger("pipeline.hmatrix")

_NOTED, _REFUSED = 0.05, 0.4  # errors of the double layer of 1; the latter makes single layers indefinite
_JUDGED = 256  # largest number of triangles that are checked
_EVALUATIONS = 250_000  # evaluations of the kernel at a time


def notes_on_shape(layers: LayerOperators) -> tuple[str, ...]:
    """Return notes on integrals over thin triangles, and over triangles that the diagnosis warns of.

    Raises:
        ConfigError: If an integral is so wrong that a solution would be meaningless.
    """
    everything = np.arange(len(layers.mesh))
    thinnest = _worst(layers, everything)
    if not len(thinnest):
        return ()
    measured = [(thinnest, _errors_of_own(layers, thinnest), "itself")]
    found = [finding for finding in layers.diagnosis.warnings if finding.kind in ("slivers", "close")]
    if found and not layers.screen:
        chosen = np.unique(np.concatenate([_worst(layers, finding.indices) for finding in found]))
        measured.append((chosen, _errors_of_gauss(layers, chosen), "the surface"))
    chosen, errors, other = max(measured, key=lambda part: float(part[1].max()))
    worst = int(np.argmax(errors))
    if errors[worst] <= _NOTED:
        return ()
    text = (
        f"integrals between triangle {chosen[worst] + 1}, counted from 1, and {other} are off by {errors[worst]:.0%}: "
        "it is too thin, or too near to others; mesh anew, with triangles of the size of gaps and thin parts"
    )
    if not errors[worst] <= _REFUSED:
        raise ConfigError(text)
    logger.warning(text)
    return (text,)


def _precise(mesh: TriangleMesh) -> TriangleMesh:
    """Return the mesh in double precision, in which integrals are judged."""
    return TriangleMesh(mesh.vertices.double(), mesh.triangles)


def _worst(layers: LayerOperators, triangles: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return all triangles or, of too many, the thinnest and the largest in equal numbers."""
    if len(triangles) <= _JUDGED:
        return triangles
    sizes, areas = (part.double().numpy()[triangles] for part in (layers.mesh.diameters, layers.mesh.areas))
    half = _JUDGED // 2
    chosen = np.concatenate([np.argsort(areas / sizes**2)[:half], np.argsort(-sizes)[:half]])
    return np.asarray(triangles[chosen])


def _errors_of_gauss(layers: LayerOperators, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how much the mean of the double layer of 1 over each of some triangles differs from -1/2."""
    mesh = _precise(layers.mesh)
    corners, normals, areas = mesh.corners, mesh.normals, mesh.areas
    sums = np.zeros(len(mesh))
    near = near_pairs(mesh, layers.near)
    near = near[:, torch.from_numpy(np.isin(near.numpy(), chosen).any(axis=0))]
    for pairs, rule in with_rules(mesh, TrianglePairs.of(mesh, near), layers.order):
        step = max(1, _EVALUATIONS // len(rule[2]))
        for first in range(0, len(pairs), step):
            part = pairs[first : first + step]
            _, second, back = integrals(mesh, 0j, part, rule)
            np.add.at(sums, part.triangles[0].numpy(), second.sum(dim=(1, 2)).numpy())
            np.add.at(sums, part.triangles[1].numpy(), back.sum(dim=(1, 2)).numpy())
    coordinates, weights = gauss_rule(layers.n_points)
    points, shares = coordinates @ corners, weights * areas[:, None]
    for i in chosen:
        far = torch.ones(len(mesh), dtype=torch.bool)
        far[near[:, (near == i).any(dim=0)].flatten()] = False
        far[i] = False
        away = points[i][:, None, None] - points[far]
        _, F = radial(inner(away, away), 0j)
        along = inner(away, normals[far][:, None])
        sums[i] += float((F * along * shares[far] * shares[i][:, None, None]).sum())
    return np.asarray(np.abs(sums[chosen] / areas.numpy()[chosen] + 0.5))


def _errors_of_own(layers: LayerOperators, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the relative errors of the integrals of 1/r over some triangles and themselves."""
    mesh = _precise(layers.mesh)
    pairs = TrianglePairs.of(mesh, torch.from_numpy(chosen).expand(2, -1))
    single, _, _ = integrals(mesh, 0j, pairs, touching_rule(3, layers.order))
    exact = self_mean(mesh.corners[chosen]) * mesh.areas[chosen] ** 2 / (4 * math.pi)
    return np.asarray((single.sum(dim=(1, 2)) / exact - 1).abs().numpy())
