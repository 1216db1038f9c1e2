from pipeline.operations.inputs import digest_of_named_files


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
