"""One set of software for all jobs: the main process records its versions, and every job compares its own with them.

The record travels in the environment, which Slurm's and the generic executor's jobs inherit from the main process. A
stage that a person starts by hand finds no record, and any software is fine.
"""

import functools
import json
import os
import platform
import socket
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


def record_software() -> None:
    """Tell the jobs that will be started what software they should find."""
    os.environ[VARIABLE] = json.dumps(versions(), sort_keys=True)


def check_software() -> None:
    """Compare this process's software with what the main process recorded.

    Raises:
        ConfigError: With what differs.
    """
    recorded = json.loads(os.environ.get(VARIABLE, "null"))
    if recorded is None:
        return
    here = versions()
    different = [
        f"{name} is {here.get(name, 'missing')} instead of {recorded.get(name, 'missing')}"
        for name in sorted(recorded | here)
        if here.get(name) != recorded.get(name)
    ]
    if different:
        raise ConfigError(
            f"software: on {socket.gethostname()} {', '.join(different)} where the job was submitted; use one "
            "environment for all nodes: a .venv on a shared file system, a module, or a container"
        )
