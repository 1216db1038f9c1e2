"""Lines of this program among those that Snakemake prints."""

import logging
import sys
from contextlib import ExitStack


def tell(line: str) -> None:
    """Print a line to stderr, and never into a line that another thread is printing.

    Snakemake's handlers of log records write a record and the end of its line one after the other.
    """
    with ExitStack() as quiet:
        for handler in logging.getLogger("snakemake.logging").handlers:
            handler.acquire()
            quiet.callback(handler.release)
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
