import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

KEYS = ["case", "quantity", "ours", "peer", "peer_name", "ratio", "goal", "met"]


@pytest.fixture
def frame():
    return importlib.import_module("_frame")


@pytest.fixture
def described():
    return importlib.import_module("_machine")


@pytest.fixture
def bench(frame, tmp_path):
    """A benchmark of three cases: one with a peer, one whose peer is missing, one of ours alone."""
    bench = frame.Benchmark("example", "An example.", results=tmp_path / "results")
    time, speed = frame.Quantity("time", "s"), frame.Quantity("speed", "GFLOP/s", smaller_is_better=False)

    @bench.case("both")
    def both(run):
        run.record(time, ours=2.0, peer=3.0, peer_name="theirs", goal=frame.Goal.ratio(1.4))
        run.record(speed, ours=2.0, peer=3.0, peer_name="theirs", goal=frame.Goal.ratio(1.0))

    @bench.case("alone, the peer is missing")
    def missing(run):
        run.record(time, ours=2.0, peer_name="theirs", goal=frame.Goal.ratio(1.4))

    @bench.case("quick or not")
    def quick(run):
        run.record(time, ours=1.0 if run.quick else 9.0, goal=frame.Goal.ours(5.0), part="whole")

    return bench


def written(bench, suffix=""):
    return json.loads((bench.results / f"example{suffix}.json").read_text())


def test_the_result_has_the_agreed_keys(bench):
    assert bench.main([]) == 0
    content = written(bench)
    assert list(content) == ["machine", "versions", "commit", "cases"]
    assert [list(case) for case in content["cases"]] == [KEYS] * 4
    names = [case["case"] for case in content["cases"]]
    assert names == ["both", "both", "alone, the peer is missing", "quick or not/whole"]


def test_a_ratio_above_one_means_that_ours_is_better(bench):
    bench.main([])
    time, speed, *_ = written(bench)["cases"]
    assert (time["ratio"], time["met"], time["quantity"], time["goal"]) == (
        1.5,
        True,
        "time [s]",
        "ratio >= 1.4",
    )
    assert (speed["ratio"], speed["met"]) == (pytest.approx(2 / 3), False)


def test_a_missing_peer_is_named_and_judged_neither_way(bench, capsys):
    bench.main([])
    case = written(bench)["cases"][2]
    assert case | {"peer": None, "peer_name": "theirs", "ratio": None, "met": None} == case
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("alone"))
    assert line.split()[-6:] == ["missing", "-", "ratio", ">=", "1.4", "-", "theirs"][-6:]


@pytest.mark.parametrize(
    ("smaller_is_better", "ours", "met"),
    [(True, 5.0, True), (True, 5.1, False), (False, 5.0, True), (False, 4.9, False)],
)
def test_a_goal_on_our_own_figure_needs_no_peer(frame, smaller_is_better, ours, met):
    quantity = frame.Quantity("q", "u", smaller_is_better)
    goal = frame.Goal.ours(5.0)
    assert goal.is_met(quantity, ours, None) is met
    assert goal.describe(quantity) == ("ours <= 5" if smaller_is_better else "ours >= 5")


def test_a_ratio_of_zeros_does_not_divide_by_them(frame):
    quantity = frame.Quantity("bytes", "B")
    assert quantity.ratio(0.0, 5.0) == math.inf
    assert math.isnan(quantity.ratio(0.0, 0.0))
    assert quantity.ratio(5.0, 0.0) == 0.0


def test_the_columns_of_all_rows_stand_in_line(bench, capsys):
    bench.main([])
    table = capsys.readouterr().out.splitlines()[1:-1]
    start = table[0].index("quantity")
    assert all(line[start - 1] == " " and line[start] != " " for line in table)
    peers = table[0].index("peer name")
    assert all(line[peers - 1] == " " for line in table)


def test_a_long_name_is_cut_rather_than_wrapped(frame, tmp_path, capsys):
    bench = frame.Benchmark("example", None, results=tmp_path)

    @bench.case("short")
    def case(run):
        run.record(
            frame.Quantity("a quantity with a name that has no end", "s"), ours=1.0, peer_name="p" * 300
        )

    bench.main([])
    row = capsys.readouterr().out.splitlines()[2]
    assert len(row) < 140
    assert row.endswith("…")


