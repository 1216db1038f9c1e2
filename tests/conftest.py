"""What tests cost, and a quick part of the suite that leaves the costly ones out."""

import gc
import os
import resource
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest
import warm_starts

# Programs that tests start keep the bytecode of what they import, as they do at a user's, whatever a container's
# variables say: otherwise each would compile the whole package.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# A process of MPI that waits for another lets go of its core: tests start more processes than there are cores, and
# those that wait would take time from those that compute.
os.environ["MPIR_CVAR_CH4_PROGRESS_THROTTLE"] = "1"
os.environ["MPIR_CVAR_CH4_PROGRESS_THROTTLE_NO_PROGRESS_COUNT"] = "64"

DURATIONS = Path(__file__).parent / "durations.tsv"
#: `make test-fast` leaves out tests that took more processor seconds than this when durations were recorded.
LONG = 0.05
#: It leaves these out too: they start Snakemake, or processes of MPI.
STARTS_PROCESSES = ("workflow", "mpi")
#: Of a test with many cases it runs this many, the first short ones.
CASES = 1

USED = pytest.StashKey[float]()
#: What each test has cost, whichever process ran it.
TAKEN: dict[str, float] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("durations")
    group.addoption(
        "--fast", action="store_true", help=f"run only tests of less than {LONG} s, each with one case"
    )
    group.addoption("--record-durations", action="store_true", help=f"write {DURATIONS.name}")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        warm_starts.share()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    rows = [line.split("\t") for line in DURATIONS.read_text().splitlines()[1:]]
    seconds = {name: float(used) for used, name in rows}
    # Each process takes a whole file when it is done with one: the long ones come first, so that all end together.
    of_files: Counter[Path] = Counter()
    for item in items:
        of_files[item.path] += seconds.get(item.nodeid, 0.0)
    items.sort(key=lambda item: -of_files[item.path])
    if not config.getoption("fast"):
        return
    kept, left_out = [], []
    cases: Counter[str] = Counter()
    for item in items:
        test = item.nodeid.partition("[")[0]
        long = seconds.get(item.nodeid, 0.0) > LONG
        costly = long or any(item.get_closest_marker(kind) for kind in STARTS_PROCESSES)
        (left_out if costly or cases[test] >= CASES else kept).append(item)
        cases[test] += not costly
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Search for no garbage meanwhile, which would take half of the time, and never in what is imported by then."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def processor_seconds() -> float:
    """Time that this process and its ended children have computed: other work on the machine adds nothing to it."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in used) + warm_starts.used()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Draw the weights of a test's networks from the same numbers, whichever tests this process has run before it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if item.config.getoption("record_durations"):
        item.stash[USED] = processor_seconds()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write what a phase (setup, call, teardown) cost on its report, which pytest-xdist sends to the main process."""
    report = yield
    if USED not in item.stash:
        return report
    now = processor_seconds()
    report.processor_seconds = now - item.stash[USED]
    item.stash[USED] = now
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    TAKEN[report.nodeid] = TAKEN.get(report.nodeid, 0.0) + getattr(report, "processor_seconds", 0.0)


def pytest_unconfigure() -> None:
    warm_starts.end()


def pytest_sessionfinish(session: pytest.Session) -> None:
    in_a_worker = hasattr(session.config, "workerinput")
    if session.config.getoption("record_durations") and not in_a_worker:
        rows = sorted(((used, name) for name, used in TAKEN.items() if used >= LONG), reverse=True)
        lines = [f"{used:.2f}\t{name}\n" for used, name in rows]
        DURATIONS.write_text("".join(["processor seconds\ttest\n", *lines]))
