"""The one convention of all benchmarks: ours beside a peer's in turns, a table row as it goes, a JSON file.

    bench = Benchmark("precision", __doc__, packages=("onnxruntime",))
    TIME = Quantity("time", "s")

    @bench.case("fully connected 1024 x 1024, batch 1")
    def fully_connected(run):
        peer = optional_import("onnxruntime")
        run.race(TIME, ours=..., peer=... if peer else None, peer_name="onnxruntime", goal=Goal.ratio(1.5))

    if __name__ == "__main__":
        sys.exit(bench.main())

The ratio is better than 1 whenever ours is better than the peer's: peer / ours where smaller is better, else
ours / peer. Results go to `results/NAME.json` after each row: `{machine, versions, commit, cases: [{case,
quantity, ours, peer, peer_name, ratio, goal, met}]}`. A run made shorter by `--only` or `--quick` writes
`results/NAME.partial.json` and leaves the full one alone. The exit status tells of crashes, not of goals: a
missed goal is a figure like others. With `--seconds N` each case runs in a process of its own, which is ended
after N seconds: a slow peer costs only its own rows. With `--record`, the chosen cases' rows replace those in
the full file; each remaining row that was measured at another commit or on another processor says so.
"""

import argparse
import fnmatch
import glob
import importlib
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from _machine import MISSING, commit, machine, versions
from threadpoolctl import threadpool_limits

RESULTS = Path(__file__).parent / "results"
COLUMNS = (
    ("quantity", 26),
    ("ours", 10),
    ("peer", 10),
    ("ratio", 7),
    ("goal", 14),
    ("met", 3),
    ("peer_name", 28),
)
LEFT_ALIGNED = ("case", "quantity", "goal", "peer_name")


@dataclass(frozen=True)
class Quantity:
    """A measured quantity, its unit, and which direction is better."""

    name: str
    unit: str
    smaller_is_better: bool = True

    def __str__(self) -> str:
        return f"{self.name} [{self.unit}]" if self.unit else self.name

    def ratio(self, ours: float, peer: float) -> float:
        """Return how many times better ours is than the peer's."""
        better, worse = (ours, peer) if self.smaller_is_better else (peer, ours)
        if better == 0:
            return math.nan if worse == 0 else math.inf
        return worse / better


@dataclass(frozen=True)
class Goal:
    """A bound to reach: on the ratio, which needs a peer, or on our own figure."""

    bound: float
    on: Literal["ratio", "ours"]

    @classmethod
    def ratio(cls, bound: float) -> "Goal":
        """At least `bound` times better than the peer."""
        return cls(bound, "ratio")

    @classmethod
    def ours(cls, bound: float) -> "Goal":
        """Our own figure, no worse than `bound` in the quantity's unit."""
        return cls(bound, "ours")

    def describe(self, quantity: Quantity) -> str:
        """Describe the goal in a few characters."""
        sign = "<=" if self.on == "ours" and quantity.smaller_is_better else ">="
        return f"{self.on} {sign} {self.bound:g}"

    def is_met(self, quantity: Quantity, ours: float, ratio: float | None) -> bool | None:
        """Tell whether the goal is reached; `None` where it is relative to a peer and the peer is missing."""
        if self.on == "ratio":
            return None if ratio is None else ratio >= self.bound
        return ours <= self.bound if quantity.smaller_is_better else ours >= self.bound


@dataclass(frozen=True)
class Row:
    """One line of the table and one entry of the JSON's `cases`."""

    case: str
    quantity: str
    ours: float
    peer: float | None
    peer_name: str | None
    ratio: float | None
    goal: str | None
    met: bool | None


@dataclass(frozen=True)
class Run:
    """The input of a case: the options of the command line, and the ways to report a figure."""

    case: str
    options: argparse.Namespace
    publish: Callable[[Row], None]

    @property
    def quick(self) -> bool:
        """Whether sizes should be small, to check that a case works rather than to measure."""
        return bool(self.options.quick)

    def record(
        self,
        quantity: Quantity,
        *,
        ours: float,
        peer: float | None = None,
        peer_name: str | None = None,
        goal: Goal | None = None,
        part: str = "",
    ) -> Row:
        """Report one figure.

        Args:
            quantity: The quantity of the figures.
            ours: Our figure.
            peer: The peer's; `None` if it is missing or there is none.
            peer_name: Name of the peer, missing or not.
            goal: The goal to reach.
            part: Text after the case's name where a case reports several figures.
        """
        ratio = None if peer is None else quantity.ratio(ours, peer)
        row = Row(
            case=f"{self.case}/{part}" if part else self.case,
            quantity=str(quantity),
            ours=ours,
            peer=peer,
            peer_name=peer_name,
            ratio=ratio,
            goal=goal.describe(quantity) if goal else None,
            met=goal.is_met(quantity, ours, ratio) if goal else None,
        )
        self.publish(row)
        return row

    def race(
        self,
        quantity: Quantity,
        *,
        ours: Callable[[], object],
        peer: Callable[[], object] | None = None,
        peer_name: str | None = None,
        goal: Goal | None = None,
        part: str = "",
        repeats: int = 9,
        threads: int | None = 1,
    ) -> Row:
        """Time two callables in turns by `interleave` and report the medians, in seconds."""
        repeats = min(repeats, 3) if self.quick else repeats
        seconds, peer_seconds = interleave(ours, peer, repeats=repeats, threads=threads)
        return self.record(
            quantity, ours=seconds, peer=peer_seconds, peer_name=peer_name, goal=goal, part=part
        )


