"""One set of software for all jobs: the main process records its versions, and every job compares its own with them.

The record travels in the environment: Slurm's and the generic executor's jobs inherit it from the main process. A stage
that is started by hand finds no record, and accepts any software.
"""

import functools
import json
import os
import platform
import socket
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.runtime.code_digest import ROOT, code_digest
from pipeline.runtime.native_build import check_loaded

VARIABLE = "PARSIMONY_SOFTWARE"
PACKAGES = (
    "parsimony-pipeline", "snakemake", "torch", "numpy", "scipy", "mpi4py", "mpich", "safetensors", "pydantic",
)  # fmt: skip


@functools.cache
def versions() -> dict[str, str]:
    """The installed versions of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def record_software(code: Mapping[str, str]) -> None:
    """Record for later jobs which software they should find, and which code if they may wait in a queue."""
    os.environ[VARIABLE] = json.dumps({"versions": versions(), "code": dict(code)}, sort_keys=True)


def check_software() -> None:
    """Raise ConfigError if this process's software differs from what the main process recorded."""
    recorded = _recorded()
    if recorded is None:
        return
    wanted, here = recorded["versions"], versions()
    different = [
        f"{name} is {here.get(name, 'missing')} instead of {wanted.get(name, 'missing')}"
        for name in sorted(wanted | here)
        if here.get(name) != wanted.get(name)
    ]
    if different:
        raise ConfigError(
            f"software: this node, {socket.gethostname()}, differs from where the job was submitted: "
            f"{', '.join(different)}; use one environment for all nodes: a .venv on a shared file system, a module, or "
            "a container"
        )


def check_code(stage: str, planned: str, root: Path = ROOT) -> str:
    """Compare the stage's loaded code with the code that its job was planned with, and return the loaded code's digest.

    Called when the stage is imported, so that the loaded code is compared. Snakemake records the digest that a job was
    planned with: a result of other code under that digest would never be made again. `planned` is empty for a stage
    that is started by hand. ConfigError if the code or a native module's sources have changed since.
    """
    check_loaded(root)
    here = code_digest(f"pipeline.stages.{stage}", root)
    recorded = _recorded()
    wanted = {planned, recorded["code"].get(stage, here) if recorded else here} - {""}
    if wanted - {here}:
        raise ConfigError(
            f"software: the code of {stage} has changed since this job was planned; run again, and it is made with "
            "the new code"
        )
    return here


def _recorded() -> dict[str, Any] | None:
    """Return the main process's record; None where there is no main process."""
    recorded: dict[str, Any] | None = json.loads(os.environ.get(VARIABLE) or "null")
    return recorded
