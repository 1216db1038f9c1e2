import json
import subprocess
import tarfile

import pytest

from pipeline.__main__ import main
from pipeline.artifacts.checksums import LIST
from pipeline.operations.archive import CRATE


@pytest.fixture
def finished(checkout, write):
    points = write("points/one", kind="points")
    write("solve/one", inputs={"points": str(points)})
    write("report", kind="report")
    return checkout


def archived(capsys):
    assert main(["archive", "--study", "tiny", "--output", "out.tar.gz"]) == 0
    capsys.readouterr()


def test_an_archive_holds_code_and_results_and_is_verified_and_unpacked(finished, capsys):
    archived(capsys)
    assert main(["verify", "out.tar.gz", "--into", "elsewhere"]) == 0
    assert "3 artefacts, all as they were written" in capsys.readouterr().out
    (top,) = (finished / "elsewhere").iterdir()
    assert (top / "Snakefile").is_file()
    assert (top / "cluster" / "config.yaml").is_file()
    assert (top / "results/tiny/solve/one/manifest.json").is_file()
    checked = subprocess.run(["sha256sum", "-c", "--quiet", LIST], cwd=top, check=False)
    assert checked.returncode == 0
    assert main(["verify", str(top)]) == 0


def test_dates_are_kept_so_that_snakemake_finds_results_newer_than_what_they_are_from(finished, capsys):
    archived(capsys)
    main(["verify", "out.tar.gz", "--into", "elsewhere"])
    (top,) = (finished / "elsewhere").iterdir()
    for name in ("results/tiny/points/one/manifest.json", "results/tiny/solve/one/manifest.json"):
        # PAX stores a date as decimal text, read back as a double: good to a microsecond.
        assert abs((top / name).stat().st_mtime - (finished / name).stat().st_mtime) < 1e-5


def test_the_crate_describes_every_file_and_who_made_every_artefact(finished, capsys):
    archived(capsys)
    with tarfile.open("out.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        crate = json.load(archive.extractfile(next(m for m in archive if m.name.endswith(CRATE))))
        owners = {(member.uid, member.uname) for member in archive}
    entities = {entity["@id"]: entity for entity in crate["@graph"]}
    assert names - {LIST, CRATE} <= entities.keys()
    assert entities[CRATE]["about"] == {"@id": "./"}
    action = entities["#results/tiny/solve/one"]
    assert action["object"] == [{"@id": "results/tiny/points/one/manifest.json"}]
    assert {part["@id"] for part in entities["./"]["hasPart"]} <= entities.keys()
    assert owners == {(0, "")}


def test_results_that_were_made_again_are_compared_bit_by_bit(finished, write, capsys):
    archived(capsys)
    write("points/one", kind="points", date="2026-02-01T00:00:00+00:00")
    write("solve/one", value=2.0)
    assert main(["verify", "out.tar.gz", "--against", "results"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "against results: 1 of 2 files of artefacts are the same bit by bit",
        "differs: tiny/solve/one/index.html",
    ]
    assert main(["verify", "out.tar.gz", "--against", "config"]) == 2
    assert "no study in common" in capsys.readouterr().err


def test_a_study_that_is_incomplete_or_altered_is_not_packed(checkout, write, capsys):
    manifest = write("solve/one")
    assert main(["archive", "--study", "tiny", "--output", "out.tar.gz"]) == 2
    assert "not complete; run it first" in capsys.readouterr().err
    write("report", kind="report")
    (manifest.parent / "index.html").write_text("altered")
    assert main(["archive", "--study", "tiny", "--output", "out.tar.gz"]) == 2
    assert "solve/one/index.html: altered" in capsys.readouterr().err
    assert not [path for path in checkout.iterdir() if "out.tar" in path.name]


def test_past_reports_and_hidden_files_stay_out(finished, write, capsys):
    hidden = finished / "results/tiny/solve/one/.draft"
    hidden.write_text("x")
    write("past_reports/20260101T000000", kind="report")
    archived(capsys)
    with tarfile.open("out.tar.gz") as archive:
        assert not [name for name in archive.getnames() if "past_reports" in name or ".draft" in name]


def test_verify_names_every_problem_and_exits_2(finished, capsys):
    (finished / "results/tiny/solve/one/index.html").write_text("altered")
    (finished / "results/tiny/points/one/index.html").unlink()
    assert main(["verify", "results/tiny"]) == 2
    error = capsys.readouterr().err
    assert "solve/one/index.html: altered" in error
    assert "points/one/index.html: listed in the manifest but missing" in error
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
