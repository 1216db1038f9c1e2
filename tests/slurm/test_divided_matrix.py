"""A matrix over two nodes with two processes each, one of which dies in mid-factorization."""

import os
import shutil
import signal

import pytest

from cluster import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(2400)]

# Where a file `hold` lies, the processes of a factorization wait at the second phase of its first level for its end.
HELD = """
if "solve" in sys.orig_argv and "SLURMD_NODENAME" in os.environ and "snakemake" not in " ".join(sys.orig_argv):
    import pathlib
    import time
    from pipeline.hmatrix.parts import elimination

    def held(run, plan, phase, *rest, original=elimination._Run._phase):
        if phase == 1 and pathlib.Path("hold").exists():
            pathlib.Path(f"held.{os.getpid()}").touch()
            while pathlib.Path("hold").exists():
                time.sleep(0.1)
        return original(run, plan, phase, *rest)

    elimination._Run._phase = held
"""
FOUR = {"nodes": 2, "tasks": 4}


def test_a_process_that_dies_in_mid_factorization_is_named_and_changes_nothing(place, slurm):
    place.customize(HELD)
    for stage in ("compress", "solve"):
        shutil.rmtree(place.results / stage)
    place.write_profile(rules={"compress": FOUR, "solve": FOUR})
    target = place.manifest("solve/airports")
    place.start(target).end()
    expected = place.checksums()
    assert sum("operator/shard-" in name for name in expected) > 4  # arrays of four shards
    shutil.rmtree(place.results / "solve")

    (place.folder / "hold").touch()
    main = place.start(target)

    def held():
        assert main.process.poll() is None, main.said
        found = sorted(place.folder.glob("held.*"))
        return found if len(found) == 4 else []

    os.kill(int(wait_until(held, "four processes in mid-factorization")[0].suffix[1:]), signal.SIGKILL)
    (place.folder / "hold").unlink()
    said = main.end()
    assert "Trying to restart job" in said
    assert place.checksums() == expected
    assert "Nothing to be done" in place.start(target).end()
    assert wait_until(lambda: not slurm.queue(), "the queue to be empty")
    assert not place.processes()
