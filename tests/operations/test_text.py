import logging
import sys
import threading

from pipeline.operations.text import tell


class _InTwoSteps(logging.StreamHandler):
    """Writes a record and its end one after the other, as Snakemake's handler does."""

    def __init__(self, begun, told):
        super().__init__(sys.stderr)
        self.begun, self.told = begun, told

    def emit(self, record):
        self.stream.write(record.getMessage())
        self.begun.set()
        self.told.wait(0.2)
        self.stream.write(self.terminator)


def test_a_line_is_never_told_within_the_line_of_another_thread(capsys):
    begun, told = threading.Event(), threading.Event()
    logger = logging.getLogger("snakemake.logging")
    handler = _InTwoSteps(begun, told)
    logger.addHandler(handler)
    try:
        other = threading.Thread(target=logger.critical, args=("SLURM run ID: 7",))
        other.start()
        begun.wait()
        tell("error: what to do")
        told.set()
        other.join()
    finally:
        logger.removeHandler(handler)
    assert capsys.readouterr().err == "SLURM run ID: 7\nerror: what to do\n"
