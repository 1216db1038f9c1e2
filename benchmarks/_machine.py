"""Conditions of a measured figure besides the code: the machine, the versions, the commit."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from threadpoolctl import threadpool_info

CPU_INFO = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
MISSING = "not installed"
INSTRUCTION_SETS = (
    "avx2",
    "f16c",
    "fma",
    "avx512f",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "asimdhp",
    "sve",
)
PACKAGES = ("parsimony-pipeline", "numpy", "scipy", "torch", "snakemake")


def machine() -> dict[str, object]:
    """Describe the processor, its caches, the memory, and the load of the machine before the benchmark."""
    info = _cpu_info()
    flags = set(info.get("flags", info.get("Features", "")).split())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": platform.platform(),
        "processor": info.get("model name") or platform.processor() or platform.machine(),
        "cores": cores,
        "caches": _caches(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
        "load_average": round(os.getloadavg()[0], 2),
    }


def versions(packages: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the versions of Python and of packages, or that one is not installed; and OpenBLAS's kernels."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *packages):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = MISSING
    for library in threadpool_info():
        if library["internal_api"] == "openblas":
            found["openblas"] = f"{library['version']} {library['architecture']}"
    return found


def commit(folder: Path) -> str:
    """Return the commit checked out in `folder`, followed by `-dirty` if tracked files differ."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    try:
        finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return finished.stdout.strip()


def _cpu_info() -> dict[str, str]:
    """The entries of the first processor; empty where the system does not have them."""
    try:
        first = CPU_INFO.read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _caches() -> dict[str, str]:
    """The size of each data cache that one core uses, such as {"L1": "48K"}."""
    sizes = {}
    for index in sorted(CACHES.glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction":
            sizes[f"L{level}"] = size
    return sizes
