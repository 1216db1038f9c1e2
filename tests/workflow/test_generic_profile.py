"""The profile for batch systems other than Slurm, with commands that behave like PBS's and Grid Engine's."""

import os
import subprocess

import pytest

pytestmark = pytest.mark.workflow

# Runs the script and keeps what it ended with; the number of the job is that of the call.
SUBMIT = """#!/bin/bash
cd {spool}; id=$(($(ls -d job* 2>/dev/null | wc -l) + 1)); mkdir job$id; printf '%s\\n' "$@" >job$id/arguments
(cd {work}; bash "${{@: -1}}" >{spool}/job$id/log 2>&1; echo $? >{spool}/job$id/code) >/dev/null 2>&1 &
echo {answer}
"""
COMMANDS = {
    "pbs": {
        "qsub": SUBMIT.replace("{answer}", "$id.server"),
        "qstat": """#!/bin/bash
id=${{3%.server}}; code=$(cat {spool}/job$id/code 2>/dev/null) || {{ echo "    job_state = R"; exit; }}
printf 'Job Id: %s\\n    job_state = F\\n    Exit_status = %s\\n' "$3" "$code"
""",
    },
    "sge": {
        "qsub": SUBMIT.replace("{answer}", "$id"),
        "qstat": "#!/bin/bash\n[ ! -e {spool}/job$2/code ]\n",
        "qacct": """#!/bin/bash
printf 'jobnumber    %s\\nfailed       0\\nexit_status  %s\\n' "$2" "$(cat {spool}/job$2/code)"
""",
    },
}
WORDS = {
    "pbs": ["-N", "compress", "select=1:ncpus=1:mpiprocs=1:mem=4000mb", "walltime=1:0:00"],
    "sge": ["-N", "compress", "smp", "h_rt=3600,h_vmem=4000M"],
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
    workplace.snakemake(target, "--profile", "profiles/cluster-generic")
    assert (workplace.folder / target).exists()
    assert [(spool / job / "code").read_text() for job in sorted(os.listdir(spool))] == ["0\n", "0\n"]
    asked = (spool / "job2" / "arguments").read_text().splitlines()
    assert all(word in asked for word in WORDS[system]), asked


@pytest.mark.parametrize("system", sorted(COMMANDS))
def test_what_a_failed_job_ended_with_is_told(system, tmp_path, monkeypatch, workplace):
    spool, commands = tmp_path / "spool", tmp_path / "commands"
    (spool / "job7").mkdir(parents=True)
    commands.mkdir()
    for name, text in COMMANDS[system].items():
        (commands / name).write_text(text.format(spool=spool, work=tmp_path))
        (commands / name).chmod(0o755)
    script = workplace.folder / "profiles" / "cluster-generic" / system
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    ask = [script, "status", "7.server" if system == "pbs" else "7"]
    assert subprocess.check_output(ask) == b"running\n"
    (spool / "job7" / "code").write_text("1\n")
    assert subprocess.check_output(ask) == b"failed\n"
    (spool / "job7" / "code").write_text("0\n")
    assert subprocess.check_output(ask) == b"success\n"
