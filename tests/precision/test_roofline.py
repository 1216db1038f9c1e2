from dataclasses import replace

import numpy as np
import pytest
from round_roofs import ROUND_ROOFS

from pipeline.precision.roofline import (
    Attained,
    Roofs,
    bound,
    cache_sizes,
    kept_bytes,
    kept_share,
    measure_roofs,
)
from pipeline.precision.work import Work

ROOFS = ROUND_ROOFS


@pytest.mark.parametrize(
    ("work", "seconds", "term", "level"),
    [
        (Work(1e9, 600, 400, 0), 1e-2, "compute", "L1"),
        (Work(0, 30_000, 2_000, 0), 8e-8, "L1", "L1"),
        (Work(10, 30_001, 2_000, 0), 32_001 / 200e9, "L2", "L2"),
        (Work(1e6, 15_000_000, 1_000_000, 0), 1.6e-4, "L3", "L3"),
        (Work(1e6, 0, 1_000_000_000, 0), 4e-2, "DRAM", "DRAM"),
        (Work(1000, 10_000, 10_000, 1e6), 2e-5, "conversion", "L1"),
    ],
)
def test_the_binding_term_is_the_slowest(work, seconds, term, level):
    found = bound(work, ROOFS)
    assert found.seconds == pytest.approx(seconds)
    assert (found.term, found.level) == (term, level)


def test_half_the_bytes_gain_more_than_two_where_they_fit_a_nearer_cache():
    single, half = bound(Work(0, 20e6, 0, 0), ROOFS), bound(Work(0, 10e6, 0, 0), ROOFS)
    assert (single.level, half.level) == ("DRAM", "L3")
    kept = kept_share(20 / 16)
    assert single.traffic == pytest.approx({"L3": 20e6 * kept, "DRAM": 20e6 * (1 - kept)})
    assert single.seconds / half.seconds == pytest.approx(2 * (kept + 4 * (1 - kept)))


@pytest.mark.parametrize("ratio", [1.1, 1.5, 3.0])
def test_a_cache_that_replaces_at_random_keeps_the_share_that_the_model_says(ratio):
    generator = np.random.default_rng(0)
    capacity, cached, places, hits = 2000, [], {}, 0
    n = int(ratio * capacity)
    for step in range(40 * n):
        line = step % n
        if line in places:
            hits += step >= 20 * n
            continue
        if len(cached) < capacity:
            places[line] = len(cached)
            cached.append(line)
        else:
            place = int(generator.integers(capacity))
            del places[cached[place]]
            cached[place], places[line] = line, place
    # Twenty rounds of n draws: three standard deviations of a share are below 3 / sqrt(20 n).
    assert hits / (20 * n) == pytest.approx(kept_share(ratio), abs=3 * (20 * n) ** -0.5 + 2e-3)


def test_what_a_cache_keeps_is_told_by_the_share_that_is_found_again():
    assert kept_bytes(30e6, kept_share(1.5)) == pytest.approx(20e6)
    less = replace(ROOFS, kept_bytes=8e6)
    assert less.shares(12e6) == pytest.approx({"L3": kept_share(1.5), "DRAM": 1 - kept_share(1.5)})
    assert less.shares(6e6) == {"L3": 1.0}


def test_other_programs_take_a_shared_cache_in_time():
    shared = replace(ROOFS, kept_seconds=10e-3)
    assert shared.shares(6e6, 10e-3) == pytest.approx({"L3": np.exp(-1), "DRAM": 1 - np.exp(-1)})
    assert shared.shares(6e3, 10e-3) == {"L1": 1.0}  # no one shares the near caches


def test_a_class_that_was_not_measured_has_the_figures_of_the_one_above_it():
    attained = {"direct fp16": Attained(50.0, 0.0, 0.0), "direct fp16, pointwise": Attained(60.0, 0.0, 0.0)}
    roofs = replace(ROOFS, attained=attained)
    assert roofs.attained_by("direct fp16, pointwise, one vector").gflops == 60.0
    assert roofs.attained_by("direct fp16, narrow").gflops == 50.0
    assert roofs.attained_by("direct fp32").gflops == ROOFS.gflops


def test_cold_data_come_from_memory():
    found = bound(Work(0, 600, 400, 0), ROOFS, mode="cold")
    assert (found.term, found.level, found.seconds) == ("DRAM", "DRAM", pytest.approx(4e-8))


