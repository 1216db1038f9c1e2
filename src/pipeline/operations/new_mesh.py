"""The study of a mesh in a file: a wave that it scatters, or the capacitance of the conductor."""

import json
import math
from pathlib import Path

import numpy as np

from pipeline.data.own_mesh import load_usable_mesh
from pipeline.runtime.foretelling import NodeLimits, foretold_job

#: Triangles for each wavelength at the longest edge, where errors are about a percent.
PER_WAVELENGTH = 10.0
TOLERANCE = 1e-5


def study_of_mesh(name: str, path: Path) -> str:
    """Read and diagnose a mesh, and write a study of it.

    Raises:
        ConfigError: If the file cannot be read, or the mesh cannot be computed on.
    """
    mesh, diagnosis = load_usable_mesh(path)
    extents = np.ptp(mesh.vertices.numpy(), axis=0)
    longest, shortest = (float(f(mesh.diameters.numpy())) for f in (np.max, np.min))
    # Two digits, downwards, so that at least as many triangles as are told resolve the wave.
    wavenumber = _downwards(2 * math.pi / (PER_WAVELENGTH * longest))
    wavelength = 2 * math.pi / wavenumber
    told, *findings = str(diagnosis).splitlines()
    surface = "a body" if diagnosis.is_closed else "a screen"
    lines = [
        f"# {path}: {told}, which makes it {surface}.",
        *(f"# {finding}" for finding in findings if diagnosis.is_closed or " open edges " not in finding),
        f"# Its box is {' x '.join(f'{extent:.4g}' for extent in extents)}; its triangles are {shortest:.3g} to "
        f"{longest:.3g} long.",
        f"# At wavenumber {wavenumber:g} the wavelength is {wavelength:.3g}: {wavelength / longest:.1f} triangles long "
        f"at least, and {float(extents.max()) / wavelength:.2g} times in the box.",
        f"# Memory foretold: {_bytes(len(mesh), 'scattering') / 1e9:.1f} GB for scattering, "
        f"{_bytes(len(mesh), 'capacitance') / 1e9:.1f} GB for the capacitance.",
        "",
        f"study: {name}",
        "matrices:",
        "  wave:",
        f"    points: {{name: mesh, path: {json.dumps(str(path))}}}",
        "    # 2 pi over the wavelength, in the inverse unit of the mesh; a shorter wave wants a finer mesh.",
        f"    kernel: {{name: helmholtz, wavenumber: {wavenumber:g}}}",
        "    task: scattering",
        "    # Where the wave goes; condition: hard is a surface that does not move.",
        "    wave: {direction: [0.0, 0.0, 1.0], condition: soft}",
        f"    compress: {{tolerance: {TOLERANCE:.1e}}}",
        "  # The capacitance of a conductor of this shape, in 4 pi eps0 times the unit of the mesh:",
        "  #charge:",
        f"  #  points: {{name: mesh, path: {json.dumps(str(path))}}}",
        "  #  kernel: {name: laplace_single_layer}",
        "  #  task: capacitance",
        f"  #  compress: {{tolerance: {TOLERANCE:.1e}}}",
        "",
    ]
    return "\n".join(lines)


def _downwards(value: float) -> float:
    """Return the greatest number of two digits that is not above a positive one."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.floor(value / unit) * unit:.1e}")


def _bytes(n: int, task: str) -> int:
    """Return the bytes that the larger of a matrix's two jobs gets."""
    facts = {"name": "mesh", "n": n, "dimension": 3}
    spec = {"task": task, "factor": {"tolerance": 1e-2}}
    node = NodeLimits(n_bytes=math.inf, processes=2)
    return max(foretold_job(stage, facts, spec, TOLERANCE, node).n_bytes for stage in ("compress", "solve"))
