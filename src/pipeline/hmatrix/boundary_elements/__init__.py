"""Boundary elements: the single layer 1/(4 pi r) on triangle meshes by a Galerkin method with piecewise constants."""

from pipeline.hmatrix.boundary_elements.mesh import TriangleMesh
from pipeline.hmatrix.boundary_elements.near_field import NearField
from pipeline.hmatrix.boundary_elements.single_layer import (
    SingleLayer,
    SingleLayerOperator,
    capacitance,
    extrapolate,
    solve_capacitance,
)

__all__ = [
    "NearField",
    "SingleLayer",
    "SingleLayerOperator",
    "TriangleMesh",
    "capacitance",
    "extrapolate",
    "solve_capacitance",
]
