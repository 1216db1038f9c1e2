import errno
import fcntl
import logging
import os

import pytest
import safetensors.torch
import torch

from pipeline.artifacts import disk
from pipeline.artifacts.checkpoints import CheckpointFolder


@pytest.fixture
def checkpoint(tmp_path):
    return CheckpointFolder.of(tmp_path, {"spec": {"lr": 0.1}, "seed": 0})


def test_a_checkpoint_is_read_back_and_replaced(checkpoint):
    assert checkpoint.load() is None
    for step in range(3):
        checkpoint.save({"w": torch.full((2,), float(step))}, {"step": step})
        tensors, scalars = checkpoint.load()
        assert scalars == {"step": step}
        assert tensors["w"].tolist() == [step, step]
    checkpoint.remove()
    assert checkpoint.load() is None
    checkpoint.remove()


def test_a_kill_while_writing_leaves_the_former_checkpoint(checkpoint, monkeypatch):
    checkpoint.save({"w": torch.zeros(2)}, {"step": 1})

    def killed(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.artifacts.checkpoints.write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save({"w": torch.ones(2)}, {"step": 2})
    tensors, scalars = checkpoint.load()
    assert scalars == {"step": 1}
    assert tensors["w"].tolist() == [0, 0]


def test_a_damaged_checkpoint_counts_as_none(checkpoint, monkeypatch):
    monkeypatch.setattr(disk, "SECONDS_TO_APPEAR", 0.01)
    checkpoint.save({"w": torch.zeros(2)}, {"step": 1})
    file = checkpoint.folder / "a.safetensors"
    for damaged in (b"garbage", b"x" * file.stat().st_size):
        file.write_bytes(damaged)
        assert checkpoint.load() is None
    (checkpoint.folder / "checkpoint.json").write_text("{")
    assert checkpoint.load() is None


def test_tensors_that_appear_after_their_head_are_waited_for(checkpoint, monkeypatch):
    checkpoint.save({"w": torch.ones(2)}, {"step": 1})
    file = checkpoint.folder / "a.safetensors"
    late = file.rename(file.with_name("late"))
    monkeypatch.setattr(disk.Patience, "pause", lambda _self: late.rename(file))
    tensors, _ = checkpoint.load()
    assert tensors["w"].tolist() == [1, 1]


def test_another_identity_has_another_folder(tmp_path):
    folders = {
        CheckpointFolder.of(tmp_path, {"seed": seed, "code": code}).folder for seed in (0, 1) for code in "ab"
    }
    assert len(folders) == 4


def test_one_job_at_a_time_holds_the_lock(checkpoint):
    first = checkpoint.try_lock(0.0)
    assert first is not None
    assert checkpoint.try_lock(0.0) is None
    first.release()
    again = checkpoint.try_lock(0.0)
    assert again is not None
    again.release()


def test_the_lock_outlives_the_removal_of_the_checkpoint(checkpoint):
    lock = checkpoint.try_lock(0.0)
    checkpoint.save({"w": torch.zeros(2)}, {"step": 1})
    checkpoint.remove()
    assert checkpoint.try_lock(0.0) is None
    lock.release()


def test_the_locks_file_goes_with_the_last_checkpoint_and_not_before(checkpoint):
    file = checkpoint.folder.with_suffix(".lock")
    lock = checkpoint.try_lock(0.0)
    checkpoint.save({"w": torch.zeros(2)}, {"step": 1})
    checkpoint.unlock(lock)
    assert file.exists()
    lock = checkpoint.try_lock(0.0)
    checkpoint.remove()
    checkpoint.unlock(lock)
    assert not file.exists()
    # Whoever waited asks for the new file's lock.
    checkpoint.unlock(checkpoint.try_lock(0.0))


def refuse_locks(monkeypatch, number):
    def flock(*_arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_a_warning_and_nobody_waits(checkpoint, monkeypatch, caplog, number):
    refuse_locks(monkeypatch, number)
    with caplog.at_level(logging.WARNING):
        lock = checkpoint.try_lock(0.0)
        # As a node's death leaves it.
        assert checkpoint.try_lock(0.0) is not None
    assert "a file system without locks" in caplog.messages[0]
    checkpoint.unlock(lock)


def test_a_lock_that_was_removed_on_another_node_is_asked_for_again(checkpoint, monkeypatch):
    with monkeypatch.context() as patch:
        refuse_locks(patch, errno.ESTALE)
        assert checkpoint.try_lock(0.0) is None
    assert checkpoint.try_lock(0.0) is not None


def test_a_link_in_the_way_is_replaced_and_never_followed(checkpoint, tmp_path, monkeypatch):
    # Older releases of safetensors write to the name that they are given, newer ones rename to it.
    monkeypatch.setattr(
        "safetensors.torch.save_file", lambda tensors, file: file.write_bytes(safetensors.torch.save(tensors))
    )
    victim = tmp_path / "victim"
    victim.write_text("precious")
    checkpoint.folder.mkdir()
    (checkpoint.folder / "a.safetensors").symlink_to(victim)
    checkpoint.save({"w": torch.zeros(2)}, {"step": 1})
    assert victim.read_text() == "precious"
    assert checkpoint.load() is not None


def test_a_checkpoint_has_the_users_permissions(checkpoint):
    former = os.umask(0o027)
    try:
        checkpoint.save({"w": torch.zeros(2)}, {"step": 1})
    finally:
        os.umask(former)
    assert {path.stat().st_mode & 0o777 for path in checkpoint.folder.iterdir()} == {0o640}