def test_in_a_network_weights_lie_where_all_weights_fit_and_activations_near():
    found = bound(Work(0, 400_000, 16_000, 0), ROOFS, mode="network", resident=50e6)
    kept = kept_share(50 / 16)
    assert found.traffic == pytest.approx({"L3": 400_000 * kept, "DRAM": 400_000 * (1 - kept), "L1": 16_000})
    assert found.seconds == pytest.approx(400_000 * (kept / 100e9 + (1 - kept) / 25e9) + 16_000 / 400e9)
    assert (found.term, found.level) == ("DRAM", "DRAM")
    # A network that is no larger than its only layer is the warm case.
    alone = bound(Work(0, 400_000, 16_000, 0), ROOFS, mode="network", resident=416_000)
    assert alone.traffic == {"L2": 400_000, "L1": 16_000}


def test_a_workspace_is_written_and_read_again():
    found = bound(Work(0, 0, 10_000, 0, workspace_bytes=10_000), ROOFS)
    assert found.traffic == {"L1": 30_000}


def test_the_prediction_takes_the_rate_that_the_routine_attains_and_never_beats_the_bound():
    attained = {"winograd4 fp16": Attained(50.0, 1e-10, 0.5), "direct fp16": Attained(1000.0, 0.0, 0.0)}
    roofs = replace(ROOFS, attained=attained, call_seconds=1e-6)
    slow = bound(Work(1e6, 40_000, 0, 0, numbers=1e4, routine="winograd4 fp16"), roofs)
    assert slow.memory == pytest.approx(40_000 / 200e9)
    assert slow.predicted == pytest.approx(1e6 / 50e9 + 1e4 * 1e-10 + 0.5 * slow.memory + 1e-6)
    assert slow.seconds == pytest.approx(1e6 / 100e9)
    for routine in ("direct fp16", "unknown"):
        found = bound(Work(1e6, 100, 100, 0, routine=routine), roofs)
        assert found.predicted == pytest.approx(found.seconds + 1e-6)


def test_a_run_behind_others_wakes_from_as_far_as_its_weights_lie():
    wakes = {"close_wake_seconds": 1e-7, "wake_seconds": 2e-7, "far_wake_seconds": 2e-6}
    roofs = replace(ROOFS, call_seconds=1e-7, **wakes)
    work = Work(0, 400, 0, 0)

    def started(**options):
        found = bound(work, roofs, **options)
        return found.predicted - found.seconds

    assert started() == pytest.approx(1e-7)
    assert started(mode="network", resident=1e6) == pytest.approx(2e-7)
    near = kept_share(5.0)  # the share of the code that the second cache keeps
    assert started(mode="network", resident=5e6) == pytest.approx(1e-7 + near * 1e-7 + (1 - near) * 2e-7)
    assert started(mode="cold") == pytest.approx(2.1e-6)
    paged = replace(roofs, page_seconds=1e-8, far_page_seconds=1e-7)
    two_pages, many = (Work(0, n_bytes, 0, 0) for n_bytes in (8192, 1 << 20))
    for one, more in ((two_pages, 2e-8), (many, 0.0)):  # many lie in large pages
        taken = [bound(one, given, mode="network", resident=5e6).predicted for given in (roofs, paged)]
        assert taken[1] - taken[0] == pytest.approx((1 - near) * more)
    kept = kept_share(2.0)
    assert started(mode="network", resident=32e6) == pytest.approx(1e-7 + kept * 2e-7 + (1 - kept) * 2e-6)


def test_roofs_survive_a_dictionary():
    for roofs in (ROOFS, replace(ROOFS, attained={"sum": Attained(1.0, 2e-10, 0.5)}, call_seconds=1e-7)):
        assert Roofs.from_dict(roofs.to_dict()) == roofs


def test_cache_sizes_are_read_from_sysfs(tmp_path):
    rows = [
        ("Data", "1", "48K"),
        ("Instruction", "1", "32K"),
        ("Unified", "2", "1024K"),
        ("Unified", "3", "32768K"),
    ]
    for number, values in enumerate(rows):
        folder = tmp_path / f"index{number}"
        folder.mkdir()
        for name, value in zip(("type", "level", "size"), values, strict=True):
            (folder / name).write_text(value + "\n")
    assert cache_sizes(tmp_path) == {"L1": 48 << 10, "L2": 1 << 20, "L3": 32 << 20}


def test_without_sysfs_typical_sizes_stand_in(tmp_path):
    assert set(cache_sizes(tmp_path / "nothing")) == {"L1", "L2", "L3"}


def test_measured_roofs_are_positive_and_name_every_level(instruction_set):
    roofs = measure_roofs(instruction_set, seconds=0.02)
    assert roofs.instruction_set == instruction_set
    assert set(roofs.bandwidth) == {*roofs.cache_bytes, "DRAM"}
    assert min(roofs.gflops, roofs.conversions, *roofs.bandwidth.values()) > 0
