"""Partial reruns: what a change makes again, and what it leaves."""

import copy
import json
import os
import signal
import time

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.workflow

REPORT = "report"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_workplace):
    """A workplace whose study is done; tests change a copy of nothing, so each restores what it changes."""
    place = make_workplace(tmp_path_factory.mktemp("finished"))
    place.snakemake()
    return place


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return lambda: path.write_text(text)


def test_a_second_run_does_nothing(finished):
    assert "Nothing to be done" in finished.snakemake()


def test_the_report_and_its_numbers_are_there(finished):
    page = (finished.results / "report" / "index.html").read_text()
    metrics = json.loads((finished.results / "report" / "metrics.json").read_text())
    assert "<html" in page
    assert set(metrics["training"]) == {"plain", "curved"}
    assert set(metrics["matrices"]) == {"airports", "ball"}


def test_another_tolerance_makes_one_matrix_and_the_report_again(finished, study):
    changed = copy.deepcopy(study)
    changed["matrices"]["airports"]["compress"]["tolerance"] = 1e-3
    finished.write_study(changed)
    planned = finished.planned()
    finished.write_study(study)
    assert planned == {"spec/compress/airports.json", "compress/airports", "solve/airports", REPORT}


def test_a_docstring_makes_nothing_again(finished):
    restore = edit(
        finished.folder / "src/pipeline/training/loop.py", '"""The training loop."""', '"""Loop."""\n\n# why'
    )
    planned = finished.planned()
    restore()
    assert planned == set()


def test_code_of_the_factorization_makes_solutions_again_and_no_training(finished):
    path = finished.folder / "src/pipeline/hmatrix/factor.py"
    text = path.read_text()
    path.write_text(text + "\n\nUNUSED = 1\n")
    planned = finished.planned()
    path.write_text(text)
    assert {"solve/airports", "solve/ball", REPORT} <= planned
    assert not any(job.startswith(("train", "convert", "time_layers", "dataset")) for job in planned)


def test_forcing_until_and_omitting_take_what_they_name(finished):
    trained = {"train/plain/seed0", "train/curved/seed0"}
    after = {"convert/curved", "time_layers/curved", REPORT}
    assert finished.planned("-R", "train") == trained | after
    assert finished.planned("-R", "train", "--until", "train") == trained
    assert finished.planned("-R", "train", "--omit-from", "convert") == trained


def test_a_deleted_artefact_is_made_again_with_what_hangs_on_it(finished):
    manifest = finished.results / "compress" / "airports" / "manifest.json"
    content = manifest.read_bytes()
    times = manifest.stat().st_atime_ns, manifest.stat().st_mtime_ns
    manifest.unlink()
    planned = finished.planned()
    manifest.write_bytes(content)
    os.utime(manifest, ns=times)
    assert planned == {"compress/airports", "solve/airports", REPORT}
    assert finished.planned() == set()


def test_an_altered_file_is_refused_by_its_readers(finished):
    file = finished.results / "points" / "airports" / "points.npy"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    output = finished.snakemake("-R", "compress", "--until", "compress", code=1)
    file.write_bytes(content)
    assert "points.npy: altered since it was written" in output
    finished.snakemake()


def test_touching_makes_results_current_without_work(finished, study):
    (finished.folder / "results/small/spec/dataset.json").touch()
    finished.snakemake("--touch")
    assert finished.planned() == set()


def test_a_killed_training_goes_on_and_ends_bit_equal(make_workplace, tmp_path, study):
    longer = copy.deepcopy(study)
    longer["training"]["runs"]["curved"]["epochs"] = 30
    place = make_workplace(tmp_path)
    place.write_study(longer)
    target = "results/small/train/curved/seed0/manifest.json"
    process = place.start(target, start_new_session=True)
    checkpoints = place.folder / "results" / "checkpoints"
    deadline = time.monotonic() + 120
    while not any(step_of(head) >= 5 for head in checkpoints.glob("*/checkpoint.json")):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    kill_processes_of(place.folder)
    assert not (place.folder / target).exists()
    place.snakemake("--unlock")
    output = place.snakemake(target)
    assert "goes on at step" in output
    assert not list(checkpoints.glob("*/checkpoint.json"))
    interrupted = load_file(place.results / "train/curved/seed0/weights.safetensors")
    place.snakemake("-R", "train", "--until", "train", target)
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
