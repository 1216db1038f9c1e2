import json
import os
import signal
import subprocess
import sys

import pytest

from pipeline.artifacts.lock import LockedError, hold, holder, killed_holder, lock_file

HOLD = """
import sys, time
from pathlib import Path
from pipeline.artifacts.lock import hold
with hold(Path(sys.argv[1]), jobs="ours"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of `tmp_path` until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_holder_is_told_who_the_first_is(other, tmp_path):
    words = rf"in use by .* process {other.pid} on .* since .*; wait until"
    with pytest.raises(LockedError, match=words), hold(tmp_path):
        pass
    assert holder(tmp_path).pid == other.pid


def test_a_killed_holder_locks_nothing(other, tmp_path):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert lock_file(tmp_path, "main").exists()
    assert holder(tmp_path) is None
    assert killed_holder(tmp_path).pid == other.pid
    with hold(tmp_path) as former:
        assert (former.pid, former.jobs) == (other.pid, "ours")
        assert holder(tmp_path).pid == os.getpid()


def test_a_lock_that_is_given_back_leaves_no_file(tmp_path):
    with hold(tmp_path):
        assert json.loads(lock_file(tmp_path, "main").read_text())["pid"] == os.getpid()
    assert not lock_file(tmp_path, "main").exists()
    assert holder(tmp_path) is None
    assert killed_holder(tmp_path) is None
    with hold(tmp_path) as former:
        assert former is None


def test_locks_of_different_names_do_not_exclude_each_other(tmp_path):
    with hold(tmp_path), hold(tmp_path, "rerun"):
        assert holder(tmp_path, "rerun").pid == os.getpid()


def test_a_link_is_not_followed(tmp_path):
    target = tmp_path / "precious"
    target.write_text("content")
    lock_file(tmp_path, "main").parent.mkdir()
    lock_file(tmp_path, "main").symlink_to(target)
    with pytest.raises(LockedError, match="is a link"), hold(tmp_path):
        pass
    assert target.read_text() == "content"


@pytest.mark.parametrize("content", ["", "{", '{"pid": 1}'])
def test_a_damaged_file_of_nobody_is_taken_over(content, tmp_path):
    lock_file(tmp_path, "main").parent.mkdir()
    lock_file(tmp_path, "main").write_text(content)
    with hold(tmp_path):
        assert holder(tmp_path).pid == os.getpid()
