"""Boundary elements: the single layer 1/(4 pi r) on triangle meshes by a Galerkin method with piecewise constants."""

from pipeline.hmatrix.boundary_elements.diagnosis import Diagnosis, Finding, diagnose, merge_vertices
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
    "Diagnosis",
    "Finding",
    "NearField",
    "SingleLayer",
    "SingleLayerOperator",
    "TriangleMesh",
    "capacitance",
    "diagnose",
    "extrapolate",
    "merge_vertices",
    "solve_capacitance",
]
