"""Which files of the checkout no commit holds."""

import subprocess
from pathlib import Path

from pipeline.runtime.provenance import CODE


def uncommitted(folder: Path = Path(__file__).parent) -> list[str]:
    """The files of the code that differ from their commit or are new, by their paths in it; none where git can't tell.

    A new study in `config/` is none of them: what it says is in the spec of every artefact.

    Args:
        folder: Any one of the checkout.
    """
    wanted = ["git", "status", "--porcelain", "--untracked-files=all", "-z", "--no-renames", "--"]
    try:
        told = subprocess.run(
            [*wanted, *(f":/{name}" for name in CODE)],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line[3:] for line in told.split("\0") if line and not line.startswith("?? config/")]
