"""The NEON routines, on a machine without NEON: compiled for it and emulated, if there is what that takes.

AARCH64_CXX names the compiler, with its options ("zig c++ -target aarch64-linux-musl"); else Debian's is looked for.
"""

import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "src/pipeline/precision/native"
COMPILER = shlex.split(os.environ.get("AARCH64_CXX", "aarch64-linux-gnu-g++"))
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
HERE = platform.machine() == "aarch64"  # where all the other tests run them


@pytest.mark.skipif(HERE, reason="NEON is this machine's own")
@pytest.mark.skipif(
    not (shutil.which(COMPILER[0]) and EMULATOR), reason="needs a compiler and an emulator for aarch64"
)
@pytest.mark.timeout(600)
def test_neon_computes_what_the_portable_routines_compute(tmp_path):
    names = "linear convolution winograd depthwise pointwise dispatch portable neon threads"
    sources = [NATIVE / f"{name}.cpp" for name in names.split()]
    program = tmp_path / "compare"
    # Which of two products is fused with their sum would be the compiler's choice, not the same one for both.
    options = ["-std=c++17", "-O2", "-ffp-contract=off", "-static", "-DPARSIMONY_NEON", f"-I{NATIVE}"]
    compile_all = [*COMPILER, *options, Path(__file__).parent / "neon/compare.cpp", *sources, "-o", program]
    subprocess.run(compile_all, check=True)
    found = subprocess.run([EMULATOR, program], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
