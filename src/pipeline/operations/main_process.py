"""What Snakemake's main process does before and after the jobs of a study."""

import socket
import sys
from collections.abc import Iterable
from pathlib import Path

from pipeline.artifacts.history import merge, write_snapshot
from pipeline.artifacts.lock import Holder, holder
from pipeline.errors import PipelineError
from pipeline.operations.past_reports import keep_report


def look_back(
    study: str, manifests: Iterable[str], *, for_jobs: bool = False, results: Path = Path("results")
) -> None:
    """Take what there is into the history, and keep the report: before jobs may replace it, and after they did.

    A history that can't be written is a warning: results are worth more than the record of them.

    Args:
        study: The study's name.
        manifests: Its artefacts.
        for_jobs: Whether jobs follow, which read a snapshot of the history.
        results: The folder of all results.
    """
    try:
        merge(results, study, [Path(manifest) for manifest in manifests])
        if for_jobs:
            write_snapshot(results, study)
        keep_report(results / study)
    except (PipelineError, OSError) as error:
        print(f"warning: the history was not brought up to date: {error}", file=sys.stderr)


def main_elsewhere() -> Holder | None:
    """The main process that works in this checkout, if it does so on another host: the history is its own then.

    A database that one host writes to must not be opened on another: their views of it, over a shared file system, are
    not the same.
    """
    main = holder(Path.cwd())
    return main if main is not None and main.host != socket.gethostname() else None
