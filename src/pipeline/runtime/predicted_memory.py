"""Prediction of the memory of an H2 matrix's processes from its size, before its jobs are submitted.

Bytes per point follow from the tolerance and from the dimension of the set on which the points lie, because every level
holds a fixed fraction of the bytes of the level below. The tables were measured on uniform points of a cube with the
exponential kernel (`python benchmarks/distributed.py --only "bytes*"`). Between the tables' tolerances logarithms are
interpolated, and a margin covers kernels that compress worse than the measured one. Nothing here is slow, because the
workflow calls it for every matrix.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ConfigError

# Bytes per point of a compressed matrix, and at the peak of its factorization, by dimension and tolerance.
_TOLERANCES = (1e-2, 1e-4, 1e-6, 1e-8)
_MATRIX = {1: (540, 540, 540, 1100), 2: (1600, 1900, 2600, 8500), 3: (3900, 9700, 19000, 55000)}
_FACTOR = {1: (600, 730, 730, 1200), 2: (2200, 2400, 4400, 11500), 3: (5400, 30000, 86000, 160000)}
_MARGIN = 1.5
_PROGRAM = 500e6  # bytes of Python with torch before it has any points
_BUILD = 2.0  # most bytes of a build relative to its matrix's: samples, fetched points, blocks before they are joined
# A search holds factorizations at two parameter values, and no blocks of a matrix. For a hundred thousand values, a
# likelihood uses about this tolerance where a study allows a looser one. In the plane, 16,384 values took 12.8 kB each
# in addition to the program, and a million 13.2 kB each.
_ENDS, _FIT = 2, 1e-7
# Points on a surface have three coordinates, but the ranks of points in a plane.
_SURFACES = ("airports", "cities", "geoid", "sphere", "cube", "mesh")
_MESHES = ("sphere", "cube", "mesh")
_POINTS_OF_TRIANGLE = 3
# Bytes of both layers of a wave relative to the build of one real matrix, near integrals included: a factor of 12.3 was
# measured on a sphere of 5,120 triangles at 1e-5 and two processes; the margin comes on top.
_LAYERS = 14
_DIAGNOSED = 1400  # bytes for each of all triangles, which the first process checks before they are divided


# Most columns of a low-rank matrix, relative to its rows: with more, a dense matrix is as good.
MOST_COLUMNS = 0.25
# Copies of these columns: those found and those kept in the build, those kept and those scaled in the solve.
_COPIES = 2
# Matrices of columns by columns on every process: the products, their sum with 1, and its factor.
_SQUARES = 3

_FULL = 0.9  # share of a node's memory that its processes may be predicted to use
_ROWS = 2**18  # most rows of a process while there are nodes enough: with more, a job takes long
_MOST_PROCESSES = 4096


@dataclass(frozen=True)
class NodeLimits:
    """Memory of a node that computes matrices, and most processes of one matrix on it."""

    n_bytes: float
    processes: int


@dataclass(frozen=True)
class JobResources:
    """The resources of a job; `n_bytes` is the memory on each node."""

    nodes: int
    processes: int
    n_bytes: int


@dataclass(frozen=True)
class PredictedMemory:
    """Bytes of one process at its peak, in the stages `compress` and `solve`."""

    compress_bytes: int
    solve_bytes: int


def predict_memory(
    name: str,
    n: int,
    dimension: int,
    tolerance: float,
    factor_tolerance: float,
    processes: int,
    *,
    on_globe: bool = False,
    kriging: bool = False,
    fitted: int = 0,
    form: str = "hierarchical",
) -> PredictedMemory:
    """Return the bytes of one of several processes that share a matrix.

    Args:
        name: Name of the point set; it distinguishes surfaces from volumes.
        n: Number of unknowns: points, or triangles of a mesh.
        dimension: Number of coordinates. Beyond three, a hierarchical matrix is counted as dense.
        on_globe: Whether the points are longitudes and latitudes, which lie on a surface whatever their name.
        kriging: Whether the task is kriging, which holds a second matrix with its factorization, both at `tolerance`.
        fitted: Number of values that a fit uses, before the matrix is compressed.
        form: "hierarchical", or "low_rank". The columns of the latter are unknown; the most possible are counted.
    """
    if form == "low_rank":
        columns = math.ceil(MOST_COLUMNS * n)
        own, square = 8.0 * columns * n / processes, 8.0 * columns**2
        return PredictedMemory(
            compress_bytes=int(_PROGRAM + _MARGIN * _COPIES * own),
            solve_bytes=int(_PROGRAM + _MARGIN * (_COPIES * own + _SQUARES * square)),
        )
    rows = n * (_POINTS_OF_TRIANGLE if name in _MESHES else 1)
    extent = 2 if on_globe or name in _SURFACES else dimension
    reached = (factor_tolerance, tolerance, min(tolerance, _FIT))
    if extent > 3:
        matrix = factor = second = 8.0 * n**2
        searched = 8.0 * fitted**2
    else:
        matrix = rows * _interpolated(_MATRIX[max(extent, 1)], tolerance)
        factor, second, searched = (
            many * _interpolated(_FACTOR[max(extent, 1)], at)
            for many, at in zip((n, n, fitted), reached, strict=True)
        )
    solved = matrix + factor + (matrix + second if kriging else 0.0)
    share = _MARGIN / processes
    return PredictedMemory(
        compress_bytes=int(_PROGRAM + max(_BUILD * matrix, _ENDS * searched) * share),
        solve_bytes=int(_PROGRAM + solved * share),
    )


def n_fitted(fit: Mapping[str, Any] | None, n: int) -> int:
    """Return how many of n values a study's section `fit` uses; None means no fit."""
    return 0 if fit is None else min(fit.get("subsample") or n, n)


