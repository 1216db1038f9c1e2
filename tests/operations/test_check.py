import os
import shutil
import sys
from pathlib import Path

import malformed
import pytest
import yaml

from pipeline.__main__ import main


def refused(capsys, study="mine.yaml"):
    assert main(["check", study]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    "study",
    [
        "tiny",
        "default",
        "fashion",
        "large_batch",
        "large_batch_grid",
        "large_batch_tuning",
        "large_batch_tuning_2",
        "large_batch_tuning_3",
        "large_batch_tuning_4",
        "config/tiny.yaml",
    ],
)
def test_a_right_study_is_one_line(checkout, study, capsys):
    assert main(["check", study]) == 0
    assert capsys.readouterr().out.rstrip().endswith("all right")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "found nothing"),
        (b"- 1\n", "found list"),
        (b"\x89PNG\xff\xfe", "not a text file"),
        (b"a: [1,\n", "not a readable YAML file"),
        (b"study: a\x00\n", "not a readable YAML file"),
        (b"seeds: [0]\nstudy: mine\nseeds: [1]\n", "mine.yaml: seeds is written twice, in lines 1 and 3"),
        (b"matrices:\n  a:\n    task: kriging\n    task: kriging\n", "matrices.a.task is written twice"),
        (b"training: {runs: {x: {smoothing: [{a: 1, a: 2}]}}}\n", "training.runs.x.smoothing.0.a is written"),
        (b"study: mine\nseeds: &a [*a]\n", "seeds"),
        (b"seeds: [0]\n", "mine.yaml: names no study; add a line such as 'study: mine'"),
        (b"date: 2026-99-99\n", "not a readable YAML file"),
        (b"seeds: [" + b"9" * 5000 + b"]\n", "not a readable YAML file"),
    ],
)
def test_a_file_that_is_no_study_is_one_line(checkout, content, words, capsys):
    Path("mine.yaml").write_bytes(content)
    assert words in refused(capsys)


def test_what_a_study_asks_for_is_counted(checkout, capsys):
    assert main(["check", "tiny"]) == 0
    assert "8 trainings, 1 conversion, 3 matrices, 17 files of options: all right" in capsys.readouterr().out
    study = yaml.safe_load(Path("config/tiny.yaml").read_text())
    study["training"] |= {"trials": 3, "final_seeds": 2}
    next(iter(study["training"]["runs"].values()))["search"] = {"lr": [0.01, 0.1]}
    Path("config/tiny.yaml").write_text(yaml.safe_dump(study))
    assert main(["check", "tiny"]) == 0
    assert "8 trainings, 7 more for trials, 1 conversion" in capsys.readouterr().out


def test_the_report_lies_in_the_folder_that_the_study_names(checkout, capsys):
    shutil.copy("config/tiny.yaml", "config/mine.yaml")
    assert main(["check", "mine", "--report"]) == 0
    assert capsys.readouterr().out == "report: results/tiny/report/index.html\n"


def test_two_files_of_one_study_are_named(checkout, capsys):
    assert main(["check", "tiny"]) == 0
    assert not capsys.readouterr().err
    shutil.copy("config/tiny.yaml", "config/mine.yaml")
    assert main(["check", "mine"]) == 0
    said = capsys.readouterr()
    assert "all right" in said.out
    assert said.err == (
        "warning: config/mine.yaml and config/tiny.yaml both name study tiny, and share results/tiny\n"
    )


def test_a_missing_study_names_those_that_there_are(checkout, capsys):
    studies = ", ".join(sorted(path.stem for path in Path("config").glob("*.yaml")))
    assert "default" in studies
    assert refused(capsys, "gone").endswith(f"studies: {studies}")
    assert "there is no config/gone.yaml" in refused(capsys, "gone.yaml")
    assert "there is no here/gone.yaml" in refused(capsys, "here/gone.yaml")


@pytest.mark.parametrize("study", ["tiny", "tiny.yaml", "config/tiny.yaml"])
def test_a_study_is_named_with_and_without_its_ending_and_its_folder(checkout, capsys, study):
    assert main(["check", study]) == 0
    assert capsys.readouterr().out.startswith("config/tiny.yaml: study tiny, ")


def test_outside_of_a_checkout_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "not a checkout" in refused(capsys, "tiny")


