import subprocess

from pipeline.runtime.checkout import uncommitted


def test_new_and_changed_files_of_the_code_are_named_and_others_are_not(tmp_path):
    assert uncommitted(tmp_path) == []  # no repository
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert uncommitted(tmp_path) == []
    for name in ("config/my study.yaml", "src/my own.py", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert sorted(uncommitted(tmp_path / "src")) == ["src/my own.py"]
    subprocess.run(["git", "add", "config"], cwd=tmp_path, check=True)
    assert sorted(uncommitted(tmp_path)) == ["config/my study.yaml", "src/my own.py"]
