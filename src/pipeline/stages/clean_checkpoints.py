"""Stage `clean_checkpoints`: remove what interrupted trainings left behind."""

import re
import shutil
from argparse import Namespace


def run(options: Namespace) -> None:
    """Delete all checkpoint folders below the given one; a training that is running writes its next one anew."""
    folders = [path for path in options.checkpoints.glob("*") if re.fullmatch(r"[0-9a-f]{24}", path.name)]
    for folder in folders:
        shutil.rmtree(folder)
    for lock in options.checkpoints.glob("*.lock"):
        lock.unlink()
    print(f"removed {len(folders)} checkpoints below {options.checkpoints}")
