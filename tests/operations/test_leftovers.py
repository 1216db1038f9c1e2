import mmap
import os
import subprocess
import sys

import pytest

from pipeline.operations.leftovers import free_shared_memory

MAP = """
import mmap, sys
with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), 0):
    print("mapped", flush=True)
    sys.stdin.read()
"""
BEGAN = 1_000_000.0


@pytest.fixture
def segment(tmp_path):
    """A function that makes a file as an MPI process does, at a time after the beginning or before."""

    def make(name, time=BEGAN + 1):
        path = tmp_path / name
        path.write_bytes(b"\0" * mmap.PAGESIZE)
        os.utime(path, (time, time))
        return path

    return make


def test_what_a_killed_mpi_process_left_in_memory_goes(segment, tmp_path):
    left = [segment("mpich_shm_1a_0"), segment("sm_segment.host.0.7"), segment("vader_segment.host.0.7")]
    assert free_shared_memory(BEGAN, tmp_path) == left
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_before_or_is_not_of_mpi_stays(segment, tmp_path):
    stay = [segment("mpich_shm_2_0", time=BEGAN - 1), segment("sem.other"), segment("mpich")]
    assert free_shared_memory(BEGAN, tmp_path) == []
    assert all(path.exists() for path in stay)


def test_what_a_living_process_has_mapped_stays(segment, tmp_path):
    path = segment("mpich_shm_3_0")
    with subprocess.Popen(
        [sys.executable, "-c", MAP, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "mapped\n"
        assert free_shared_memory(BEGAN, tmp_path) == []
        process.stdin.close()
    assert free_shared_memory(BEGAN, tmp_path) == [path]