def test_a_chosen_case_runs_alone_and_leaves_the_full_result(bench):
    bench.main([])
    full = written(bench)
    assert bench.main(["--only", "quick*"]) == 0
    assert written(bench) == full
    assert [case["case"] for case in written(bench, ".partial")["cases"]] == ["quick or not/whole"]


def test_a_recorded_case_replaces_its_own_rows_and_tells_when_the_others_were_measured(
    frame, bench, monkeypatch
):
    here = frame.machine()
    monkeypatch.setattr(frame, "commit", lambda _: "first")
    monkeypatch.setattr(frame, "versions", lambda _: {"peer": "1.0", "numpy": "2.0"})
    monkeypatch.setattr(frame, "machine", lambda: here | {"processor": "another"})
    bench.main([])
    monkeypatch.setattr(frame, "commit", lambda _: "second")
    monkeypatch.setattr(frame, "versions", lambda _: {"peer": "not installed", "numpy": "2.1"})
    monkeypatch.setattr(frame, "machine", lambda: here)
    for case in ("quick*", "alone*"):
        bench.main(["--only", case, "--record"])
    content = written(bench)
    assert content["commit"] == "second"
    assert content["machine"] == here
    assert content["versions"] == {"peer": "1.0", "numpy": "2.1"}
    found = [(case["case"], case.get("commit"), case.get("processor")) for case in content["cases"]]
    assert found == [
        ("both", "first", "another"), ("both", "first", "another"), ("alone, the peer is missing", None, None),
        ("quick or not/whole", None, None),
    ]  # fmt: skip
    with pytest.raises(SystemExit):
        bench.main(["--record", "--quick"])


def test_rows_of_another_processor_of_the_same_name_have_its_instruction_sets(frame, bench, monkeypatch):
    here = frame.machine()
    older = here | {"instruction_sets": ["avx2"], "caches": {"L2": "512K"}}
    monkeypatch.setattr(frame, "machine", lambda: older)
    bench.main([])
    monkeypatch.setattr(frame, "machine", lambda: here)
    bench.main(["--only", "alone*", "--record"])
    found = [
        (case["case"], case.get("instruction_sets"), case.get("caches")) for case in written(bench)["cases"]
    ]
    assert ("both", ["avx2"], {"L2": "512K"}) in found
    assert ("alone, the peer is missing", None, None) in found
    assert not any("processor" in case for case in written(bench)["cases"])


def test_a_quick_run_tells_its_cases_and_leaves_the_full_result(bench):
    bench.main(["--quick"])
    assert not (bench.results / "example.json").exists()
    assert written(bench, ".partial")["cases"][-1]["ours"] == 1.0


def test_an_unknown_case_is_refused_with_the_known_ones(bench, capsys):
    with pytest.raises(SystemExit):
        bench.main(["--only", "nothing"])
    assert "there are: both; alone, the peer is missing; quick or not" in capsys.readouterr().err


def test_a_case_that_crashes_is_named_and_the_rest_still_runs(bench, capsys):
    def crash(_run):
        raise RuntimeError("out of luck")

    bench.cases = {"crash": crash, **bench.cases}
    assert bench.main([]) == 1
    assert len(written(bench)["cases"]) == 4
    error = capsys.readouterr().err
    assert "out of luck" in error
    assert "crashed: crash" in error


def test_a_missed_goal_is_no_failure(frame, tmp_path):
    bench = frame.Benchmark("example", None, results=tmp_path)

    @bench.case("slow")
    def slow(run):
        run.record(frame.Quantity("time", "s"), ours=9.0, goal=frame.Goal.ours(1.0))

    assert bench.main([]) == 0
    assert written(bench)["cases"][0]["met"] is False


def test_two_cases_of_one_name_are_refused(bench):
    with pytest.raises(ValueError, match="two cases are called 'both'"):
        bench.case("both")


