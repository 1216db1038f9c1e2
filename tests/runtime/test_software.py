import json

import pytest

from pipeline.errors import ConfigError
from pipeline.runtime import code_digest
from pipeline.runtime.software import VARIABLE, check_code, check_software, record_software, versions


@pytest.fixture
def code(tmp_path):
    """A package with one stage, in two versions: a function that writes one, and returns its digest."""

    def write(text):
        (tmp_path / "pipeline" / "stages").mkdir(parents=True, exist_ok=True)
        for package in ("pipeline", "pipeline/stages"):
            (tmp_path / package / "__init__.py").touch()
        (tmp_path / "pipeline" / "stages" / "train.py").write_text(text)
        code_digest._read.cache_clear()
        return code_digest.code_digest("pipeline.stages.train", tmp_path)

    yield write
    code_digest._read.cache_clear()


def test_a_job_with_the_main_processs_software_starts(monkeypatch, code, tmp_path):
    monkeypatch.setenv(VARIABLE, "")
    one = code("x = 1")
    record_software({"train": one})
    check_software()
    assert check_code("train", one, tmp_path) == one


def test_a_stage_that_a_person_starts_records_the_digest_of_what_it_runs(monkeypatch, code, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    one = code("x = 1")
    check_software()
    assert check_code("train", "", tmp_path) == one


@pytest.mark.parametrize("where", ["here", "in a queue"])
def test_a_job_whose_code_has_changed_since_it_was_planned_is_refused(monkeypatch, code, tmp_path, where):
    monkeypatch.setenv(VARIABLE, "")
    old, new = code("x = 1"), code("x = 2")
    # A job in a queue asks for its digest when it starts, which is then the new one.
    record_software({"train": old} if where == "in a queue" else {})
    with pytest.raises(
        ConfigError, match="the code of train has changed since this job was planned; run again"
    ):
        check_code("train", new if where == "in a queue" else old, tmp_path)


def test_a_job_with_other_software_names_what_differs(monkeypatch):
    recorded = versions() | {"torch": "1.0", "left-pad": "3"}
    monkeypatch.setenv(VARIABLE, json.dumps({"versions": recorded, "code": {}}))
    here = versions()["torch"]
    words = f"left-pad is missing instead of 3, torch is {here} instead of 1.0; use one environment"
    with pytest.raises(ConfigError) as caught:
        check_software()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
