import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.artifacts.checksums import LIST
from pipeline.artifacts.lock import hold
from pipeline.config.specs import artefacts_of, specs
from pipeline.operations.archive import PARTS
from pipeline.operations.crate import CRATE
from pipeline.operations.studies import read_study

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def artefacts(checkout):
    """All that the study `tiny` consists of."""
    return [*artefacts_of(specs(read_study("tiny").study)["report"]), "report"]


@pytest.fixture
def finished(checkout, artefacts, write):
    for name in artefacts:
        write(name)
    points = write("points/airports", kind="points")
    write("solve/airports", inputs={"points": str(points)})
    write("report", kind="report")
    return checkout


def archived(capsys):
    assert main(["archive", "--study", "tiny", "--output", "out.tar.gz"]) == 0
    capsys.readouterr()


def test_an_archive_holds_code_and_results_and_is_verified_and_unpacked(finished, artefacts, capsys):
    archived(capsys)
    assert main(["verify", "out.tar.gz", "--into", "elsewhere"]) == 0
    assert f"{len(artefacts)} artefacts, all as they were written" in capsys.readouterr().out
    (top,) = (finished / "elsewhere").iterdir()
    assert (top / "Snakefile").is_file()
    assert (top / "cluster" / "config.yaml").is_file()
    assert (top / "results/tiny/solve/airports/manifest.json").is_file()
    checked = subprocess.run(["sha256sum", "-c", "--quiet", LIST], cwd=top, check=False)
    assert checked.returncode == 0
    assert main(["verify", str(top)]) == 0


def test_the_parts_of_a_checkout_without_version_control_are_those_with_it():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    if "Snakefile" not in listed.splitlines():
        pytest.skip("this checkout is not under version control")
    assert set(PARTS) == {name.partition("/")[0] for name in listed.splitlines()}


def test_a_name_with_blanks_is_an_address_in_the_crate(finished, capsys):
    (finished / "results/tiny/solve/airports/a b%.txt").write_text("x")
    archived(capsys)
    with tarfile.open("out.tar.gz") as archive:
        crate = json.load(archive.extractfile(next(m for m in archive if m.name.endswith(CRATE))))
    assert "results/tiny/solve/airports/a%20b%25.txt" in {entity["@id"] for entity in crate["@graph"]}


def test_dates_are_kept_so_that_snakemake_finds_results_newer_than_what_they_are_from(finished, capsys):
    archived(capsys)
    main(["verify", "out.tar.gz", "--into", "elsewhere"])
    (top,) = (finished / "elsewhere").iterdir()
    for name in ("results/tiny/points/airports/manifest.json", "results/tiny/solve/airports/manifest.json"):
        # PAX stores a date as decimal text, read back as a double: good to a microsecond.
        assert abs((top / name).stat().st_mtime - (finished / name).stat().st_mtime) < 1e-5


