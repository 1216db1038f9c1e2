"""What the study of large batches found: accuracy and steps of smoothed K-FAC beside small-batch SGD.

Reads the metrics of `config/large_batch_grid.yaml` from `results/large_batch_grid/report`, and runs the study
there first if it is not finished, on two cores with one thread a training. Differences are means over seeds, in
percentage points of test accuracy, with half the width of their 90 % interval (seed by seed) as a row of its own.
"""

import subprocess
import sys
from pathlib import Path

from _frame import Benchmark, Goal, Quantity, Run

from pipeline.report import metrics as report
from pipeline.report.claims import judge_claims
from pipeline.report.runs import accuracy_on_test, loss_on_test, n_steps
from pipeline.report.spread import difference

ROOT = Path(__file__).parents[1]
METRICS = ROOT / "results" / "large_batch_grid" / "report" / "metrics.json"
ABOVE = Quantity("test accuracy above peer", "points", smaller_is_better=False)
HALF_WIDTH = Quantity("half width of the interval", "points")
LOSS = Quantity("test loss", "nats")
STEPS = Quantity("optimizer steps", "")
REFERENCE = "sgd_64"

bench = Benchmark("large_batch", __doc__)


def training() -> dict[str, report.Run]:
    """The runs of the study, by name."""
    return study().training


def study() -> report.Metrics:
    """All metrics of the study, which is run if it is not finished."""
    if not METRICS.is_file():
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--cores",
            "2",
            "--configfile",
            "config/large_batch_grid.yaml",
        ]
        subprocess.run(command, cwd=ROOT, check=True)
    return report.Metrics.model_validate_json(METRICS.read_text())


def compare(
    run: Run, name: str, peer: str, *, goal: float | None = None, fewer_steps: float | None = None
) -> None:
    """Report a run of the study beside another."""
    runs = training()
    by = difference(accuracy_on_test(runs[name]), accuracy_on_test(runs[peer]))
    if by is None:
        raise RuntimeError(
            f"{name} and {peer} have no seed with scores in common; delete {METRICS} and run again"
        )
    part = f"beside {peer}"
    run.record(ABOVE, ours=by.mean, goal=None if goal is None else Goal.ours(goal), part=part)
    if by.half_width is not None:  # one seed in common, or equal differences, tell no interval
        run.record(HALF_WIDTH, ours=by.half_width, part=part)
    losses = [loss_on_test(runs[each]).mean or float("nan") for each in (name, peer)]
    run.record(LOSS, ours=losses[0], peer=losses[1], peer_name=peer, part=part)
    steps = [n_steps(runs[each]).mean or float("nan") for each in (name, peer)]
    bound = None if fewer_steps is None else Goal.ratio(fewer_steps)
    run.record(STEPS, ours=steps[0], peer=steps[1], peer_name=peer, goal=bound, part=part)


@bench.case("smoothed K-FAC, batch 1024")
def batch_1024(run: Run) -> None:
    """As accurate as the small batch in a sixteenth of its steps."""
    compare(run, "kfac_mixup_noise_1024", REFERENCE, goal=-0.3, fewer_steps=16)
    compare(run, "kfac_mixup_noise_1024", "sgd_mixup_64")


@bench.case("smoothed K-FAC, batch 4096")
def batch_4096(run: Run) -> None:
    """Half the data in each of 40 steps."""
    compare(run, "kfac_mixup_noise_4096", REFERENCE, goal=-0.8, fewer_steps=64)


@bench.case("with a tuned weight decay on both sides")
def tuned_decay(run: Run) -> None:
    """The grid's decay is 5e-4 for all methods; these have their own."""
    compare(run, "kfac_mixup_noise_1024_decay", "sgd_64_decay")
    compare(run, "kfac_mixup_noise_1024_decay", "sgd_mixup_64_decay")
    compare(run, "kfac_mixup_noise_4096_decay", "sgd_64_decay")
    compare(run, "kfac_1024_decay", "sgd_64_decay")


@bench.case("all images, batch 4096")
def all_images(run: Run) -> None:
    """The confirmation on all images that validation leaves."""
    compare(run, "all_kfac_mixup_noise_4096", "all_sgd_64")


@bench.case("claims")
def claims(run: Run) -> None:
    """1 for a claim that holds, 0 for one that does not, 0.5 for one that the seeds leave open."""
    found = study()
    value = {"holds": 1.0, "undecided": 0.5, "does not hold": 0.0}
    for number, claim in enumerate(judge_claims(found.training, found.claims_of), start=1):
        print(f"claim {number}, {claim.verdict}: {claim.statement} {claim.evidence}")
        run.record(
            Quantity("verdict", "", smaller_is_better=False), ours=value[claim.verdict], part=str(number)
        )


if __name__ == "__main__":
    sys.exit(bench.main())