@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        ("gone.models:net", {}, "can't be imported (No module named 'gone')"),
        ("broken:net", {}, "can't be imported (it broke)"),
        ("ending:net", {}, "can't be imported (it ends the program)"),
        ("mine:gone", {}, "can't be imported (module 'mine' has no attribute 'gone')"),
        ("mine:number", {}, "is of type int; name a function or class"),
        ("mine:net", {"depth": 3}, "model.options (got an unexpected keyword argument 'depth')"),
    ],
)
def test_a_network_that_cannot_be_had_is_told(checkout, monkeypatch, capsys, path, options, words):
    monkeypatch.syspath_prepend(checkout)
    for name in ("mine", "broken", "ending"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    Path("broken.py").write_text("raise RuntimeError('it broke')\n")
    Path("ending.py").write_text("raise SystemExit(0)\n")
    Path("mine.py").write_text("number = 1\ndef net(num_classes, width=1): ...\n")
    study = yaml.safe_load(Path("config/tiny.yaml").read_text())

    def write(model):
        Path("mine.yaml").write_text(yaml.safe_dump(study | {"model": {"name": "imported", **model}}))

    write({"path": path, "options": options})
    line = refused(capsys)
    assert line.startswith(f"error: model.path: '{path}' ")
    assert words in line
    write({"path": "mine:net", "options": {"width": 2}})
    assert main(["check", "mine.yaml"]) == 0


def test_what_is_in_the_way_of_results_is_named(checkout, capsys):
    Path("results").write_text("")
    assert "expected a folder for results, found a file" in refused(capsys, "tiny")
    Path("results").unlink()
    Path("results").symlink_to("gone")
    assert "a link to gone, which isn't there" in refused(capsys, "tiny")


def test_a_folder_that_may_not_be_written_to_is_named(checkout, monkeypatch, capsys):
    Path("results").mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "results: may not be written to" in refused(capsys, "tiny")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("x,y,depth\n0,1,2\n1,2,3\n", "wells.csv: has no column 'mm'"),
        ("x,y,mm\n0,1,2\n1,2,n/a\n", "row 2 (line 3), column mm"),
        ("x,y,mm\n0,1,2\n1,2\n", "row 2"),
        ("", "wells.csv"),
    ],
)
def test_files_of_points_are_read_before_anything_runs(checkout, rows, words, capsys):
    study = {
        "study": "mine",
        "matrices": {
            "water": {
                "points": {"name": "file", "path": "wells.csv", "coordinates": ["x", "y"], "value": "mm"},
                "kernel": {"name": "matern", "nu": 1.5, "length_scale": 0.5},
                "nugget": 0.1,
                "task": "kriging",
            }
        },
    }
    Path("mine.yaml").write_text(yaml.safe_dump(study))
    Path("wells.csv").write_text(rows)
    line = refused(capsys)
    assert line.startswith("error: matrices.water.points: ")
    assert words in line
    Path("wells.csv").write_text("x,y,mm\n" + "".join(f"{i},{i * i},{i}\n" for i in range(12)))
    assert main(["check", "mine.yaml"]) == 0


@pytest.mark.parametrize("kind", malformed.STUDIES)
def test_a_malformed_file_of_every_format_is_one_line(checkout, capsys, kind):
    study, words = malformed.write(checkout, kind)
    Path("mine.yaml").write_text(yaml.safe_dump(study))
    before = {path for path in checkout.rglob("*") if path.is_file()}
    assert refused(capsys).startswith(words)
    after = {path for path in checkout.rglob("*") if path.is_file()}
    assert {path for path in after - before if ".snakemake" not in path.parts} == set()


def test_files_that_were_found_right_are_not_read_again(checkout, capsys, monkeypatch):
    study, _ = malformed.write(checkout, ".csv")
    Path("mine.yaml").write_text(yaml.safe_dump(study))
    rows = "lon,lat,mm\n" + "".join(f"{i},{i * i},{i}\n" for i in range(12))
    Path("own.csv").write_text(rows)
    assert main(["check", "mine.yaml"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.operations.own_inputs.require_readable", None)
        assert main(["check", "mine.yaml"]) == 0
    Path("own.csv").write_text(rows + "4,5,six\n")
    assert "row 13 (line 14), column mm" in refused(capsys)


def test_a_file_whose_name_breaks_the_line_is_still_told_in_one(checkout, capsys):
    study, _ = malformed.write(checkout, ".csv")
    study["matrices"]["own"]["points"]["path"] = "-a 'b\"\n\x1b[31m\u00e9.csv"
    Path("mine.yaml").write_text(yaml.safe_dump(study))
    assert "points.path: -a 'b\"\\n\\x1b[31m\u00e9.csv: there is no such file" in refused(capsys)
