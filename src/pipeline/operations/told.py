"""Lines of this program among those that Snakemake prints."""

import logging
import sys
from contextlib import ExitStack


def tell(line: str) -> None:
    """Print a line to stderr, but never in the middle of a line that another thread is printing.

    Snakemake's handlers write a log record and its line end in two steps.
    """
    with ExitStack() as quiet:
        for handler in logging.getLogger("snakemake.logging").handlers:
            handler.acquire()
            quiet.callback(handler.release)
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
