import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.operations import inputs, own_inputs
from pipeline.operations.inputs import digest_of_named_files, require_readable_once


def test_a_section_without_files_has_no_digest(tmp_path):
    assert (
        digest_of_named_files({"name": "digits", "directory": None, "train_samples": 3}, tmp_path / "cache")
        == ""
    )


def test_files_are_found_wherever_a_section_names_them(tmp_path):
    (tmp_path / "b.npy").write_text("b")
    (tmp_path / "stations.csv").write_text("lon\n")
    section = {
        "points": {"name": "file", "path": str(tmp_path / "stations.csv")},
        "parts": [{"right_hand_side": str(tmp_path / "b.npy")}],
        "kernel": {"name": "custom", "path": "mypackage.kernels:bump"},
    }
    before = digest_of_named_files(section, tmp_path / "cache")
    lines = before.splitlines()
    assert len(lines) == 3
    assert "path mypackage.kernels:bump: absent" in lines
    (tmp_path / "b.npy").write_text("c")
    after = digest_of_named_files(section, tmp_path / "cache").splitlines()
    assert [line for line in lines if line not in after] == [line for line in lines if "b.npy" in line]


def test_files_that_were_found_right_are_looked_at_again_by_other_code_only(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.ones(3))
    network = {"path": "own.onnx", "inputs": str(tmp_path / "x.npy")}
    looks = []
    monkeypatch.setattr(own_inputs, "require_readable", lambda specs: looks.append(list(specs)))

    def look():
        require_readable_once({"networks/own": network}, tmp_path / "cache")

    look()
    look()
    assert looks == [["networks/own"]]
    monkeypatch.setattr(inputs, "code_digest", lambda module: f"another of {module}")

    def refuse(specs):
        raise ConfigError("now refused")

    monkeypatch.setattr(own_inputs, "require_readable", refuse)
    for _ in range(2):
        with pytest.raises(ConfigError, match="now refused"):
            look()
