"""A training that is interrupted, asked to end and killed goes on from its checkpoint, to the same end."""

import json
import os
import re
import signal
import time

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.workflow

TRAINING = "results/small/train/curved/seed0/manifest.json"
LOG = "results/small/logs/train/curved/seed0.txt"


def train_for_some_steps(place, *, warm=True):
    """Start a training in a session of its own, as a terminal does, and return Snakemake's process after five steps.

    What starts warm is in no group of processes that a signal could be sent to.
    """
    process = place.start(
        TRAINING, "--set-resources", "train:checkpoint_steps=1", start_new_session=True, warm=warm,
        # Tests may have been started with interrupts ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    heads = "results/checkpoints/*/checkpoint.json"
    before = max(map(step_of, place.folder.glob(heads)), default=0)
    while not any(step_of(head) >= before + 5 for head in place.folder.glob(heads)):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def interrupt(place, signum):
    """Ask a training to end as a terminal or a batch system does, and return what Snakemake told since its start."""
    process = train_for_some_steps(place, warm=signum != signal.SIGINT)
    if signum == signal.SIGINT:  # a terminal sends it to all
        os.killpg(process.pid, signum)
    else:
        process.send_signal(signum)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert re.search(
        r"^interrupted: .* stopped on request after step \d+ of", place.folder.joinpath(LOG).read_text(), re.M
    )
    return output.partition("train curved 0: started\n")[2]


def kill(place):
    """Kill Snakemake and all that it started, and unlock the folder."""
    process = train_for_some_steps(place)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    kill_processes_of(place.folder)
    assert not (place.folder / TRAINING).exists()
    place.snakemake("--unlock")


def test_an_interrupt_is_one_closing_line_and_an_interrupted_and_killed_training_ends_bit_equal(
    make_workplace, tmp_path, study
):
    place = make_workplace(tmp_path)
    study["training"]["runs"]["curved"]["epochs"] = 80
    place.write_study(study)
    # What comes before starts warm; the training that a terminal interrupts cannot.
    place.snakemake("results/small/dataset/manifest.json")
    go_on = "Run the same command again to go on; trainings go on from their last checkpoint.\n"
    assert interrupt(place, signal.SIGINT) == f"small: 1 of 2 jobs done when it was interrupted. {go_on}"
    assert interrupt(place, signal.SIGTERM) == f"small: 0 of 1 job done when it was interrupted. {go_on}"
    kill(place)
    place.snakemake(TRAINING)
    assert "goes on at step" in place.folder.joinpath(LOG).read_text()
    assert not list(place.folder.glob("results/checkpoints/*/checkpoint.json"))
    interrupted = load_file(place.results / "train/curved/seed0/weights.safetensors")
    place.snakemake("-R", "train", "--until", "train", TRAINING)
    undisturbed = load_file(place.results / "train/curved/seed0/weights.safetensors")
    assert interrupted.keys() == undisturbed.keys()
    assert all(bool((interrupted[name] == undisturbed[name]).all()) for name in undisturbed)


def step_of(head):
    try:
        return json.loads(head.read_text())["scalars"]["step"]
    except (OSError, ValueError):
        return 0


def kill_processes_of(folder):
    """End what mpiexec started in sessions of its own; they would write on."""
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.readlink(f"/proc/{entry}/cwd") == str(folder):
                os.kill(int(entry), signal.SIGKILL)
        except OSError:
            continue
