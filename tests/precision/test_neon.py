"""The NEON routines, on a machine without NEON: compiled for it and emulated, if there is what that takes.

AARCH64_CXX names the compiler, with its options ("zig c++ -target aarch64-linux-musl"); else Debian's is looked for.
"""

import hashlib
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


@pytest.mark.emulated
@pytest.mark.skipif(HERE, reason="NEON is this machine's own")
@pytest.mark.skipif(
    not (shutil.which(COMPILER[0]) and EMULATOR), reason="needs a compiler and an emulator for aarch64"
)
@pytest.mark.timeout(600)
def test_neon_computes_what_the_portable_routines_compute(pytestconfig):
    names = "linear convolution winograd depthwise pointwise dispatch portable neon threads"
    sources = [NATIVE / f"{name}.cpp" for name in names.split()]
    # Which of two products is fused with their sum would be the compiler's choice, not the same one for both.
    options = ["-std=c++17", "-O2", "-ffp-contract=off", "-static", "-DPARSIMONY_NEON", f"-I{NATIVE}"]
    compare = Path(__file__).parent / "neon/compare.cpp"
    # Compiled half a minute long, and once for the same sources and options.
    version = subprocess.run([COMPILER[0], "--version"], capture_output=True, check=True).stdout
    texts = [path.read_bytes() for path in (compare, *sorted(NATIVE.glob("*.[chi]*")))]
    digest = hashlib.sha256(
        b"\0".join([version, *map(str.encode, (*COMPILER, *options)), *texts])
    ).hexdigest()
    program = pytestconfig.cache.mkdir("neon") / digest
    if not program.exists():
        unfinished = program.with_suffix(f".{os.getpid()}")
        subprocess.run([*COMPILER, *options, compare, *sources, "-o", unfinished], check=True)
        unfinished.rename(program)
    found = subprocess.run([EMULATOR, program], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
