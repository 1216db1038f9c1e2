"""A study of more than a thousand jobs: what its plan costs, and what its results look like on disk."""

import copy
import resource
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.workflow

N_JOBS = 1250
#: What Snakemake takes without a job, and 200,000 bytes for each: a gigabyte holds 4,000 jobs.
MEMORY = 170 * 10**6 + 200_000 * N_JOBS


@pytest.fixture
def large(workplace, study):
    """A study of 1,250 jobs: 20 runs of 20 seeds, and as many small matrices as that leaves."""
    run = study["training"]["runs"]["plain"]
    study["training"]["runs"] = {f"run{i}": copy.deepcopy(run) for i in range(20)}
    study["seeds"] = list(range(20))
    study["precision"]["runs"] = list(study["training"]["runs"])
    matrix = study["matrices"]["airports"]
    # 400 trainings; a conversion, a timing and a spec for each run; six jobs for each matrix.
    study["matrices"] = {f"m{i}": matrix for i in range(132)}
    workplace.write_study(study)
    return workplace


@pytest.mark.timeout(280)
def test_the_plan_of_a_thousand_jobs_fits_into_a_laptop_and_results_stay_shallow(large, capsys):
    before = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--configfile", "study.yaml", "--profile", "cluster",
         "--dry-run", "--quiet", "progress"],
        cwd=large.folder, capture_output=True, text=True, check=False,
        # Buffers of threads that nobody uses would count, as many as the machine has cores.
        env=large.environment() | {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY)),
    )  # fmt: skip
    seconds = time.monotonic() - before
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split() for line in (done.stdout + done.stderr).splitlines()]
    total = sum(len(words) == 2 and words[0] in ("rule", "localrule") for words in lines)
    assert total >= N_JOBS
    outputs = {word.rstrip(",") for words in lines if words[:1] == ["output:"] for word in words[1:]}
    assert len(outputs) >= N_JOBS - 1  # the whole study has no output of its own
    # results/STUDY/STAGE/NAME/seedN/manifest.json, whatever the size of the study.
    assert max(path.count("/") for path in outputs) <= 5
    with capsys.disabled():
        print(f"\ndry run of {total} jobs: {seconds:.1f} s")
