import pytest
import torch

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


def test_a_damaged_checkpoint_counts_as_none(checkpoint):
    checkpoint.save({"w": torch.zeros(2)}, {"step": 1})
    (checkpoint.folder / "a.safetensors").write_bytes(b"garbage")
    assert checkpoint.load() is None
    (checkpoint.folder / "checkpoint.json").write_text("{")
    assert checkpoint.load() is None


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
