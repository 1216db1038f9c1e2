"""One set of software for all jobs: the main process records its versions, and every job compares its own with them.

The record travels in the environment, which Slurm's and the generic executor's jobs inherit from the main process. A
stage that a person starts by hand finds no record, and any software is fine.
"""

import json
import os
import socket

from pipeline.errors import ConfigError
from pipeline.runtime.provenance import versions

VARIABLE = "PARSIMONY_SOFTWARE"


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
