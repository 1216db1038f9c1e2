"""hmat-oss as a peer: compile the driver beside this file against Debian's package, run it, read its figures."""

import functools
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SOURCE = Path(__file__).with_name("hmat_oss.cpp")
BINARY = Path(__file__).parents[2] / "build" / "benchmarks" / "hmat_oss"
NAME = "hmat-oss"
HINT = "apt-get install libhmat-oss-dev libopenblas-dev"


@dataclass(frozen=True)
class Figures:
    """Seconds and bytes of one problem, and its solution."""

    build: float
    bytes: float
    product: float
    factorize: float
    factor_bytes: float
    solve: float
    iterations: int
    version: str
    solution: NDArray[np.float64]

    @property
    def seconds(self) -> float:
        """Total seconds of building, factorizing and solving."""
        return self.build + self.factorize + self.solve


@functools.cache
def driver() -> Path | None:
    """Return the compiled driver, or None where compiler or package are missing."""
    BINARY.parent.mkdir(parents=True, exist_ok=True)
    flags = ["-O3", "-march=native", "-ffast-math", "-std=c++17"]
    command = [os.environ.get("CXX", "c++"), *flags, str(SOURCE), "-o", str(BINARY), "-lhmat", "-lopenblas"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        print(f"{NAME} is missing: {HINT}")
        return None
    return BINARY


def run(
    points: NDArray[np.float64],
    b: NDArray[np.float64],
    *,
    kernel: str,
    parameter: float,
    diagonal: float,
    tolerance: float,
    loose: float = 0.0,
) -> Figures | None:
    """Solve one problem on one thread; see hmat_oss.cpp for the arguments. None where hmat-oss is missing."""
    binary = driver()
    if binary is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        files = {name: str(Path(folder) / name) for name in ("points", "right_hand_side", "solution")}
        np.ascontiguousarray(points).tofile(files["points"])
        b.tofile(files["right_hand_side"])
        numbers = [repr(float(value)) for value in (parameter, diagonal, tolerance, loose)]
        n, d = points.shape
        command = [str(binary), files["points"], str(n), str(d), kernel, *numbers]
        done = subprocess.run(
            [*command, files["right_hand_side"], files["solution"]],
            check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        return Figures(**json.loads(done.stdout), solution=np.fromfile(files["solution"]))
