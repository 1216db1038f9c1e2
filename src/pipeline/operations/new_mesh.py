"""The study of a mesh in a file: a wave that it scatters, or the capacitance of the conductor."""

import math
from pathlib import Path

import numpy as np

from pipeline.data.own_mesh import load_usable_mesh
from pipeline.operations.templates import filled
from pipeline.runtime.predicted_memory import NodeLimits, predicted_job

#: Triangles per wavelength at the longest edge; errors are then about a percent.
PER_WAVELENGTH = 10.0
TOLERANCE = 1e-5


def study_of_mesh(name: str, path: Path) -> str:
    """Read and diagnose a mesh, and write a study of it."""
    mesh, diagnosis = load_usable_mesh(path)
    extents = np.ptp(mesh.vertices.numpy(), axis=0)
    longest, shortest = (float(f(mesh.diameters.numpy())) for f in (np.max, np.min))
    # Two digits, rounded down, so that the wave has at least as many triangles as the text says.
    wavenumber = _downwards(2 * math.pi / (PER_WAVELENGTH * longest))
    told, *findings = str(diagnosis).splitlines()
    return filled(
        "study_of_mesh.yaml.jinja",
        name=name,
        path=str(path),
        told=told,
        closed=diagnosis.is_closed,
        findings=[one for one in findings if diagnosis.is_closed or " open edges " not in one],
        box=" x ".join(f"{extent:.4g}" for extent in extents),
        extent=float(extents.max()),
        shortest=shortest,
        longest=longest,
        wavenumber=wavenumber,
        wavelength=2 * math.pi / wavenumber,
        memory=[_bytes(len(mesh), task) / 1e9 for task in ("scattering", "capacitance")],
        tolerance=TOLERANCE,
    )


def _downwards(value: float) -> float:
    """Return the greatest number of two digits that is not above a positive one."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.floor(value / unit) * unit:.1e}")


def _bytes(n: int, task: str) -> int:
    """Return the memory, in bytes, for the larger of a matrix's two jobs."""
    facts = {"name": "mesh", "n": n, "dimension": 3}
    spec = {"task": task, "factor": {"tolerance": 1e-2}}
    node = NodeLimits(n_bytes=math.inf, processes=2)
    return max(predicted_job(stage, facts, spec, TOLERANCE, node).n_bytes for stage in ("compress", "solve"))
