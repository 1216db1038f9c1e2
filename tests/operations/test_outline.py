import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from pipeline.config.loading import load_study
from pipeline.config.specs import artefacts_of, specs
from pipeline.config.yaml_files import read_yaml
from pipeline.errors import ConfigError
from pipeline.operations.outline import KEPT, outline

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ROOT / "config" / "default.yaml"


@pytest.mark.parametrize("file", sorted((ROOT / "config").glob("*.yaml")), ids=lambda file: file.stem)
def test_an_outline_says_what_the_validated_study_says_made_or_kept(file, tmp_path):
    config = {} if file == DEFAULT else read_yaml(file)
    study = load_study(config, DEFAULT)
    made, kept = (outline(config, DEFAULT, tmp_path) for _ in range(2))
    assert asdict(made) == asdict(kept)
    assert kept.specs == specs(study)
    assert kept.artefacts == artefacts_of(kept.specs["report"])
    assert (kept.study, kept.runs) == (study.study, list(study.training.runs))
    assert kept.seeds == {run: list(seeds) for run, seeds in study.seeds_by_run().items()}
    assert (kept.matrices, kept.budget_points) == (list(study.matrices), study.precision.budget_points)
    assert kept.files == study.files()
    assert kept.embedded.keys() == {n for n, m in study.matrices.items() if m.points.name == "embeddings"}


def test_another_configuration_or_another_default_makes_another_outline(tmp_path):
    default = tmp_path / "default.yaml"
    default.write_bytes(DEFAULT.read_bytes())
    assert [7] not in outline({}, default, tmp_path / "kept").seeds.values()
    assert set(map(tuple, outline({"seeds": [7]}, default, tmp_path / "kept").seeds.values())) == {(7,)}
    default.write_text(default.read_text().replace("study: default", "study: renamed", 1))
    assert outline({}, default, tmp_path / "kept").study == "renamed"


def test_a_damaged_outline_is_made_anew(tmp_path):
    made = outline({}, DEFAULT, tmp_path)
    (kept,) = tmp_path.glob("*.json")
    for content in ("{", "[]", "{}"):
        kept.write_text(content)
        assert outline({}, DEFAULT, tmp_path) == made


def test_a_wrong_study_is_refused_each_time_and_none_is_kept(tmp_path):
    for _ in range(2):
        with pytest.raises(ConfigError, match="seeds"):
            outline({"seeds": "none"}, DEFAULT, tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_a_place_to_write_the_outline_is_still_made(tmp_path):
    (tmp_path / "file").write_text("")
    assert outline({}, DEFAULT, tmp_path / "file" / "below").study == "default"


def test_old_outlines_are_removed(tmp_path):
    for i in range(KEPT + 3):
        (tmp_path / f"{i}.json").write_text("{}")
        os.utime(tmp_path / f"{i}.json", (i, i))
    outline({}, DEFAULT, tmp_path)
    assert len(list(tmp_path.iterdir())) == KEPT
    assert not (tmp_path / "0.json").exists()


def test_what_the_rules_import_brings_no_core_and_no_torch_into_a_job(tmp_path):
    outline({}, DEFAULT, tmp_path)
    rules = (ROOT / "workflow" / "rules" / "common.smk").read_text()
    imports = re.findall(r"^(?:import|from) [^(\n]*(?:\([^)]*\))?", rules, re.MULTILINE)
    assert any("outline" in line for line in imports)
    script = "\n".join([
        *imports,
        f"outline({{}}, Path({str(DEFAULT)!r}), Path({str(tmp_path)!r}))",
        "heavy = {'torch', 'pydantic', 'scipy', 'pipeline.hmatrix', 'pipeline.training', 'pipeline.precision'}",
        "print(sorted(heavy & sys.modules.keys()))",
    ])  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
