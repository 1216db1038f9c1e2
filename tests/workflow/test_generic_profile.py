"""The profile for batch systems other than Slurm, with commands that behave like PBS's and Grid Engine's."""

import os
import subprocess
import time

import pytest

pytestmark = pytest.mark.workflow

# Runs what comes in and keeps what it ended with; the number of the job is that of the call.
SUBMIT = """#!/bin/bash
cd {spool}; id=$(($(ls -d job* 2>/dev/null | wc -l) + 1)); mkdir job$id; printf '%s\\n' "$@" >job$id/arguments
cat >job$id/script
(cd {work}; {variable}=$id{suffix} bash {spool}/job$id/script >{spool}/job$id/log 2>&1; echo $? >{spool}/job$id/code) \\
    >/dev/null 2>&1 &
echo $id{suffix}
"""
COMMANDS = {
    "pbs": {
        "qsub": SUBMIT.replace("{variable}", "PBS_JOBID").replace("{suffix}", ".server"),
        "qstat": """#!/bin/bash
id=${{2%.server}}
[ ! -e {spool}/mute ] || {{ echo "Connection refused" >&2; exit 1; }}
[ ! -e {spool}/job$id/code ] || {{ echo "qstat: Unknown Job Id $2" >&2; exit 153; }}
echo "    job_state = R"
""",
    },
    "sge": {
        "qsub": SUBMIT.replace("{variable}", "JOB_ID").replace("{suffix}", ""),
        "qstat": """#!/bin/bash
[ ! -e {spool}/mute ] || {{ echo "unable to contact qmaster" >&2; exit 1; }}
[ ! -e {spool}/job$2/code ] || {{ echo "Following jobs do not exist: $2" >&2; exit 1; }}
""",
    },
}
WORDS = {
    "pbs": ["-N", "compress", "select=2:ncpus=1:mpiprocs=1:mem=1002mb", "walltime=1:0:00"],
    "sge": ["-N", "compress", "mpi", "h_rt=3600,h_vmem=1002M"],
}


@pytest.mark.parametrize("system", sorted(COMMANDS))
def test_a_matrix_is_compressed_through_the_system_s_own_commands(system, workplace, tmp_path, monkeypatch):
    pytest.importorskip("snakemake_executor_plugin_cluster_generic")
    spool, commands = tmp_path / "spool", tmp_path / "commands"
    spool.mkdir()
    commands.mkdir()
    for name, text in COMMANDS[system].items():
        (commands / name).write_text(text.format(spool=spool, work=workplace.folder))
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    profile = workplace.folder / "profiles" / "cluster-generic" / "config.yaml"
    profile.write_text(profile.read_text().replace("cluster-generic/pbs ", f"cluster-generic/{system} "))
    target = "results/small/compress/ball/manifest.json"
    ask_often = ("--seconds-between-status-checks", "1")
    on_two = ("--set-resources", "compress:tasks=2")
    workplace.snakemake(target, "--profile", "profiles/cluster-generic", *ask_often, *on_two)
    assert (workplace.folder / target).exists()
    assert [(spool / job / "code").read_text() for job in sorted(os.listdir(spool))] == ["0\n", "0\n"]
    asked = (spool / "job2" / "arguments").read_text().splitlines()
    assert all(word in asked for word in WORDS[system]), asked


@pytest.mark.parametrize("system", sorted(COMMANDS))
def test_what_a_job_ended_with_is_told_by_a_system_that_forgets_it(system, tmp_path, monkeypatch, workplace):
    spool, commands = tmp_path / "spool", tmp_path / "commands"
    spool.mkdir()
    commands.mkdir()
    # What is moved to its place was written before.
    mv = '#!/bin/sh\ncat "$1" >>{spool}/moved\nexec /bin/mv "$@"\n'
    for name, text in (COMMANDS[system] | {"sleep": "#!/bin/sh\n", "mv": mv}).items():
        (commands / name).write_text(text.format(spool=spool, work=tmp_path))
        (commands / name).chmod(0o755)
    script = workplace.folder / "profiles" / "cluster-generic" / system
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")

    def submit(line):
        (tmp_path / "a job").write_text(line)
        asked = ["train", "queue", "1", "1", "1", "0", "1000", "60", str(tmp_path / "a job")]
        return subprocess.check_output([script, "submit", *asked], text=True, cwd=tmp_path).strip()

    def status(job, *until):
        deadline = time.monotonic() + 60
        while (
            told := subprocess.check_output([script, "status", job], text=True, cwd=tmp_path)
        ) not in until:
            assert time.monotonic() < deadline, told
        return told

    assert status(submit("exit 0"), "success\n", "failed\n") == "success\n"
    assert status(submit("exit 3"), "success\n", "failed\n") == "failed\n"
    assert (spool / "moved").read_text() == "0\n3\n"
    os.mkfifo(tmp_path / "fifo")
    slow = submit("read line <fifo")
    assert status(slow, "running\n") == "running\n"
    (spool / "mute").touch()
    assert status(slow, "running\n") == "running\n"
    (spool / "mute").unlink()
    # Killed by the system: it is gone and has noted nothing.
    (spool / "job3" / "code").touch()
    assert status(slow, "failed\n") == "failed\n"
    (tmp_path / "fifo").write_text("end\n")