def interleave(
    ours: Callable[[], object],
    peer: Callable[[], object] | None = None,
    *,
    repeats: int = 9,
    warmup: int = 1,
    sample_seconds: float = 1e-3,
    threads: int | None = 1,
) -> tuple[float, float | None]:
    """Time two callables in turns, A B A B ..., so that both meet the same conditions, and return the medians.

    A sample repeats a short call until it lasts about `sample_seconds`, so that the clock's own cost does not
    matter.

    Args:
        ours: Called without arguments.
        peer: Called without arguments; `None` if it is missing.
        repeats: Number of samples of each.
        warmup: Number of calls of each before the first sample.
        sample_seconds: Least duration of a sample.
        threads: Number of threads that loaded BLAS and OpenMP libraries may use; `None` leaves it to them.

    Returns:
        Seconds per call of ours and of the peer's.
    """
    calls = [ours] if peer is None else [ours, peer]
    with threadpool_limits(limits=threads):
        counts = []
        for call in calls:
            for _ in range(warmup):
                call()
            counts.append(max(1, math.ceil(sample_seconds / max(_seconds(call, 1), 1e-9))))
        samples: list[list[float]] = [[] for _ in calls]
        for _ in range(repeats):
            for call, count, taken in zip(calls, counts, samples, strict=True):
                taken.append(_seconds(call, count))
    medians = [statistics.median(taken) for taken in samples]
    return medians[0], medians[1] if peer else None


