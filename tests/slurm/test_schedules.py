"""Reruns that Slurm itself starts. Debian's Slurm has no scrontab: what would stand there is tested without it."""

import re
import sys

import pytest

from cluster import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(2400)]


@pytest.fixture
def ready(place):
    """A copy of the checkout with an environment and a profile, as a person would leave it."""
    (place.folder / ".venv").symlink_to(sys.prefix)
    place.write_profile(rules={})
    return place


def test_a_rerun_books_its_next_one(ready, slurm, undisturbed):
    first = ready.call(
        "sbatch", "--parsable", "workflow/schedule/rerun.sbatch", "mini.yaml", "own", "now+1day"
    ).strip()
    wait_until(lambda: {*slurm.states(first)} - {"PENDING", "RUNNING"}, "the rerun to end")
    said = (ready.folder / "parsimony-rerun.txt").read_text()
    assert slurm.states(first) == ["COMPLETED"], said
    assert re.search(
        r"^rerun mini: rerun, \d+ jobs in .*; report results/mini/report/index.html$", said, re.MULTILINE
    )
    (following,) = slurm.queue()
    name, state = slurm.call("squeue", "-h", "-j", following, "-o", "%j %T").split()
    assert name.startswith("parsimony-rerun-mini.yaml-")
    assert state == "PENDING"
    # That the first rerun has ended, which this one waited for too, is seen when Slurm looks at its queue again.
    wait_until(
        lambda: slurm.call("squeue", "-h", "-j", following, "-o", "%r").strip() == "BeginTime",
        "the next rerun to wait for its time alone",
    )
    slurm.call("scancel", f"--name={name}")
    # Beside what was there, it made the timings and the report.
    assert undisturbed.checksums().items() <= ready.checksums().items()
    assert not ready.processes()
