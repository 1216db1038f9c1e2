import ast
import os
import re
import shlex
import subprocess
import sys

import pytest

from pipeline.__main__ import main

# Stands in for crontab: `-l` prints the table, `-` replaces it by what comes in.
CRONTAB = """#!/bin/sh
if [ "$1" = -l ]; then
    [ -f "$TABLE" ] || { echo "no crontab for you" >&2; exit 1; }
    cat "$TABLE"
else
    cat >"$TABLE"
fi
"""


@pytest.fixture
def table(checkout, monkeypatch):
    """The user's table, behind stand-ins of crontab and scrontab."""
    programs = checkout / "bin"
    programs.mkdir()
    for name in ("crontab", "scrontab"):
        (programs / name).write_text(CRONTAB)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TABLE", str(checkout / "table"))
    return checkout / "table"


def schedule(*arguments):
    return main(["schedule", *arguments])


@pytest.mark.parametrize("program", ["crontab", "scrontab"])
def test_an_entry_is_installed_replaced_shown_and_removed_and_other_lines_stay(table, program, capsys):
    table.write_text("0 0 * * * mine\n")
    options = ("--study", "tiny", "--profile", "cluster", "--with", program)
    assert schedule("install", *options) == 0
    assert schedule("install", *options, "--at", "15 4 * * 1") == 0
    schedule("install", "--study", "default", "--profile", "cluster", "--with", program)
    capsys.readouterr()
    assert schedule("show", *options) == 0
    shown = capsys.readouterr().out
    line = next(line for line in shown.splitlines() if line.startswith("15 4 * * 1 "))
    assert f" cd {table.parent} && " in line
    assert f" {shlex.quote(sys.executable)} -m pipeline rerun --study tiny --profile cluster" in line
    assert table.read_text().count("rerun --study tiny") == 1
    assert schedule("remove", *options) == 0
    left = table.read_text()
    assert left.startswith("0 0 * * * mine\n")
    assert "--study tiny" not in left
    assert "--study default" in left
    schedule("remove", *options)
    assert "has no rerun of tiny" in capsys.readouterr().out


