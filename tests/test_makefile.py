import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def checkout(tmp_path):
    """What `make env` looks at before it installs anything."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "CMakeLists.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(folder, *arguments, **variables):
    # Where the suite itself was started by make, this one is not a part of that.
    outside = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=outside | variables,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_no_compiler_is_one_line_that_says_what_to_install(checkout):
    done = make(checkout, "env", CXX="no-such-compiler")
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1
    assert "needs a C++ compiler and found none (no-such-compiler)" in lines[0]
    assert not (checkout / ".venv").exists()


def test_a_compiler_behind_a_wrapper_is_found(checkout):
    # The words behind the first are its arguments. Without Python, nothing is installed.
    done = make(checkout, "env", "-n", CXX="env c++")
    assert done.returncode == 0
    script = next(line for line in done.stdout.splitlines() if "compiler=" in line)
    checked = subprocess.run(["sh", "-c", f"{script} true"], env=os.environ | {"CXX": "env c++"}, check=False)
    assert checked.returncode == 0


def test_a_study_by_a_small_letter_is_refused_and_not_another_one_run(checkout):
    done = make(checkout, "run", "study=tiny")
    assert done.returncode == 2
    assert "make run STUDY=name" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_study_that_is_not_there_is_told_before_anything_is_installed(checkout):
    (checkout / "config").mkdir()
    (checkout / "config" / "one.yaml").touch()
    done = make(checkout, "run", "STUDY=two")
    assert done.returncode == 2
    assert "there is no config/two.yaml; studies: one" in done.stderr
    assert not (checkout / ".venv").exists()


def test_no_python_is_one_line(checkout):
    done = make(checkout, "env", "PYTHON=no-such-python")
    assert done.returncode == 2
    assert "parsimony needs Python >= 3.11" in done.stderr
    assert not (checkout / ".venv").exists()


def with_environment(checkout):
    """A checkout with one study, whose environment takes itself for complete."""
    (checkout / "config").mkdir()
    (checkout / "config" / "one.yaml").touch()
    programs = checkout / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "snakemake"):
        (programs / name).write_text('#!/bin/sh\necho "$0" "$@" >>called\n')
        (programs / name).chmod(0o755)
    (checkout / ".venv" / ".installed").touch()
    return checkout


@pytest.mark.parametrize("study", ["one", "one.yaml", "config/one.yaml"])
def test_of_the_shell_the_command_alone_is_shown(checkout, study):
    done = make(with_environment(checkout), "run", f"STUDY={study}", "CORES=2")
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["snakemake --keep-going --cores 2 --configfile config/one.yaml"]


@pytest.mark.parametrize("variable", ["STUDY", "CORES", "PYTHON", "PYTHONS"])
@pytest.mark.parametrize(
    "value", ["$(touch owned)", "$$(touch owned)", "`touch owned`", '"; touch owned; "', "'; touch owned; '"]
)
@pytest.mark.parametrize("goal", ["run", "archive", "env", "test-wheel"])
def test_a_variable_is_one_word_and_no_shell(checkout, variable, value, goal):
    with_environment(checkout)
    if variable == "PYTHON":
        (checkout / ".venv" / ".installed").unlink()
    (checkout / "tests" / "wheel").mkdir(parents=True)
    (checkout / "tests" / "wheel" / "run").write_text("#!/bin/sh\n")
    (checkout / "tests" / "wheel" / "run").chmod(0o755)
    make(checkout, goal, f"{variable}={value}")
    make(checkout, goal, **{variable: value})
    assert not list(checkout.rglob("owned"))


@pytest.mark.parametrize(
    ("wanted", "named"),
    [("nope", "nope"), ("a b", "a b"), ("nope.yaml", "nope"), ("config/nope.yaml", "nope")],
)
def test_an_unknown_study_names_those_that_there_are(checkout, wanted, named):
    done = make(with_environment(checkout), "run", f"STUDY={wanted}")
    assert done.returncode == 2
    assert f"there is no config/{named}.yaml; studies: one\n" in done.stderr
    assert "unexpected operator" not in done.stderr


@pytest.fixture
def pythons(tmp_path):
    """A folder for `PATH` in which Python 3.12 can build, 3.11 and 3.13 cannot, and all stop where work begins."""
    for version, code in (("3.11", 1), ("3.12", 0), ("3.13", 1)):
        program = tmp_path / f"python{version}"
        program.write_text(f'#!/bin/sh\ntest "$1" = -c && exit {code}\necho "{version} begins"\nexit 3\n')
        program.chmod(0o755)
    return tmp_path


def test_a_wheel_is_tested_with_each_python_that_there_is_and_the_others_are_named(pythons):
    places = {"HOME": str(pythons), "PYENV_ROOT": str(pythons), "PATH": f"{pythons}:{os.environ['PATH']}"}
    done = subprocess.run(
        [ROOT / "tests" / "wheel" / "run"], env=os.environ | places,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines() == [
        "found no Python 3.11 that can build a wheel: it is not tested",
        "found no Python 3.13 that can build a wheel: it is not tested",
        "3.12 begins",
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [version for line in project["classifiers"] if "." in (version := line.rpartition(":: ")[2])]
    assert named == ["3.11", "3.12", "3.13"]