def require_room(n_bytes: int, processes: int, environment: Mapping[str, str]) -> None:
    """Raise ConfigError unless Slurm gave a job the memory on its node that was predicted for its processes there.

    The memory of the program without points, and the margin, are left out: less than the rest cannot suffice.
    """
    megabytes = environment.get("SLURM_MEM_PER_NODE", "")
    given = float(megabytes) * 2**20 if megabytes.isdigit() else math.inf
    wanted = processes * (n_bytes - _PROGRAM) / _MARGIN
    if wanted > given > 0:
        raise ConfigError(
            f"this job is predicted to need {wanted / 1e9:.2g} GB on a node with {processes} of its processes, but "
            f"Slurm gave it {given / 1e9:.2g} GB there; ask for more in the profile (mem_mb, or more nodes and tasks), "
            "or choose a larger tolerance"
        )


def predicted_job(
    stage: str,
    facts: Mapping[str, Any],
    spec: Mapping[str, Any],
    tolerance: float,
    node: NodeLimits,
    *,
    form: str = "hierarchical",
) -> JobResources:
    """Return the resources of a matrix's job in the stage compress or solve: the fewest processes with room, from two.

    `facts` are those of the points' artefact, `spec` is that of the stage; `tolerance` and `form` are the compressed
    matrix's.
    """
    factor = float(spec.get("factor", {}).get("tolerance", 1.0))
    size = str(facts["name"]), int(facts["n"]), int(facts["dimension"])
    # Complex numbers take twice the bytes of real ones.
    scatters = spec.get("task") == "scattering"
    waves = 2 if scatters else 1
    on_globe, kriging = facts.get("crs") == "lonlat", spec.get("task") == "kriging"
    fitted = n_fitted(spec.get("fit"), size[1])
    processes = 2
    while True:
        found = predict_memory(
            *size, tolerance, factor, processes, on_globe=on_globe, kriging=kriging, fitted=fitted, form=form
        )
        each = _times(found.compress_bytes, waves) if stage == "compress" else found.solve_bytes
        if scatters and stage == "solve":  # single and double layer, and no factorization
            each = _times(found.compress_bytes, _LAYERS)
        together = min(processes, node.processes)
        n_bytes = together * each + (_DIAGNOSED * size[1] if scatters and stage == "solve" else 0)
        crowded = n_bytes > _FULL * node.n_bytes and each > 2 * _PROGRAM
        if processes >= _MOST_PROCESSES or not (crowded or size[1] > _ROWS * processes):
            return JobResources(-(-processes // node.processes), processes, n_bytes)
        processes *= 2


def _times(n_bytes: int, factor: int) -> int:
    """Return the bytes of a process whose data take a multiple of the prediction; the program takes no more."""
    return int(_PROGRAM + factor * (n_bytes - _PROGRAM))


def _interpolated(values: tuple[float, ...], tolerance: float) -> float:
    """Return the value at a tolerance, with logarithms interpolated; beyond the table, the value at its end."""
    at = -math.log10(min(max(tolerance, _TOLERANCES[-1]), _TOLERANCES[0]))
    known = [-math.log10(known) for known in _TOLERANCES]
    right = min(max(bisect_left(known, at), 1), len(known) - 1)
    weight = (at - known[right - 1]) / (known[right] - known[right - 1])
    low, high = math.log(values[right - 1]), math.log(values[right])
    return math.exp(low + weight * (high - low))
