"""One real Slurm for all tests of this folder, and checkouts whose studies run on it."""

import copy
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from workplace import copy_checkout

from cluster import IMPATIENT, LONG, MINI, Place, Slurm, wait_until

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def testbed():
    """A real Slurm; without the packages, a skip that names them."""
    install = subprocess.run([HERE / "packages"], capture_output=True, text=True, check=False, timeout=600)
    if install.returncode:
        pytest.skip(install.stderr.strip() or "no Slurm")
    # A short path, for its sockets; in memory where that is possible, for its database.
    top = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir=top))
    with subprocess.Popen(
        [sys.executable, HERE / "testbed.py", folder],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    ) as keeper:  # fmt: skip
        answer = keeper.stdout.readline().strip()
        assert answer == "ready", answer
        yield Slurm(folder, keeper)
        keeper.stdin.close()
        said = keeper.stdout.read()
    assert "error" not in said, said


@pytest.fixture
def slurm(testbed):
    """The same Slurm, whole again when a test has harmed it."""
    yield testbed
    testbed.repair()


@pytest.fixture(scope="session")
def undisturbed(testbed, tmp_path_factory):
    """A checkout whose small study ran to its end on this machine, without Slurm."""
    place = Place(tmp_path_factory.mktemp("undisturbed"), testbed, "mini")
    copy_checkout(place.folder)
    place.customize(IMPATIENT)
    (place.folder / "mini.yaml").write_text(yaml.safe_dump(MINI))
    place.start_here(*(place.manifest(path) for path in (LONG, "convert/short", "solve/airports"))).end()
    return place


@pytest.fixture
def place(slurm, undisturbed, tmp_path):
    """A copy of that checkout; a test removes what it wants made again."""
    copied = Place(tmp_path / "checkout", slurm, "mini")
    shutil.copytree(undisturbed.folder, copied.folder, symlinks=True)
    yield copied
    copied.close()


@pytest.fixture
def interrupted(place):
    """A copy of that checkout whose long training is missing, with a profile that writes checkpoints often."""
    shutil.rmtree(place.results / "train" / "long")
    place.write_profile(rules={"train": {"checkpoint_steps": 5}})
    return place


@pytest.fixture
def ends_like_the_undisturbed(undisturbed):
    """A function that says what is wrong with a place whose study should be done."""

    def check(place, *targets):
        assert place.checksums() == undisturbed.checksums()
        assert "Nothing to be done" in place.start(*targets).end()
        assert wait_until(lambda: not place.slurm.queue(), "the queue to be empty")
        assert not place.processes()
        assert not list((place.folder / "results" / "checkpoints").glob("*/checkpoint.json"))
        assert not list((place.folder / ".snakemake").glob("*.lock"))
        assert not list((place.folder / ".snakemake" / "locks").glob("*"))

    return check


@pytest.fixture
def mini():
    """The small study, to be changed at will."""
    return copy.deepcopy(MINI)
