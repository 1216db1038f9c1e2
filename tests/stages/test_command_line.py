import json
import subprocess
import sys

import pytest

from pipeline.__main__ import main
from pipeline.artifacts.checkpoints import CheckpointFolder


def test_schema_is_printed_as_json(capsys):
    assert main(["schema"]) == 0
    assert "matrices" in json.loads(capsys.readouterr().out)["properties"]


def test_a_missing_artefact_is_one_line_and_exit_code_2(bench, capsys):
    assert bench.run("train", **bench.train_options()) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert f"{bench.manifest('dataset')}: no such artefact; run snakemake to make it" in errors[0]


def test_an_output_that_is_no_manifest_is_refused_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "--output", "half"]) == 2
    assert "expected a path that ends in manifest.json, such as half/manifest.json" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_broken_spec_is_one_line(bench, capsys):
    spec = bench.folder / "spec" / "dataset.json"
    spec.write_text("{")
    assert bench.run("dataset", spec=spec) == 2
    assert "not a readable spec" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["nwe", "mine"],
            "error: there is no command 'nwe'; did you mean 'new'? `python -m pipeline --help` lists",
        ),
        (["zzz"], "error: there is no command 'zzz'; `python -m pipeline --help` lists what there is"),
        (
            ["schedule", "instal"],
            "error: there is no action 'instal'; did you mean 'install'? `python -m pipeline ",
        ),
        (
            ["train", "--tensorboard", "2"],
            "error: there is no tensorboard 2; `python -m pipeline train --help`",
        ),
    ],
)
def test_a_mistyped_word_is_one_line_with_the_word_that_was_meant(arguments, words, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(words)


def test_a_number_among_the_choices_is_taken(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--tensorboard", "1"])
    assert "arguments are required" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["train", "--seed", "x"]])
def test_wrong_arguments_are_refused_with_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_help_comes_without_heavy_imports():
    script = (
        "import sys\nfrom pipeline.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_cleaning_removes_checkpoints_and_nothing_else(tmp_path, capsys):
    (tmp_path / ("0" * 24)).mkdir()
    (tmp_path / "keep").mkdir()
    assert main(["clean_checkpoints", "--checkpoints", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["keep"]
    assert main(["clean_checkpoints", "--checkpoints", str(tmp_path / "gone")]) == 0


def test_cleaning_leaves_the_checkpoint_of_a_running_training(tmp_path, capsys):
    running, ended = (CheckpointFolder.of(tmp_path, {"seed": seed}) for seed in (0, 1))
    for checkpoint in (running, ended):
        checkpoint.save({}, {"step": 1})
    lock = running.try_lock(0.0)
    assert main(["clean_checkpoints", "--checkpoints", str(tmp_path)]) == 0
    assert "removed 1 checkpoint below" in (said := capsys.readouterr().out)
    assert "kept 1 in use by running trainings" in said
    assert set(tmp_path.iterdir()) == {running.folder, running.folder.with_suffix(".lock")}
    assert running.load() is not None
    lock.release()


@pytest.mark.parametrize("stage", ["dataset", "points", "scaling", "train"])
def test_the_spec_of_another_rule_is_one_line(bench, stage, capsys):
    spec = bench.folder / "spec" / "report.json"
    options = bench.train_options() if stage == "train" else {}
    assert bench.run(stage, **options | {"spec": spec}) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{spec}: wanted a spec with '" in error
    assert "give this stage the spec that was frozen for it" in error
    spec.write_text("[]")
    assert bench.run(stage, **options | {"spec": spec}) == 2
    assert "not a spec" in capsys.readouterr().err


def test_a_ctrl_c_in_a_stage_without_checkpoints_is_one_line(bench, monkeypatch, capsys):
    def stop(_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.stages.dataset.run", stop)
    assert bench.run("dataset", spec=bench.folder / "spec/dataset.json") == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_picture_given_as_a_manifest_is_one_line(bench, capsys):
    picture = bench.folder / "picture.png"
    picture.write_bytes(b"\x89PNG\xff")
    assert bench.run("train", **bench.train_options() | {"dataset": picture}) == 2
    assert "picture.png: not a manifest; name the manifest.json of an artefact" in capsys.readouterr().err
