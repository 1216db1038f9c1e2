"""Integrals of a fundamental solution, and of its normal derivatives, over pairs of near triangles."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from torch import Tensor

from pipeline.hmatrix.boundary_elements.normal_derivative import inner, radial
from pipeline.hmatrix.boundary_elements.pair_rules import (
    PairRule,
    TrianglePairs,
    conical_rule,
    product_rule,
    touching_rule,
)
from pipeline.hmatrix.boundary_elements.quadrature import gauss_rule
from pipeline.meshes.triangles import TriangleMesh

_EVALUATIONS = 250_000  # evaluations of the kernel at a time: about 60 MB, and faster than with more
_IDENTICAL = 3  # corners that a triangle has in common with itself
_CLOSE = 0.5  # diameters between the centers of triangles without a common corner: sheets that nearly touch
_BEYOND = 1.2  # diameters between the centers: one Gauss point less in each direction suffices


@dataclass(frozen=True, eq=False)
class PanelIntegrals:
    """Corrections to the quadrature points' matrices for near pairs, on functions linear on each triangle.

    Function 3 t + a is 1 at corner a of triangle t and falls linearly to 0 on its opposite edge.

    Attributes:
        single: Integrals of the fundamental solution, shape (3 t, 3 t), symmetric.
        double: Integrals of its derivative along the normal at the second triangle.
    """

    single: csr_array
    double: csr_array

    @classmethod
    def of(
        cls, mesh: TriangleMesh, wavenumber: complex, near: Tensor, *, n_points: int, order: int
    ) -> "PanelIntegrals":
        """Integrate over pairs of triangles.

        Args:
            mesh: The surface.
            wavenumber: k of exp(i k r)/(4 pi r).
            near: The pairs, shape (2, p): each pair of two triangles once, and each triangle with itself.
            n_points: Quadrature points of a triangle in the matrices that are corrected.
            order: Gauss points in each direction of the four-dimensional rules.
        """
        n = len(mesh)
        pairs = TrianglePairs.of(mesh, near)
        points, weights = gauss_rule(n_points)
        coarse = product_rule(points.numpy(), weights.numpy())
        blocks: list[tuple[NDArray[np.int64], NDArray[np.int64], list[NDArray[np.number]]]] = []
        for chosen, fine in with_rules(mesh, pairs, order):
            step = max(1, _EVALUATIONS // len(fine[2]))
            for first in range(0, len(chosen), step):
                part = chosen[first : first + step]
                values = [
                    (exact - sampled).numpy()
                    for exact, sampled in zip(
                        integrals(mesh, wavenumber, part, fine),
                        integrals(mesh, wavenumber, part, coarse),
                        strict=True,
                    )
                ]
                rows, columns = (
                    (3 * part.triangles[side][:, None] + part.corners[side]).numpy() for side in (0, 1)
                )
                if int(part.n_common[0]) == _IDENTICAL:
                    values = [values[0] / 2, values[1] / 2, values[2] / 2]  # both orders are added below
                blocks.append((rows, columns, values))
        return cls(*(_assembled(blocks, 3 * n, which) for which in ("single", "double")))


def with_rules(mesh: TriangleMesh, pairs: TrianglePairs, order: int) -> list[tuple[TrianglePairs, PairRule]]:
    """Group the pairs by the rules that they need."""
    i, j = pairs.triangles
    between = (mesh.centroids[i] - mesh.centroids[j]).norm(dim=1)
    beyond = between > _BEYOND * torch.maximum(mesh.diameters[i], mesh.diameters[j])
    apart = pairs.n_common == 0
    result = [(pairs[pairs.n_common == n], touching_rule(n, order)) for n in (1, 2, 3)]
    close = between < _CLOSE * torch.maximum(mesh.diameters[i], mesh.diameters[j])
    result.append((pairs[apart & close], product_rule(*conical_rule(2 * order + 2))))
    result.append((pairs[apart & ~close & ~beyond], product_rule(*conical_rule(order))))
    result.append((pairs[apart & beyond], product_rule(*conical_rule(max(order - 1, 2)))))
    return result


def _assembled(
    blocks: list[tuple[NDArray[np.int64], NDArray[np.int64], list[NDArray[np.number]]]], n: int, which: str
) -> csr_array:
    """Assemble the blocks (p, 3, 3) of pairs in both orders into a sparse matrix."""
    rows, columns, entries = [], [], []
    for left, right, (single, forth, back) in blocks:
        straight, turned = (single, single) if which == "single" else (forth, back)
        i, j = np.broadcast_arrays(left[:, :, None], right[:, None, :])
        rows += [i.ravel(), j.ravel()]
        columns += [j.ravel(), i.ravel()]
        entries += [straight.ravel(), turned.ravel()]
    if not rows:
        return csr_array((n, n))
    return coo_array(
        (np.concatenate(entries), (np.concatenate(rows), np.concatenate(columns))), shape=(n, n)
    ).tocsr()


def integrals(
    mesh: TriangleMesh, wavenumber: complex, pairs: TrianglePairs, rule: PairRule
) -> tuple[Tensor, Tensor, Tensor]:
    """Return integrals of G, of its derivative along the second and along the first normal; each of shape (p, 3, 3).

    The first index is that of the corner of the first triangle in all three.
    """
    left, right, weights = (torch.from_numpy(part) for part in rule)
    corners = [
        torch.take_along_dim(mesh.corners[pairs.triangles[side]], pairs.corners[side][:, :, None], dim=1)
        for side in (0, 1)
    ]
    # Relative to the first triangle, so that no digits are lost to the distance from the origin.
    corners = [part - corners[0][:, :1] for part in corners]
    difference = left @ corners[0] - right @ corners[1]
    G, F = radial(inner(difference, difference), wavenumber)
    i, j = pairs.triangles
    along = [inner(difference, mesh.normals[side][:, None]) for side in (i, j)]
    shapes = (weights[:, None, None] * left[:, :, None] * right[:, None, :]).reshape(-1, 9).to(G.dtype)
    areas = (mesh.areas[i] * mesh.areas[j])[:, None]
    single, second, first = (
        ((values @ shapes) * areas).reshape(-1, 3, 3) for values in (G, F * along[1], -F * along[0])
    )
    return single, second, first
