from pathlib import Path

import pytest
import yaml

from pipeline.config.loading import load_study
from pipeline.errors import ConfigError
from pipeline.operations.outline import studies_beside

DEFAULT = Path(__file__).resolve().parents[2] / "config" / "default.yaml"
RUNS = {"plain": {"optimizer": {"name": "sgd", "lr": 0.05}, "batch_size": 32, "epochs": 1}}
OTHER = {"study": "other", "dataset": {"name": "fashion_mnist"}, "training": {"runs": RUNS}}
SPHERE = {
    "points": {"name": "sphere", "refinements": 2},
    "kernel": {"name": "laplace_single_layer"},
    "task": "capacitance",
}


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """A function that asks for `other.yaml` beside a study, the file holding these sections."""
    monkeypatch.chdir(tmp_path)

    def beside(study, name="other"):
        if study is not None:
            Path("other.yaml").write_text(study if isinstance(study, str) else yaml.safe_dump(study))
        return studies_beside({name: "other.yaml"}, DEFAULT)

    return beside


def test_a_study_beside_another_is_outlined_by_its_name(beside):
    found = beside(OTHER)
    assert list(found) == ["other"]
    assert found["other"].runs == ["plain"]
    assert not studies_beside({}, DEFAULT)


@pytest.mark.parametrize(
    ("study", "name", "said"),
    [
        (None, "other", "beside.other: other.yaml: there is no such file; name a study's YAML file"),
        ("training: [", "other", "beside.other: other.yaml: not a readable YAML file"),
        (OTHER | {"seeds": "none"}, "other", "beside.other: other.yaml: seeds: "),
        (
            OTHER,
            "letters",
            "beside.letters: other.yaml is the file of study other; write that name before it",
        ),
        (
            OTHER | {"beside": {"third": "third.yaml"}},
            "other",
            "other.yaml has studies beside it itself (third)",
        ),
        ({"study": "other", "matrices": {"ball": SPHERE}}, "other", "has no training.runs to compare"),
        (
            OTHER | {"matrices": {"ball": SPHERE}},
            "other",
            "makes more than trainings (points, compress, solve)",
        ),
        (
            OTHER | {"precision": {"runs": ["plain"]}},
            "other",
            "makes more than trainings (convert, time_layers)",
        ),
        (OTHER | {"scaling": {"sizes": [256, 512]}}, "other", "makes more than trainings (scaling)"),
    ],
)
def test_a_study_that_cannot_stand_beside_another_is_refused_by_its_key_and_file(beside, study, name, said):
    with pytest.raises(ConfigError) as error:
        beside(study, name)
    assert str(error.value).startswith(f"beside.{name}: other.yaml")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("study", "said"),
    [
        (OTHER | {"beside": {"other": "x.yaml"}}, "beside.other: is the name of this study itself"),
        (
            {"study": "own", "matrices": {"ball": SPHERE}, "beside": {"a": "x.yaml"}},
            "beside: this study has no",
        ),
        (OTHER | {"beside": {"a": ""}}, "beside.a: "),
        (OTHER | {"beside": ["x.yaml"]}, "beside: "),
    ],
)
def test_what_stands_under_beside_is_checked_with_the_study(study, said):
    with pytest.raises(ConfigError, match="^" + said):
        load_study(study, DEFAULT)
