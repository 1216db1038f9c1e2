"""Results of the studies of large batches: accuracy and steps of smoothed K-FAC beside small-batch SGD and its peers.

Reads the metrics of `config/large_batch_grid.yaml`, of `config/large_batch.yaml`, where all methods are tuned alike,
and of `config/large_batch_letters.yaml`, the same on other images, from `results/STUDY/report`. A study that is not
finished is run first, on two cores with one thread per training. Differences are means over seeds, in percentage points
of test accuracy; half the width of their 90 % interval (seed by seed) is a row of its own.
"""

import subprocess
import sys
from pathlib import Path

from _frame import Benchmark, Goal, Quantity, Run

from pipeline.report import metrics as report
from pipeline.report.claims import judge_claims
from pipeline.report.critical_batches import FACTOR as FACTOR_ALLOWED
from pipeline.report.critical_batches import where_it_loses
from pipeline.report.runs import accuracy_on_test, loss_on_test, n_steps
from pipeline.report.spread import difference

ROOT = Path(__file__).parents[1]
GRID, ALIKE, LETTERS = "large_batch_grid", "large_batch", "large_batch_letters"
ABOVE = Quantity("test accuracy above peer", "points", smaller_is_better=False)
HALF_WIDTH = Quantity("half width of the interval", "points")
LOSS = Quantity("test loss", "nats")
STEPS = Quantity("optimizer steps", "")
FACTOR = Quantity("predicted and found batch, their ratio", "")
REFERENCE = "sgd_64"

bench = Benchmark("large_batch", __doc__)


def metrics_file(name: str) -> Path:
    """Return the path of a study's metrics."""
    return ROOT / "results" / name / "report" / "metrics.json"


def study(name: str) -> report.Metrics:
    """Return all metrics of a study; run it first if it is not finished."""
    file = metrics_file(name)
    if not file.is_file():
        configuration = f"config/{name}.yaml"
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", configuration]
        subprocess.run(command, cwd=ROOT, check=True)
    return report.Metrics.model_validate_json(file.read_text())


def compare(
    run: Run,
    name: str,
    peer: str,
    *,
    goal: float | None = None,
    fewer_steps: float | None = None,
    of: str = GRID,
    part: str = "",
) -> None:
    """Report a run of a study compared with another; the rows are called `part`, or by the other run."""
    runs = study(of).training
    by = difference(accuracy_on_test(runs[name]), accuracy_on_test(runs[peer]))
    if by is None:
        raise RuntimeError(
            f"{name} and {peer} have no seed with scores in common; delete {metrics_file(of)} and run again"
        )
    part = part or f"beside {peer}"
    run.record(ABOVE, ours=by.mean, goal=None if goal is None else Goal.ours(goal), part=part)
    if by.half_width is not None:  # one common seed, or equal differences, have no interval
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
    """The confirmation on all images that are not used for validation."""
    compare(run, "all_kfac_mixup_noise_4096", "all_sgd_64")


@bench.case("claims")
def claims(run: Run) -> None:
    """1 for a claim that holds, 0 for one that does not, 0.5 for one that is undecided."""
    judge(run, GRID)


@bench.case("tuned alike: smoothed K-FAC, batch 4096")
def alike_4096(run: Run) -> None:
    """Comparison with small batches: five trials of three options for each method, ten seeds."""
    compare(run, "kfac_smoothed_4096", REFERENCE, goal=-0.6, fewer_steps=64, of=ALIKE)
    compare(run, "kfac_smoothed_4096", "sgd_mixup_64", of=ALIKE)


@bench.case("tuned alike: smoothed K-FAC, batch 1024")
def alike_1024(run: Run) -> None:
    """Comparison with the best small batch, which is SGD with mixup, and with SGD alone."""
    compare(run, "kfac_smoothed_1024", "sgd_mixup_64", goal=-0.2, fewer_steps=16, of=ALIKE)
    compare(run, "kfac_smoothed_1024", REFERENCE, of=ALIKE)


def beside(peer: str) -> None:
    """Add the case of a peer with as large batches; the goal is to be better than it."""

    @bench.case(f"tuned alike: beside {peer}, batch 4096")
    def compared(run: Run) -> None:
        """Ten seeds each."""
        compare(run, "kfac_smoothed_4096", f"{peer}_4096", goal=0.0, of=ALIKE)


PEERS = (
    "kfac", "fop", "fop_smoothed", "muon", "muon_smoothed", "soap", "soap_smoothed", "lamb", "lamb_smoothed", "adamw",
    "lars", "schedule_free", "sgd",
)  # fmt: skip
for name in PEERS:
    beside(name)


@bench.case("tuned alike: the batch from which a method loses")
def critical_batch(run: Run) -> None:
    """The batch predicted from the noise of small batches and the one that the sweep found: larger over smaller."""
    judge_predictions(run, ALIKE)


@bench.case("letters, tuned alike: batch 1024")
def letters(run: Run) -> None:
    """Other images: digits and letters in 62 classes. K-FAC with and without smoothing against each other method."""
    for name in ("kfac_1024", "kfac_smoothed_1024"):
        for peer in (REFERENCE, "lamb_1024", "muon_1024", "sgd_1024"):
            compare(run, name, peer, of=LETTERS, part=f"{name} beside {peer}")
    compare(run, "kfac_smoothed_1024", "kfac_1024", of=LETTERS, part="kfac_smoothed_1024 beside kfac_1024")


@bench.case("letters, tuned alike: the batch from which a method loses")
def critical_batch_of_letters(run: Run) -> None:
    """As above."""
    judge_predictions(run, LETTERS)


@bench.case("letters, tuned alike: claims")
def claims_of_letters(run: Run) -> None:
    """As the claims above."""
    judge(run, LETTERS)


def judge_predictions(run: Run, name: str) -> None:
    """Report by what factor the predicted batches differ from those that a study found."""
    found = study(name)
    for method, names in found.sweeps.items():
        loss = where_it_loses([found.training[name] for name in names])
        predicted = found.predictions[method].critical_batch
        if loss is not None and loss.batch is not None and predicted is not None:
            ratio = predicted / loss.batch
            run.record(FACTOR, ours=max(ratio, 1 / ratio), goal=Goal.ours(FACTOR_ALLOWED), part=method)


@bench.case("tuned alike: claims")
def claims_alike(run: Run) -> None:
    """As the claims above."""
    judge(run, ALIKE)


def judge(run: Run, name: str) -> None:
    """Print the claims about a study, and report their verdicts as numbers."""
    found = study(name)
    value = {"holds": 1.0, "undecided": 0.5, "does not hold": 0.0}
    for number, claim in enumerate(judge_claims(found.training, found.claims_of), start=1):
        print(f"claim {number}, {claim.verdict}: {claim.statement} {claim.evidence}")
        run.record(
            Quantity("verdict", "", smaller_is_better=False), ours=value[claim.verdict], part=str(number)
        )


if __name__ == "__main__":
    sys.exit(bench.main())