def _seconds(call: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def optional_import(name: str) -> ModuleType | None:
    """Import a peer, or return `None` where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


@dataclass
class Benchmark:
    """The cases of one script, in order.

    Attributes:
        name: Name of the script and of its result.
        description: The text for `--help`; the script's docstring.
        packages: Distributions whose versions are recorded, in addition to those that always are.
        parser: The command line; a script may add options, and its cases find them in `run.options`.
        results: The folder of the JSON file.
    """

    name: str
    description: str | None
    packages: tuple[str, ...] = ()
    results: Path = RESULTS
    parser: argparse.ArgumentParser = field(init=False)
    cases: dict[str, Callable[[Run], None]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.parser = argparse.ArgumentParser(
            prog=f"benchmarks/{self.name}.py",
            description=self.description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.parser.add_argument(
            "--only", metavar="CASE", action="append", help="run this case only (may be repeated; * matches)"
        )
        self.parser.add_argument("--quick", action="store_true", help="small sizes: to see that it works")
        self.parser.add_argument(
            "--record", action="store_true", help="with --only: put the rows among those of the full result"
        )
        self.parser.add_argument(
            "--seconds", type=float, help="run each case in a process of its own, for so long at most"
        )
        self.parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)  # of such a process

    def case(self, name: str) -> Callable[[Callable[[Run], None]], Callable[[Run], None]]:
        """Register a function as a case under a name of its own."""
        if name in self.cases:
            raise ValueError(f"two cases are called {name!r}")

        def register(measure: Callable[[Run], None]) -> Callable[[Run], None]:
            self.cases[name] = measure
            return measure

        return register

    def main(self, arguments: list[str] | None = None) -> int:
        """Run the chosen cases; if a case crashes, print its traceback, run the rest, and return 1."""
        options = self.parser.parse_args(arguments)
        if options.record and options.quick:
            self.parser.error("--record is for full sizes; leave out --quick")
        chosen = self._choose(options.only)
        shorter = options.quick or (options.only and not options.record)
        path = self.results / f"{self.name}{'.partial' if shorter else ''}.json"
        if options.rows is not None:
            return self._rows_to(options, chosen)
        host, revision = machine(), commit(RESULTS.parent)
        installed, kept = versions(self.packages), []
        if options.record and path.exists():
            former = json.loads(path.read_text())
            kept = self._kept(former, chosen, host | {"commit": revision})
            # Rows that stay may come from a peer that is missing here.
            installed |= {k: v for k, v in former["versions"].items() if installed.get(k) in (None, MISSING)}
        head = {"machine": host, "versions": installed, "commit": revision}
        print(f"{host['processor']}, {host['cores']} cores, commit {revision}")
        if options.quick:
            print(
                "small sizes, whatever a case is called: this shows that it works, and no goal is meant for it"
            )
        width = max(len("case"), *(len(name) for name in chosen)) + 12
        _print_cells({"case": "case"} | {key: key.replace("_", " ") for key, _ in COLUMNS}, width)
        rows: list[Row] = []
        order = {name: place for place, name in enumerate(self.cases)}

        def publish(row: Row) -> None:
            rows.append(row)
            _print_row(row, width)
            cases = sorted(kept + [asdict(row) for row in rows], key=lambda case: order[self._name_of(case)])
            write_json(path, head | {"cases": cases})

        crashed = []
        for name in chosen:
            try:
                if options.seconds is None:
                    self.cases[name](Run(name, options, publish))
                elif not self._apart(name, options, publish):
                    crashed.append(name)
            except Exception:
                crashed.append(name)
                traceback.print_exc()
        judged = [row.met for row in rows if row.met is not None]
        print(f"{sum(judged)} of {len(judged)} goals met{f', written to {path}' if rows else ''}")
        if crashed:
            print(f"crashed: {', '.join(crashed)}", file=sys.stderr)
        return 1 if crashed else 0

    def _rows_to(self, options: argparse.Namespace, chosen: list[str]) -> int:
        """Run cases for another process; it reads their rows from a file."""
        with options.rows.open("w") as file:
            for name in chosen:
                self.cases[name](
                    Run(name, options, lambda row: print(json.dumps(asdict(row)), file=file, flush=True))
                )
        return 0

    def _apart(self, name: str, options: argparse.Namespace, publish: Callable[[Row], None]) -> bool:
        """Run a case in a process of its own; return whether it ended well and in time."""
        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder) / "rows"
            command = [sys.executable, sys.argv[0], "--only", glob.escape(name), "--rows", str(rows)]
            failure = ""
            try:
                code = subprocess.run(
                    [*command, *["--quick"] * options.quick], timeout=options.seconds
                ).returncode
                failure = f"ended with code {code}" if code else ""
            except subprocess.TimeoutExpired:
                failure = f"was ended after {options.seconds:g} seconds"
            # Rows that were measured before the end count.
            for line in rows.read_text().splitlines() if rows.exists() else []:
                publish(Row(**json.loads(line)))
        if failure:
            print(f"{name}: {failure}", file=sys.stderr)
        return not failure

    def _name_of(self, row: dict[str, Any]) -> str:
        """Return the name of the case that a row of a result belongs to, or "" if there is no such case any more."""
        names = [name for name in self.cases if row["case"] == name or row["case"].startswith(f"{name}/")]
        return max(names, key=len, default="")

    def _kept(
        self, result: dict[str, Any], chosen: list[str], now: Mapping[str, object]
    ) -> list[dict[str, Any]]:
        """Return the rows of a result that are not replaced by the chosen cases, with where they were measured."""
        others = [row for row in result["cases"] if self._name_of(row) not in ("", *chosen)]
        then = result["machine"] | {"commit": result["commit"]}
        # Unlike processors may have one name: their instruction sets and caches tell them apart.
        told = ("commit", "processor", "instruction_sets", "caches")
        elsewhere = {key: then[key] for key in told if then.get(key, now[key]) != now[key]}
        return [elsewhere | row for row in others]

    def _choose(self, patterns: list[str] | None) -> list[str]:
        if patterns is None:
            return list(self.cases)
        for pattern in patterns:
            if not fnmatch.filter(self.cases, pattern):
                self.parser.error(f"no case is called {pattern!r}; there are: {'; '.join(self.cases)}")
        return [
            name for name in self.cases if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        ]


def write_json(path: Path, content: object) -> None:
    """Write a JSON file whole or not at all; numbers that are not finite become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(descriptor, "w") as file:
        json.dump(_finite(content), file, indent=1, allow_nan=False)
        file.write("\n")
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)


def _finite(content: object) -> object:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def _print_row(row: Row, case_width: int) -> None:
    met = {True: "yes", False: "no", None: "-"}
    missing = row.peer_name is not None and row.peer is None
    _print_cells(
        {
            "case": row.case,
            "quantity": row.quantity,
            "ours": f"{row.ours:.4g}",
            "peer": "missing" if missing else "-" if row.peer is None else f"{row.peer:.4g}",
            "ratio": "-" if row.ratio is None else f"{row.ratio:.2f}",
            "goal": row.goal or "-",
            "met": met[row.met],
            "peer_name": row.peer_name or "-",
        },
        case_width,
    )


def _print_cells(cells: dict[str, str], case_width: int) -> None:
    """Print one line of the table, cut where a terminal would wrap it."""
    fitted = []
    for name, width in (("case", case_width), *COLUMNS):
        cell = cells[name] if len(cells[name]) <= width else cells[name][: width - 1] + "…"
        fitted.append(cell.ljust(width) if name in LEFT_ALIGNED else cell.rjust(width))
    line = "  ".join(fitted).rstrip()
    if sys.stdout.isatty():
        line = line[: shutil.get_terminal_size().columns]
    print(line, flush=True)
