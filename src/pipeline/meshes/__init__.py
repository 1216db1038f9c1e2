"""Triangle meshes and what is wrong with them, for stages that read meshes and for boundary elements alike.

This package needs none of the cores, so that code of the H2 library does not stand behind points that a mesh gives.
"""

from pipeline.meshes.diagnosis import Diagnosis, diagnose, merge_vertices, merged
from pipeline.meshes.triangles import TriangleMesh

__all__ = ["Diagnosis", "TriangleMesh", "diagnose", "merge_vertices", "merged"]
