"""Triangle meshes and their diagnosis, for stages that read meshes and for boundary elements.

This package imports no compiled core, so reading points from a mesh does not depend on the H2 library.
"""

from pipeline.meshes.diagnosis import Diagnosis, diagnose, merge_vertices, merged
from pipeline.meshes.triangles import TriangleMesh

__all__ = ["Diagnosis", "TriangleMesh", "diagnose", "merge_vertices", "merged"]
