"""Partial reruns: what a change makes again, and what it leaves."""

import json
import os
import re
import zipfile
from contextlib import contextmanager

import pytest
import yaml

pytestmark = pytest.mark.workflow

REPORT = "report"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_workplace):
    """A workplace whose study is done; tests change a copy of nothing, so each restores what it changes.

    What starts warm is made first; the rest, a training under mpiexec and the page, runs cold, where least can be taken
    for granted: blanks in paths, no UTF-8, and no home folder to write to.
    """
    place = make_workplace(tmp_path_factory.mktemp("a finished study"), figures=True)
    warm = ("time_layers/curved", "scaling", *(f"solve/{name}" for name in ("airports", "ball", "features")))
    place.snakemake(*(f"results/small/{name}/manifest.json" for name in warm))
    place.variables = {"LC_ALL": "C", "PYTHONUTF8": "0", "HOME": "/proc/nowhere"}
    place.snakemake()
    place.variables = {}
    return place


@contextmanager
def edited(path, old, new):
    """A file with one place changed, and as it was afterwards, whatever happens."""
    text, times = path.read_text(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    assert old in text
    path.write_text(text.replace(old, new, 1))
    try:
        yield
    finally:
        path.write_text(text)
        os.utime(path, ns=times)


def test_a_second_run_does_nothing(finished):
    assert "Nothing to be done" in finished.snakemake()


def test_the_report_and_its_numbers_are_there(finished):
    page = (finished.results / "report" / "index.html").read_text()
    metrics = json.loads((finished.results / "report" / "metrics.json").read_text())
    assert "<html" in page
    assert set(metrics["training"]) == {"plain", "curved"}
    assert set(metrics["matrices"]) == {"airports", "ball", "features"}


def test_another_tolerance_makes_one_matrix_and_the_report_again(finished, study):
    study["matrices"]["airports"]["compress"]["tolerance"] = 1e-3
    with edited(
        finished.folder / "study.yaml", (finished.folder / "study.yaml").read_text(), yaml.safe_dump(study)
    ):
        planned = finished.planned()
    assert planned == {"spec/compress/airports.json", "compress/airports", "solve/airports", REPORT}


def test_another_label_makes_the_report_again_and_nothing_else(finished, study):
    study["training"]["runs"]["plain"]["label"] = "Plain"
    with edited(
        finished.folder / "study.yaml", (finished.folder / "study.yaml").read_text(), yaml.safe_dump(study)
    ):
        assert finished.planned() == {"spec/report.json", REPORT}


def test_a_docstring_makes_nothing_again(finished):
    path = finished.folder / "src/pipeline/training/loop.py"
    with edited(path, '"""The training loop."""', '"""Loop."""\n\n# why'):
        assert finished.planned() == set()


TRAINED = {"train/plain/seed0", "train/curved/seed0"}
HALVED = {"convert/curved", "time_layers/curved"}
FEATURES = {"points/features", "compress/features", "solve/features"}
SOLVED = {"solve/airports", "solve/ball", "solve/features"}


@pytest.mark.parametrize(
    ("file", "made_again"),
    [
        ("training/kfac.py", TRAINED | HALVED | FEATURES),
        ("precision/timing.py", HALVED | FEATURES),
        ("stages/solve.py", SOLVED),
        ("report/templates/page.html", set()),
        ("precision/native/avx2.cpp", HALVED | FEATURES),
    ],
)
def test_changed_code_makes_again_what_it_made_and_no_more(finished, file, made_again):
    path = finished.folder / "src/pipeline" / file
    more = {".py": "\n\nUNUSED = 1\n", ".html": " ", ".cpp": "\n"}[path.suffix]
    with edited(path, path.read_text(), path.read_text() + more):
        assert finished.planned() == made_again | {REPORT}


def test_changed_code_is_told_as_changed_code(finished):
    path = finished.folder / "src/pipeline/stages/solve.py"
    with edited(path, path.read_text(), path.read_text() + "\n\nUNUSED = 1\n"):
        told = finished.snakemake("--dry-run")
    assert re.search(
        r"reason: Code has changed since last execution \(digest [0-9a-f]{16} before, [0-9a-f]{16} now\)",
        told,
    )
    assert "Params have changed" not in told


def test_code_of_the_factorization_makes_solutions_again_and_no_training(finished):
    path = finished.folder / "src/pipeline/hmatrix/factor.py"
    with edited(path, path.read_text(), path.read_text() + "\n\nUNUSED = 1\n"):
        planned = finished.planned()
    assert SOLVED | {"scaling", REPORT} <= planned
    assert not any(
        job.startswith(("train", "convert", "time_layers", "dataset", "points")) for job in planned
    )


def test_forcing_until_and_omitting_take_what_they_name(finished):
    assert finished.planned("-R", "train") == TRAINED | HALVED | FEATURES | {REPORT}
    assert finished.planned("-R", "train", "--until", "train") == TRAINED
    assert finished.planned("-R", "train", "--omit-from", "convert") == TRAINED


def test_an_altered_file_is_refused_by_its_readers_and_a_deleted_artefact_is_made_again_with_what_hangs_on_it(
    finished,
):
    file = finished.results / "solve" / "airports" / "solution.npy"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        output = finished.snakemake("-R", "report", code=2)
    finally:
        file.write_bytes(content)
    assert "solution.npy: altered since it was written" in output
    manifest = finished.results / "compress" / "airports" / "manifest.json"
    manifest.rename(manifest.with_name("elsewhere"))
    assert finished.planned() == {"compress/airports", "solve/airports", REPORT}
    manifest.with_name("elsewhere").rename(manifest)
    (finished.results / "scaling" / "manifest.json").unlink()
    finished.snakemake()
    assert finished.planned() == set()


def test_touching_makes_results_current_without_work(finished, study):
    study["matrices"]["airports"]["compress"]["tolerance"] = 1e-3
    path = finished.folder / "study.yaml"
    with edited(path, path.read_text(), yaml.safe_dump(study)):
        # The spec of the change, and then nothing but the times of what hangs on it.
        finished.snakemake("--until", "freeze_spec")
        assert finished.planned() == {"compress/airports", "solve/airports", REPORT}
        finished.snakemake("--touch")
        assert finished.planned() == set()
    # What was made with the former tolerance is there still.
    finished.snakemake("--until", "freeze_spec")
    finished.snakemake("--touch")


def test_snakemakes_own_report_holds_the_page(finished):
    finished.snakemake("--report", "report.zip")
    with zipfile.ZipFile(finished.folder / "report.zip") as archive:
        pages = [name for name in archive.namelist() if name.endswith(".html")]
        texts = [archive.read(name).decode() for name in pages]
    assert any("<h1>The small study</h1>" in text for text in texts)


def test_the_main_process_remembers_every_artefact_and_keeps_the_report(finished):
    table = finished.pipeline("history", "--study", "small", "--figure", "cost.seconds")
    artefacts = {line.split()[0].removeprefix("small/") for line in table.splitlines()[1:]}
    assert artefacts == TRAINED | HALVED | SOLVED | {
        "dataset", "scaling", "report", *(f"{stage}/{name}" for stage in ("points", "compress")
                                          for name in ("airports", "ball", "features")),
    }  # fmt: skip
    (past, *_) = sorted((finished.results / "past_reports").iterdir(), reverse=True)
    assert (past / "index.html").read_text() == (finished.results / "report" / "index.html").read_text()


def test_a_rerun_of_what_is_done_is_unchanged(finished):
    line = finished.pipeline("rerun", "--study", "study.yaml", "--cores", "2")
    assert line.startswith("rerun small: unchanged, nothing to be done")


def test_an_artefact_is_explained_with_what_would_make_it_again(finished, study):
    manifest = "results/small/solve/airports/manifest.json"
    words = finished.pipeline("explain", manifest, "--study", "study.yaml")
    assert "solution, made by rule solve" in words
    assert "From: points results/small/points/airports, operator results/small/compress/airports" in words
    assert "Now: up to date" in words
    path = finished.folder / "src/pipeline/hmatrix/factor.py"
    with edited(path, path.read_text(), path.read_text() + "\n\nUNUSED = 1\n"):
        words = finished.pipeline("explain", manifest, "--study", "study.yaml")
    assert "Now: it would be made again: Input files updated by another job" in words
    assert "its code has digest" in words
    assert "Before it: compress (Code has changed since last execution" in words


def test_a_packed_study_is_verified_and_complete_where_it_is_unpacked(finished, tmp_path):
    finished.pipeline("archive", "--study", "study.yaml", "--output", str(tmp_path / "small.tar.gz"))
    assert "all as they were written" in finished.pipeline(
        "verify", str(tmp_path / "small.tar.gz"), "--into", str(tmp_path / "there")
    )
    (top,) = (tmp_path / "there").iterdir()
    place = type(finished)(top)
    (top / "study.yaml").write_text((top / "config" / "study.yaml").read_text())
    for library in (finished.folder / "src").rglob("*.so"):
        (top / library.relative_to(finished.folder)).write_bytes(library.read_bytes())
    # Dates and contents alone say so: Snakemake's own records stay at home.
    assert place.planned("--rerun-triggers", "mtime") == set()
