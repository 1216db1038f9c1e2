import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict

import pytest

from pipeline.artifacts import lock
from pipeline.artifacts.lock import Holder, LockedError, hold, holder, killed_holder, lock_file

HOLD = """
import sys, time
from pathlib import Path
from pipeline.artifacts.lock import hold
with hold(Path(sys.argv[1])) as held:
    held.name_jobs("ours")
    print("held", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_holder_left_dates_from_its_time_until_somebody_clears_it_up(other, tmp_path):
    file = lock_file(tmp_path, "main")
    begun = "2026-01-02T03:04:05+00:00"
    other.send_signal(signal.SIGKILL)
    other.wait()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"since": begun}))
    for _ in range(2):  # starts that are refused, and leave it
        with hold(tmp_path) as held:
            assert held.former.began == begun
    assert killed_holder(tmp_path).since > begun
    with hold(tmp_path) as held:
        assert held.former.began == begun


def test_a_lock_is_held_since_it_was_taken(tmp_path, monkeypatch):
    with hold(tmp_path) as held:
        taken = held.since
        monkeypatch.setattr(lock, "datetime", None)  # no clock is read from now on
        held.name_jobs("ours")
        assert holder(tmp_path).since == taken


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
    with hold(tmp_path) as held:
        assert (held.former.pid, held.former.jobs) == (other.pid, "ours")
        assert holder(tmp_path).pid == os.getpid()


def test_the_jobs_of_a_killed_holder_are_known_until_they_have_ended(other, tmp_path):
    other.send_signal(signal.SIGKILL)
    other.wait()

    def interrupted():
        with hold(tmp_path) as held:
            held.name_jobs("new")
            raise ValueError("no answer")

    with pytest.raises(ValueError, match="no answer"):
        interrupted()
    assert killed_holder(tmp_path).jobs == "ours,new"
    with hold(tmp_path) as held:
        assert held.former.jobs == "ours,new"
        held.settle()
        assert holder(tmp_path).began == holder(tmp_path).since
        assert holder(tmp_path).jobs == ""
        held.name_jobs("newest")
        assert holder(tmp_path).jobs == "newest"
    assert not lock_file(tmp_path, "main").exists()


@pytest.fixture
def no_locks(monkeypatch):
    """A file system that has no locks."""

    def flock(descriptor, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(lock.fcntl, "flock", flock)


def write_holder(folder, pid, host):
    lock_file(folder, "main").parent.mkdir()
    lock_file(folder, "main").write_text(json.dumps(asdict(Holder(pid, host, "u", "now", "c"))))


def test_without_locks_a_holder_of_this_machine_is_alive_while_its_process_is(other, tmp_path, no_locks):
    with pytest.raises(LockedError, match=f"process {other.pid} on "), hold(tmp_path):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    with hold(tmp_path) as held:
        assert held.former.pid == other.pid


def test_without_locks_a_holder_of_another_machine_may_always_be_alive(tmp_path, no_locks):
    write_holder(tmp_path, 1, "elsewhere")
    with pytest.raises(LockedError, match=r"on elsewhere .*; if it is dead, remove "), hold(tmp_path):
        pass


def test_a_lock_of_somebody_else_is_one_line(tmp_path, monkeypatch):
    def refuse(path, flags, mode=0):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(lock.os, "open", refuse)
    with (
        pytest.raises(LockedError, match=r"main\.lock: can't be locked \(Permission denied\)"),
        hold(tmp_path),
    ):
        pass


def test_a_full_disk_keeps_what_a_lock_file_told(other, tmp_path, monkeypatch):
    other.send_signal(signal.SIGKILL)
    other.wait()

    def pwrite(descriptor, data, offset):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(lock.os, "pwrite", pwrite)
    with pytest.raises(LockedError, match="No space left"), hold(tmp_path):
        pass
    assert killed_holder(tmp_path).jobs == "ours"


def test_a_lock_that_is_given_back_leaves_no_file(tmp_path):
    with hold(tmp_path):
        assert json.loads(lock_file(tmp_path, "main").read_text())["pid"] == os.getpid()
    assert not lock_file(tmp_path, "main").exists()
    assert holder(tmp_path) is None
    assert killed_holder(tmp_path) is None
    with hold(tmp_path) as held:
        assert held.former is None


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
    with pytest.raises(LockedError, match="is a link"):
        holder(tmp_path)
    assert target.read_text() == "content"


@pytest.mark.parametrize("content", ["", "{", '{"pid": 1}'])
def test_a_damaged_file_of_nobody_is_taken_over(content, tmp_path):
    lock_file(tmp_path, "main").parent.mkdir()
    lock_file(tmp_path, "main").write_text(content)
    with hold(tmp_path):
        assert holder(tmp_path).pid == os.getpid()