def test_what_is_not_finite_becomes_null_and_nothing_else_is_left_in_the_folder(frame, tmp_path):
    frame.write_json(tmp_path / "x.json", {"a": [math.inf, 1.5], "b": {"c": math.nan}})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [None, 1.5], "b": {"c": None}}
    assert os.listdir(tmp_path) == ["x.json"]


def test_the_two_are_called_in_turns_after_a_warm_up(frame, monkeypatch):
    calls = []
    monkeypatch.setattr(frame, "_seconds", lambda call, count: call() or 1.0)
    ours, peer = frame.interleave(lambda: calls.append("A"), lambda: calls.append("B"), repeats=3, warmup=2)
    assert "".join(calls) == "AAA" + "BBB" + "ABABAB"
    assert (ours, peer) == (1.0, 1.0)


def test_the_median_is_taken_and_a_missing_peer_is_none(frame, monkeypatch):
    taken = iter([1.0, 5.0, 1.0, 900.0])
    monkeypatch.setattr(frame, "_seconds", lambda call, count: next(taken))
    assert frame.interleave(lambda: None, repeats=3) == (5.0, None)


def test_a_short_call_is_repeated_within_a_sample(frame, monkeypatch):
    calls, counts = [], []
    frame._seconds(lambda: calls.append(1), 7)
    assert len(calls) == 7

    def a_microsecond(_call, count):
        counts.append(count)
        return 2.0**-20

    monkeypatch.setattr(frame, "_seconds", a_microsecond)
    frame.interleave(calls.clear, repeats=1, warmup=0, sample_seconds=2.0**-10)
    assert counts == [1, 1024]


def test_one_thread_is_used_while_timing_and_the_limit_is_lifted_after(frame):
    np.ones((8, 8)) @ np.ones((8, 8))  # loads a BLAS with threads of its own

    def most_threads():
        return max(pool["num_threads"] for pool in threadpool_info())

    seen = []
    with threadpool_limits(limits=2):
        before = most_threads()
        frame.interleave(lambda: seen.append(most_threads()), repeats=1, sample_seconds=0.0)
        assert most_threads() == before
    assert set(seen) == {1}


def test_a_peer_that_is_not_installed_is_none(frame):
    assert frame.optional_import("no_such_package_anywhere") is None
    assert frame.optional_import("json") is json


def test_the_machine_is_described(described):
    machine = described.machine()
    assert machine["cores"] >= 1
    assert machine["memory_gb"] > 0
    assert machine["processor"]
    json.dumps(machine)


def test_a_package_that_is_missing_is_said_to_be(described):
    versions = described.versions(("no-such-package-anywhere",))
    assert versions["no-such-package-anywhere"] == "not installed"
    assert versions["numpy"][0].isdigit()


def test_the_commit_says_whether_files_differ(described, tmp_path):
    assert described.commit(tmp_path / "absent") == "unknown"

    def git(*words):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "-m", "first")
    clean = described.commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "file").write_text("b")
    assert described.commit(tmp_path) == f"{clean}-dirty"


def test_a_case_that_takes_too_long_costs_no_other_rows(tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(
        """
import sys, time
from pathlib import Path
from _frame import Benchmark, Goal, Quantity
TIME = Quantity("time", "s")
bench = Benchmark("slow", None, results=Path(sys.argv[0]).parent / "results")
@bench.case("peer [slow]")
def slow(run):
    run.record(TIME, ours=1.0, part="before")
    time.sleep(3600)
@bench.case("next")
def following(run):
    run.record(TIME, ours=2.0, goal=Goal.ours(3.0))
sys.exit(bench.main())
"""
    )
    folder = Path(__file__).parents[2] / "benchmarks"
    ended = subprocess.run(
        [sys.executable, str(script), "--seconds", "20"],
        env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "peer [slow]: was ended after 20 seconds" in ended.stderr
    rows = json.loads((tmp_path / "results" / "slow.json").read_text())["cases"]
    assert [(row["case"], row["ours"]) for row in rows] == [("peer [slow]/before", 1.0), ("next", 2.0)]
