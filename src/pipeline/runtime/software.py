"""One set of software for all jobs: the main process records its versions, and every job compares its own with them.

The record travels in the environment, which Slurm's and the generic executor's jobs inherit from the main process. A
stage that a person starts by hand finds no record, and any software is fine.
"""

import functools
import json
import os
import platform
import socket
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from pipeline.errors import ConfigError

VARIABLE = "PARSIMONY_SOFTWARE"
PACKAGES = (
    "parsimony-pipeline",
    "snakemake",
    "torch",
    "numpy",
    "scipy",
    "mpi4py",
    "mpich",
    "safetensors",
    "pydantic",
)


@functools.cache
def versions() -> dict[str, str]:
    """The installed versions of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def record_software(code: Mapping[str, str]) -> None:
    """Tell the jobs that will be started what software they should find.

    Args:
        code: The digest of each stage's code, where jobs may wait in a queue while somebody changes it.
    """
    os.environ[VARIABLE] = json.dumps({"versions": versions(), "code": dict(code)}, sort_keys=True)


def check_software(stage: str, code: str) -> None:
    """Compare this process's software with what the main process recorded.

    Args:
        stage: What this job does.
        code: The digest of its code now.

    Raises:
        ConfigError: With what differs.
    """
    recorded = json.loads(os.environ.get(VARIABLE) or "null")
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
            f"software: on {socket.gethostname()} {', '.join(different)} where the job was submitted; use one "
            "environment for all nodes: a .venv on a shared file system, a module, or a container"
        )
    # Snakemake notes the code that the job was planned with: should somebody change it back, nothing would tell that
    # the result is another's.
    if code and recorded["code"].get(stage, code) != code:
        raise ConfigError(
            f"software: the code of {stage} has changed since this job was submitted; run again, and it is made with "
            "the new code"
        )
