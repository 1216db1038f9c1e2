"""Who made an artefact, of which code, and what it cost."""

import subprocess
import time

import pytest

from pipeline.runtime import provenance as module
from pipeline.runtime.provenance import (
    commits_between,
    cost,
    inputs_of,
    is_dirty,
    provenance,
    slurm,
    uncommitted,
)


def test_the_cost_grows_with_the_work():
    before = cost()
    deadline = time.thread_time() + 0.05
    while time.thread_time() < deadline:
        pass
    after = cost()
    assert after["cpu_seconds"] - before["cpu_seconds"] >= 0.04
    # The wall's clock is no slower than one thread's work; it counts in hundredths.
    assert after["seconds"] - before["seconds"] >= 0.03
    assert after["peak_memory_bytes"] >= before["peak_memory_bytes"] > 1e6


def test_inputs_are_the_manifests_among_the_options():
    words = ["-m", "solve", "--spec", "s.json", "--points", "a/manifest.json", "--output", "b/manifest.json"]
    assert inputs_of(words) == {"points": "a/manifest.json"}


def test_slurm_is_told_inside_of_a_job_alone(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert "job" not in slurm()
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    assert slurm()["job"] == "42"
    assert provenance().slurm_job == "42"


def test_new_and_changed_files_of_the_code_are_named_and_others_are_not(tmp_path):
    assert uncommitted(tmp_path) == []  # no repository
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert uncommitted(tmp_path) == []
    for name in ("config/my study.yaml", "src/my own.py", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert sorted(uncommitted(tmp_path / "src")) == ["src/my own.py"]
    subprocess.run(["git", "add", "config"], cwd=tmp_path, check=True)
    assert sorted(uncommitted(tmp_path)) == ["config/my study.yaml", "src/my own.py"]


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Three commits, and git asked there."""

    def git(*words):
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        done = subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "-q")
    commits = []
    for number in range(3):
        git("commit", "-q", "--allow-empty", "-m", f"number {number}")
        commits.append(git("rev-parse", "HEAD"))
    monkeypatch.setattr(module, "git", lambda *words: git(*words))
    return commits


def test_the_commits_between_two_are_told_newest_first(repository):
    subjects = [line.partition(" ")[2] for line in commits_between(repository[0], repository[2])]
    assert subjects == ["number 2", "number 1"]
    assert commits_between(repository[0], repository[2], most=1)[1:] == ["and older ones"]
    assert commits_between(repository[0], repository[0]) == []
    assert commits_between(None, repository[0]) == []


@pytest.mark.parametrize(
    ("name", "dirty"),
    [
        ("src/pipeline/new.py", True),
        ("config/new.yaml", False),
        ("notes.txt", False),
        ("src/ignored.pyc", False),
    ],
)
def test_a_new_file_of_the_code_makes_a_checkout_dirty(repository, tmp_path, name, dirty):
    (tmp_path / ".git/info/exclude").write_text("*.pyc\n")
    assert is_dirty() is False
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("")
    assert is_dirty() is dirty


def test_a_changed_study_makes_a_checkout_dirty(repository, tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config/old.yaml").write_text("")
    module.git("add", "config")
    module.git("commit", "-q", "-m", "a study")
    assert is_dirty() is False
    (tmp_path / "config/old.yaml").write_text("study: old")
    assert is_dirty() is True
