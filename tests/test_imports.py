"""What the import of a core brings with it, and what only follows when it is asked for."""

import ast
import subprocess
import sys

import pytest

import pipeline.hmatrix
from pipeline.runtime.code_digest import modules_behind

#: Slow to import, or no dependency of the cores.
NOT_IMPORTED = [
    "matplotlib",
    "mpi4py",
    "pandas",
    "pipeline.config",
    "pipeline.hmatrix.boundary_elements",
    "pipeline.hmatrix.distributed",
    "pipeline.hmatrix.gaussian_process",
    "pydantic",
    "scipy.optimize",
    "scipy.spatial",
    "scipy.special",
    "sklearn",
    "snakemake",
    "torch._dynamo",
    "yaml",
]

# It starts cold: warm programs have imported these modules before.
PROGRAM = f"""
import sys
import pipeline.hmatrix, pipeline.training, pipeline.precision
print([name for name in {NOT_IMPORTED} if name in sys.modules])
assert pipeline.hmatrix.boundary_elements.TriangleMesh
from pipeline.hmatrix import *
assert GaussianProcess is pipeline.hmatrix.gaussian_process.GaussianProcess
assert DistributedH2Matrix is pipeline.hmatrix.distributed.DistributedH2Matrix
assert H2Matrix.from_kernel and kernels.Matern
"""


def test_a_core_imports_nothing_that_is_slow_and_that_few_programs_need():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout) == []


def test_all_public_names_are_listed_and_there_whenever_they_are_imported():
    assert set(pipeline.hmatrix.__all__) <= set(dir(pipeline.hmatrix))
    assert all(getattr(pipeline.hmatrix, name) for name in pipeline.hmatrix.__all__)
    assert pipeline.hmatrix.FitWarning.__module__ == "pipeline.hmatrix.gaussian_process.regressor"


def test_an_unknown_name_is_refused_as_by_any_module():
    with pytest.raises(AttributeError, match=r"module 'pipeline\.hmatrix' has no attribute 'Nothing'"):
        _ = pipeline.hmatrix.Nothing
    with pytest.raises(ImportError, match=r"cannot import name 'Nothing' from 'pipeline\.hmatrix'"):
        from pipeline.hmatrix import Nothing  # noqa: F401


def test_code_that_is_imported_late_counts_for_reruns():
    behind = set(modules_behind("pipeline.hmatrix"))
    assert {"pipeline.hmatrix.distributed.matrix", "pipeline.hmatrix.gaussian_process.regressor"} <= behind