def test_the_crate_describes_every_file_and_who_made_every_artefact(finished, capsys):
    archived(capsys)
    with tarfile.open("out.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        crate = json.load(archive.extractfile(next(m for m in archive if m.name.endswith(CRATE))))
        owners = {(member.uid, member.uname) for member in archive}
    entities = {entity["@id"]: entity for entity in crate["@graph"]}
    assert names - {LIST, CRATE} - entities.keys() == {"cluster"}
    assert entities["cluster/"]["@type"] == "Dataset"  # a link to a folder
    for name in names & (entities.keys() - {CRATE}):
        content = (finished / name).read_bytes()
        assert entities[name]["contentSize"] == str(len(content))
        assert entities[name]["sha256"] == hashlib.sha256(content).hexdigest()
    assert entities[CRATE]["about"] == {"@id": "./"}
    action = entities["#results/tiny/solve/airports"]
    assert action["object"] == {"@id": "results/tiny/points/airports/manifest.json"}
    assert entities[action["instrument"]["@id"]]["softwareVersion"] == f"commit {'a' * 40}"
    assert [(entities[cost["@id"]]["name"], entities[cost["@id"]]["value"]) for cost in action["resourceUsage"]] == [
        ("seconds", "75.0"), ("peak_memory_bytes", "2000000000.0"), ("package_joules", "1234.0"),
    ]  # fmt: skip
    assert {part["@id"] for part in entities["./"]["hasPart"]} <= entities.keys()
    assert owners == {(0, "")}


def test_results_that_were_made_again_are_compared_bit_by_bit(finished, artefacts, write, capsys):
    write("new_stage/one")
    archived(capsys)
    write("points/airports", kind="points", date="2026-02-01T00:00:00+00:00")
    for name in ("new_stage/one", "report", "past_reports/20260101T000000", "solve/airports"):
        write(name, value=2.0)
    n = len(artefacts)  # the new stage's instead of the report
    assert main(["verify", "out.tar.gz", "--against", "results"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"against results: {n - 2} of {n} files of artefacts are the same bit by bit, 2 differ",
        "differs: tiny/new_stage/one/index.html",
        "differs: tiny/solve/airports/index.html",
    ]
    assert main(["verify", "out.tar.gz", "--against", "config"]) == 2
    assert "no study in common" in capsys.readouterr().err


def test_a_study_that_is_incomplete_or_altered_is_not_packed(checkout, artefacts, write, capsys):
    assert main(["archive", "--study", "tiny", "--output", "out.tar.gz"]) == 2
    assert f"not complete, without {artefacts[0]}, " in (error := capsys.readouterr().err)
    assert f" and {len(artefacts) - 5} more; run it first" in error
    for name in artefacts:
        write(name)
    manifest = checkout / "results/tiny/solve/airports/manifest.json"
    shutil.rmtree(manifest.parent)
    assert main(["archive", "--study", "tiny", "--output", "out.tar.gz"]) == 2
    assert "not complete, without solve/airports; run it first" in capsys.readouterr().err
    write("solve/airports")
    (manifest.parent / "index.html").write_text("altered")
    assert main(["archive", "--study", "tiny", "--output", "out.tar.gz"]) == 2
    solve = "results/tiny/solve/airports"
    assert capsys.readouterr().err.endswith(
        f"error: {solve}/index.html: altered (its checksum differs from the manifest's); "
        f"delete {solve}/manifest.json, then snakemake --cores all --configfile config/tiny.yaml\n"
    )
    assert not [path for path in checkout.iterdir() if "out.tar" in path.name]


def test_a_study_that_is_running_is_not_packed(finished, capsys):
    with hold(finished):
        assert main(["archive", "--study", "tiny", "--output", "out.tar.gz"]) == 2
    assert "in use by" in capsys.readouterr().err
    assert not (finished / "out.tar.gz").exists()
    archived(capsys)


def test_a_link_in_place_of_the_draft_is_not_followed(finished, capsys):
    (finished / "victim").write_text("precious")
    (finished / f".out.tar.gz.{os.getpid()}").symlink_to("victim")
    archived(capsys)
    assert (finished / "victim").read_text() == "precious"
    assert not (finished / "out.tar.gz").is_symlink()


def test_past_reports_and_hidden_files_stay_out(finished, write, capsys):
    hidden = finished / "results/tiny/solve/airports/.draft"
    hidden.write_text("x")
    write("past_reports/20260101T000000", kind="report")
    archived(capsys)
    with tarfile.open("out.tar.gz") as archive:
        assert not [name for name in archive.getnames() if "past_reports" in name or ".draft" in name]


def test_verify_names_every_problem_and_exits_2(finished, capsys):
    (finished / "results/tiny/solve/airports/index.html").write_text("altered")
    (finished / "results/tiny/points/airports/index.html").unlink()
    assert main(["verify", "results/tiny"]) == 2
    error = capsys.readouterr().err
    assert "solve/airports/index.html: altered" in error
    assert "points/airports/index.html: listed in the manifest but missing" in error
    assert "error: results/tiny: 2 problems" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no such file or folder"),
        (["config"], "no artefact"),
        (["config", "--into", "x"], "--into unpacks archives"),
        (["Snakefile"], "not a tar archive"),
    ],
)
def test_what_cannot_be_verified_is_one_line(checkout, arguments, words, capsys):
    assert main(["verify", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_the_studies_beside_a_study_are_packed_with_it(checkout, write, capsys):
    letters = read_study("large_batch_letters")
    wanted = {
        name: [*artefacts_of(specs(read_study(name).study)["report"]), "report"]
        for name in ("large_batch", letters.name)
    }
    for study, names in wanted.items():
        for name in names:
            write(name, study=study)
    shutil.rmtree("results/large_batch_letters/report")
    assert main(["archive", "--study", "large_batch", "--output", "out.tar.gz"]) == 2
    assert "not complete, without large_batch_letters/report; run it first" in capsys.readouterr().err
    write("report", study=letters.name)
    assert main(["archive", "--study", "large_batch", "--output", "out.tar.gz"]) == 0
    n = sum(map(len, wanted.values()))
    assert f"{n} artefacts" in capsys.readouterr().out
    with tarfile.open("out.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"results/large_batch_letters/report/manifest.json", letters.path.as_posix()} <= names
