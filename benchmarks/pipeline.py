"""End-to-end seconds and peak memory of a whole study, rule by rule, and Snakemake's own overhead.

Runs the workflow in a fresh temporary folder, so that every rule runs, then a second time with nothing to do. A
rule's seconds are the sum over its jobs, its memory the highest resident set of any of them, both from
Snakemake's benchmark files. Images that were downloaded before are used again, since a download measures the
network.
"""

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from _frame import Benchmark, Goal, Quantity, Run

ROOT = Path(__file__).parents[1]
SECONDS = Quantity("wall time", "s")
MEMORY = Quantity("peak memory", "MB")
NO_OP_SECONDS = 5.0
STUDY_SECONDS = {"tiny": 90.0, "default": 720.0}

bench = Benchmark("pipeline", __doc__)
bench.parser.add_argument("--study", default="tiny", help="run config/STUDY.yaml (default: tiny)")
bench.parser.add_argument(
    "--cores", type=int, default=os.cpu_count() or 1, help="how many cores Snakemake may use"
)


@dataclass(frozen=True)
class RuleUse:
    """Cost of all jobs of one rule."""

    rule: str
    n_jobs: int
    seconds: float
    peak_mb: float | None


@bench.case("study")
def study(run: Run) -> None:
    """Run the study, run it again, and report the cost of both runs and of each rule."""
    name = "tiny" if run.quick else run.options.study
    with tempfile.TemporaryDirectory(prefix="parsimony-") as temporary:
        folder = Path(temporary)
        seconds, _ = snakemake(folder, name, run.options.cores)
        for use in rule_uses(folder / "results"):
            jobs = "1 job" if use.n_jobs == 1 else f"{use.n_jobs} jobs"
            run.record(Quantity(f"time of {jobs}", "s"), ours=use.seconds, part=use.rule)
            if use.peak_mb is not None:
                run.record(MEMORY, ours=use.peak_mb, part=use.rule)
        whole = STUDY_SECONDS.get(name)
        run.record(SECONDS, ours=seconds, part=f"whole {name}", goal=Goal.ours(whole) if whole else None)
        seconds, output = snakemake(folder, name, run.options.cores)
        if "Nothing to be done" not in output:
            raise RuntimeError(f"the second run of {name} was to find nothing to do, but ran jobs:\n{output}")
        run.record(SECONDS, ours=seconds, part="nothing to do", goal=Goal.ours(NO_OP_SECONDS))


def snakemake(folder: Path, name: str, cores: int) -> tuple[float, str]:
    """Run a study in `folder`; return the seconds and Snakemake's output.

    Raises:
        RuntimeError: If the run fails; the text has its last words.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(folder), "--cores", str(cores)]
    command += ["--configfile", str(ROOT / "config" / f"{name}.yaml")]
    environment = {"PARSIMONY_DATA": str(ROOT / ".data"), **os.environ}
    start = time.perf_counter()
    finished = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, check=False
    )
    seconds = time.perf_counter() - start
    if finished.returncode != 0:
        raise RuntimeError(f"snakemake exited {finished.returncode}:\n{finished.stdout[-4000:]}")
    return seconds, finished.stdout


def rule_uses(results: Path) -> list[RuleUse]:
    """Add up Snakemake's benchmark files, `STUDY/benchmarks/RULE.tsv` or `STUDY/benchmarks/RULE/**.tsv`, by rule.

    The rule that took longest comes first. A job too short to be sampled has no memory figure.
    """
    seconds: dict[str, list[float]] = defaultdict(list)
    peaks: dict[str, list[float]] = defaultdict(list)
    for path in sorted(results.glob("*/benchmarks/**/*.tsv")):
        rule = path.relative_to(results).with_suffix("").parts[2]
        with path.open(newline="") as file:
            for job in csv.DictReader(file, delimiter="\t"):
                seconds[rule].append(float(job["s"]))
                if job["max_rss"] not in ("-", "NA"):
                    peaks[rule].append(float(job["max_rss"]))
    uses = [
        RuleUse(rule, len(taken), sum(taken), max(peaks[rule], default=None))
        for rule, taken in seconds.items()
    ]
    return sorted(uses, key=lambda use: -use.seconds)


if __name__ == "__main__":
    sys.exit(bench.main())
