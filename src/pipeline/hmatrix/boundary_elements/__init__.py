"""Boundary elements on triangle meshes: Galerkin methods for Laplace, Yukawa and Helmholtz, compressed as H2 matrices.

- `TriangleMesh(vertices, triangles)`; `diagnose(mesh)` tells what is wrong with one, `merge_vertices` joins separate
  triangles as STL files have them.
- `LayerOperators(mesh, kernel)`: `single_layer`, `double_layer`, `adjoint_double_layer`, `hypersingular`, on piecewise
  constants ("P0") and linear functions ("P1").
- `solve_dirichlet`, `solve_neumann`: problems inside and outside of closed surfaces.
- `solve_scattering(mesh, PlaneWave(k, direction), k, condition="soft")`: waves at bodies and screens; the result gives
  `total(points)` and `far_field(directions)`.
- `SingleLayer`, `solve_capacitance`: the single layer of Laplace's equation on constants, whose near field can be kept.
"""

from pipeline.hmatrix.boundary_elements.boundary_operator import BoundaryOperator
from pipeline.hmatrix.boundary_elements.near_field import NearField
from pipeline.hmatrix.boundary_elements.operators import LayerOperators
from pipeline.hmatrix.boundary_elements.problems import (
    BoundarySolution,
    notes_on_wave,
    solve_dirichlet,
    solve_neumann,
)
from pipeline.hmatrix.boundary_elements.scattering import PlaneWave, PointSource, Scattering, solve_scattering
from pipeline.hmatrix.boundary_elements.single_layer import (
    SingleLayer,
    SingleLayerOperator,
    capacitance,
    extrapolate,
    solve_capacitance,
)
from pipeline.meshes.diagnosis import Diagnosis, Finding, diagnose, merge_vertices
from pipeline.meshes.triangles import TriangleMesh

__all__ = [
    "BoundaryOperator",
    "BoundarySolution",
    "Diagnosis",
    "Finding",
    "LayerOperators",
    "NearField",
    "PlaneWave",
    "PointSource",
    "Scattering",
    "SingleLayer",
    "SingleLayerOperator",
    "TriangleMesh",
    "capacitance",
    "diagnose",
    "extrapolate",
    "merge_vertices",
    "notes_on_wave",
    "solve_capacitance",
    "solve_dirichlet",
    "solve_neumann",
    "solve_scattering",
]
