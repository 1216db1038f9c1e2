"""Who made an artefact, and what it cost."""

import time

from pipeline.runtime.provenance import cost, inputs_of, provenance, slurm


def test_the_cost_grows_with_the_work():
    before = cost()
    deadline = time.process_time() + 0.05
    while time.process_time() < deadline:
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
    assert provenance()["slurm_job"] == "42"
