"""Nothing of a study reaches a shell but as a quoted word, and what is wrong is one line with exit code 2."""

import json

import pytest
import yaml

pytestmark = pytest.mark.workflow

HOSTILE = "a b 'c' \"d\" $(touch owned) `touch owned` ; touch owned\n{wildcards} %s \\ ../../x | > owned é"


def one_line(output):
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, output
    assert "Traceback" not in output
    return errors[0]


def test_hostile_texts_are_frozen_to_the_letter_and_run_nothing(workplace, study):
    study["description"] = HOSTILE
    study["dataset"] |= {"name": "letters", "directory": HOSTILE}
    study["training"]["runs"]["plain"]["label"] = HOSTILE[:80]
    workplace.write_study(study)
    workplace.snakemake("--until", "freeze_spec")
    spec = {
        name: json.loads((workplace.results / "spec" / f"{name}.json").read_text())
        for name in ("report", "dataset")
    }
    assert spec["report"]["description"] == HOSTILE
    assert spec["report"]["runs"]["plain"] == HOSTILE[:80]
    assert spec["dataset"]["directory"] == HOSTILE
    output = workplace.snakemake("--until", "dataset", code=2)
    assert "found none; name a folder of typefaces" in output
    assert not list(workplace.folder.rglob("owned"))


def test_hostile_names_are_refused(workplace, study):
    # All kinds at once: test_config.py tries each alone.
    study["study"] = "$(touch owned)"
    for names, name in ((study["training"]["runs"], "'; touch owned; '"), (study["matrices"], "../up")):
        names[name] = next(iter(names.values()))
    workplace.write_study(study)
    one_line(workplace.snakemake("--dry-run", code=2))
    assert not list(workplace.folder.rglob("owned"))


def test_a_key_that_is_written_twice_is_refused(workplace):
    path = workplace.folder / "study.yaml"
    path.write_text(path.read_text() + "seeds: [1]\n")
    assert "study.yaml: seeds is written twice" in one_line(workplace.snakemake("--dry-run", code=2))


def test_what_stands_in_the_way_of_results_is_named(workplace):
    (workplace.folder / "results").write_text("")
    assert "results: expected a folder" in one_line(workplace.snakemake("--dry-run", code=2))
    (workplace.folder / "results").unlink()
    (workplace.folder / "results").symlink_to("gone")
    assert "results: a link to gone" in one_line(workplace.snakemake("--dry-run", code=2))


def test_a_manifest_given_as_a_study_is_one_line(workplace):
    (workplace.folder / "study.yaml").write_text(yaml.safe_dump({"kind": "k", "schema_version": 1}))
    assert "put targets before it" in one_line(workplace.snakemake("--dry-run", code=2))
