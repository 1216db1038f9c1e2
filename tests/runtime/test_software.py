import json

import pytest

from pipeline.errors import ConfigError
from pipeline.runtime.software import VARIABLE, check_software, record_software, versions


def test_a_job_with_the_main_processs_software_starts(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    record_software({"train": "1"})
    check_software("train", "1")
    check_software("points", "2")


def test_a_job_that_nobody_recorded_software_for_starts(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    check_software("train", "1")


def test_a_job_whose_code_has_changed_since_its_submission_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    record_software({"train": "1"})
    with pytest.raises(ConfigError, match="the code of train has changed since this job was submitted"):
        check_software("train", "2")


def test_a_job_with_other_software_names_what_differs(monkeypatch):
    recorded = versions() | {"torch": "1.0", "left-pad": "3"}
    monkeypatch.setenv(VARIABLE, json.dumps({"versions": recorded, "code": {}}))
    here = versions()["torch"]
    words = f"left-pad is missing instead of 3, torch is {here} instead of 1.0 where the job was submitted"
    with pytest.raises(ConfigError) as caught:
        check_software("train", "1")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
