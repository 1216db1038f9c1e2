"""File systems and clocks of a cluster, which are not what they are on one machine: late, full, read-only, wrong."""

import os
import shutil
import subprocess

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(2400)]


# What a node writes bears its own time: that of half of the nodes is an hour ahead, that of the others an hour behind.
CLOCKS = """
import os, time
if node := os.environ.get("SLURMD_NODENAME"):
    replace = os.replace
    def replace_and_date(source, target, **options):
        replace(source, target, **options)
        if str(target).endswith("manifest.json"):
            os.utime(target, (time.time() + (3600 if node.endswith("1") else -3600),) * 2)
    os.replace = replace_and_date
"""


def test_clocks_that_disagree_make_no_result_old(place, ends_like_the_undisturbed):
    for stage in ("points", "compress", "solve"):
        shutil.rmtree(place.results / stage)
    (place.results / "train" / "short" / "seed0" / "manifest.json").unlink()
    place.customize(CLOCKS)
    place.write_profile(rules={}, retries=0)
    targets = [place.manifest(path) for path in ("solve/airports", "convert/short")]
    place.start(*targets).end()
    ends_like_the_undisturbed(place, *targets)


# What another node has written is there for a node some seconds after it first looked: as on a file system whose
# clients keep for a while what they know, also that there is no such file.
LATE = """
import builtins, errno, io, os, time
HERE, SECONDS = os.environ.get("SLURMD_NODENAME", "main"), 5
replace, stat, lstat, opened = os.replace, os.stat, os.lstat, io.open
def writer(path):
    return f"{path}.written_at"
def is_shared(path):
    return isinstance(path, (str, os.PathLike)) and "/mini/" in os.fspath(path) and os.fspath(path).endswith(".json")
def must_be_known(path):
    if is_shared(path):
        try:
            with opened(writer(path)) as file:
                node = file.read()
        except FileNotFoundError:
            return
        looked = f"{path}.looked_for_at_{HERE}"
        if node != HERE:
            with opened(looked, "a"):
                pass
            if time.time() - stat(looked).st_mtime < SECONDS:
                with opened(os.environ["WAITED"], "a") as file:
                    file.write(f"{HERE} {node}\\n")
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
def replace_and_sign(source, target, **options):
    if is_shared(target):
        with opened(writer(target), "w") as file:
            file.write(HERE)
    replace(source, target, **options)
def knowing(call):
    def wrapped(path, *arguments, **options):
        must_be_known(path)
        return call(path, *arguments, **options)
    return wrapped
os.replace, os.stat, os.lstat = replace_and_sign, knowing(stat), knowing(lstat)
builtins.open = io.open = knowing(opened)
"""


def test_results_that_other_nodes_see_late_are_waited_for(place, ends_like_the_undisturbed, monkeypatch):
    shutil.rmtree(place.results / "spec")
    for stage in ("points", "compress", "solve"):
        shutil.rmtree(place.results / stage)
    waited = place.folder / "waited.txt"
    monkeypatch.setenv("WAITED", str(waited))
    place.customize(LATE)
    # Every job for itself, so that it is handed over.
    alone = {"groups": {"points": "one"}, "group-components": {"one": 1}}
    place.write_profile(rules={"points": {"slurm_partition": "'mpi'"}}, retries=0, **alone)
    place.start(place.manifest("solve/airports")).end()
    # The main process had to wait for what a node wrote, and nodes for what others wrote.
    pairs = {tuple(line.split()) for line in waited.read_text().splitlines()}
    assert {reader == "main" for reader, _ in pairs} == {True, False}
    ends_like_the_undisturbed(place, place.manifest("solve/airports"))


@pytest.fixture
def small_disk(place):
    """A copy of the checkout whose results lie on a file system of their own, without the solved matrix."""
    results = place.folder / "results"
    kept = results.rename(place.folder / "kept")
    results.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "none", results],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a file system for the test can't be mounted here: {mounted.stderr.strip()}")
    try:
        shutil.copytree(kept, results, dirs_exist_ok=True)
        for stage in ("compress", "solve"):
            shutil.rmtree(place.results / stage)
        place.write_profile(rules={}, retries=1)
        yield results
        place.close()
    finally:
        subprocess.run(["umount", "--lazy", results], check=True)


def test_a_full_disk_is_an_error_until_there_is_room(small_disk, place, ends_like_the_undisturbed):
    filler = small_disk / "filler"
    free = shutil.disk_usage(small_disk).free
    with filler.open("wb") as file:
        file.truncate()
        os.posix_fallocate(file.fileno(), 0, free - 200_000)
    said = place.start(place.manifest("solve/airports")).end(code=2)
    assert "the disk is full, so the result is incomplete" in said
    assert not (place.results / "compress" / "airports" / "manifest.json").exists()
    filler.unlink()
    place.start(place.manifest("solve/airports")).end()
    ends_like_the_undisturbed(place, place.manifest("solve/airports"))


def test_results_that_may_not_be_written_are_an_error_until_they_may(
    small_disk, place, ends_like_the_undisturbed
):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    said = place.start(place.manifest("solve/airports")).end(code=2)
    assert "error: results: may not be written to" in said
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    place.start(place.manifest("solve/airports")).end()
    ends_like_the_undisturbed(place, place.manifest("solve/airports"))