def test_the_line_of_a_crontab_runs_in_a_checkout_whose_path_is_hostile(table, checkout, monkeypatch, capsys):
    odd = checkout / "a b 'c' $(touch x) %d"
    odd.mkdir()
    for name in ("config", "workflow", "profiles", "Snakefile"):
        (checkout / name).rename(odd / name)
    monkeypatch.chdir(odd)
    assert schedule("install", "--study", "tiny") == 0
    line = next(line for line in table.read_text().splitlines() if "rerun" in line)
    # What cron does: % ends the command unless a backslash is before it, which it takes away.
    command = re.sub(r"\\%", "%", re.split(r"(?<!\\)%", line.split(maxsplit=5)[5])[0])
    told = subprocess.run(
        ["sh", "-c", command.replace(f" {shlex.quote(sys.executable)}", " echo", 1) + "; pwd"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.splitlines()[-1] == str(odd)
    assert not (odd / "x").exists()


def test_units_are_written_for_systemd_and_removed(checkout, monkeypatch, capsys):
    calls = checkout / "calls"
    (checkout / "bin").mkdir()
    (checkout / "bin" / "systemctl").write_text(f'#!/bin/sh\necho "$@" >>{calls}\n')
    (checkout / "bin" / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{checkout / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(checkout / "home"))
    options = ("--study", "tiny", "--with", "timer", "--at", "Mon *-*-* 04:00:00")
    assert schedule("install", *options) == 0
    service, timer = sorted((checkout / "home" / "systemd" / "user").iterdir())
    assert f' "{sys.executable}" "-m" "pipeline" "rerun" "--study" "tiny"' in service.read_text()
    assert "loginctl enable-linger" in capsys.readouterr().out
    assert f"WorkingDirectory={checkout}" in service.read_text()
    assert "OnCalendar=Mon *-*-* 04:00:00" in timer.read_text()
    assert calls.read_text().splitlines()[-1] == f"--user enable --now {timer.name}"
    assert schedule("remove", *options) == 0
    assert not service.exists()
    assert not timer.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--at", "tomorrow"], "cron's five fields"),
        (["--at", "* * * * * rm"], "cron's five fields"),
        (["--at", "0 3 * * *\n* * * * *"], "cron's five fields"),
        (["--at", "0 3 * * $(x)"], "cron's five fields"),
        (["--with", "timer", "--at", "daily\nExecStart=x"], "no calendar"),
        (
            ["--with", "timer", "--at", "30 3 * * *"],
            "no calendar of systemd, such as 'daily' or '*-*-* 03:30:00'",
        ),
        (["--with", "timer", "--at", "nonsense"], "no calendar"),
        (["--study", "gone"], "there is no config/gone.yaml"),
        (["--study", "a b"], "is not a valid name of a study"),
        (["--study", "$(touch x)"], "is not a valid name of a study"),
        (["--profile", "gone"], "no profile 'gone'; known: local, cluster"),
        (["--with", "scrontab"], "a job of one core; give a profile that sends its jobs to Slurm"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_installs_nothing(table, arguments, words, capsys):
    assert schedule("install", *arguments) == 2
    assert words in capsys.readouterr().err
    assert not table.exists()


def test_an_entry_finds_the_programs_that_its_installer_finds(table, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_CONF", "/cluster's own/slurm.conf")
    assert schedule("install", "--study", "tiny") == 0
    line = next(line for line in table.read_text().splitlines() if "rerun" in line)
    command = line.split(maxsplit=5)[5].replace(
        "-m pipeline rerun", "-c 'import os; print(dict(os.environ))'"
    )
    told = subprocess.run(["/bin/sh", "-c", command], env={}, capture_output=True, text=True, check=True)
    found = ast.literal_eval(told.stdout)
    assert (found["PATH"], found["SLURM_CONF"]) == (os.environ["PATH"], os.environ["SLURM_CONF"])


def test_a_table_that_cannot_be_read_is_not_replaced(table, checkout, capsys):
    table.write_text("0 0 * * * mine\n")
    (checkout / "bin" / "crontab").write_text("#!/bin/sh\necho 'crontab: no such user' >&2; exit 1\n")
    assert schedule("install", "--study", "tiny") == 2
    assert "crontab -l: crontab: no such user" in capsys.readouterr().err
    assert table.read_text() == "0 0 * * * mine\n"


def test_printing_needs_no_scheduler(checkout, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(checkout))
    assert schedule("install", "--study", "tiny", "--print") == 0
    assert "30 3 * * * cd " in capsys.readouterr().out


def test_printing_installs_nothing(table, capsys):
    assert schedule("install", "--study", "tiny", "--at", "@daily", "--print") == 0
    assert "@daily cd " in capsys.readouterr().out
    assert not table.exists()


def test_a_machine_without_the_scheduler_says_so(checkout, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(checkout))
    assert schedule("show", "--study", "tiny", "--with", "scrontab") == 2
    assert "scrontab is not on this machine" in capsys.readouterr().err


def test_a_half_entry_is_left_to_its_owner(table, capsys):
    schedule("install", "--study", "tiny")
    table.write_text(
        "\n".join(line for line in table.read_text().splitlines() if not line.startswith("# end")) + "\n"
    )
    before = table.read_text()
    assert schedule("remove", "--study", "tiny") == 2
    assert "correct it by hand" in capsys.readouterr().err
    assert table.read_text() == before


@pytest.fixture
def job(checkout):
    """A function that runs the batch script as Slurm would, with an `sbatch` of one line; what it is asked is noted."""

    def run(sbatch):
        for name, line in {
            "bin/sbatch": f'printf "%s\\n" "$@" >>booked; {sbatch}',
            "bin/scontrol": 'echo "$@" >renamed',
            "bin/sleep": "true",
            ".venv/bin/python": 'echo "$@"',
        }.items():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            (checkout / name).write_text(f"#!/bin/sh\n{line}\n")
            (checkout / name).chmod(0o755)
        return subprocess.run(
            ["bash", "workflow/schedule/rerun.sbatch", "config/tiny.yaml", "cluster", "now+6hours"],
            env={"PATH": f"{checkout / 'bin'}{os.pathsep}{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(checkout),
                 "SLURM_JOB_ID": "7"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip

    return run


def test_the_batch_script_books_its_next_run_and_reruns_the_study(job, checkout):
    done = job("true")
    named, *booked = (checkout / "booked").read_text().splitlines()
    assert re.fullmatch(r"--job-name=parsimony-rerun-tiny\.yaml-[0-9a-f]{8}", named)
    assert booked == [
        "--begin=now+6hours", "--dependency=singleton", "workflow/schedule/rerun.sbatch",
        "config/tiny.yaml", "cluster", "now+6hours",
    ]  # fmt: skip
    # One name for the run and for what it books: they wait for each other.
    assert (checkout / "renamed").read_text().split() == [
        "update",
        "JobId=7",
        f"JobName={named.split('=')[1]}",
    ]
    assert done.stdout.splitlines() == ["-m pipeline rerun --study config/tiny.yaml --profile cluster"]


def test_a_next_run_that_cannot_be_booked_does_not_keep_this_one_from_running(job, checkout):
    done = job("exit 1")
    assert (checkout / "booked").read_text().count("--begin=") == 4
    assert done.stderr.splitlines()[-1] == "the next rerun could not be booked: this is the last one"
    assert "-m pipeline rerun" in done.stdout
