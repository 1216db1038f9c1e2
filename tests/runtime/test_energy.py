"""Energy counters of the machine."""

import pytest

from pipeline.runtime.energy import Counters


@pytest.fixture
def zone(tmp_path):
    """A function that sets the counter of a package, in microjoules."""

    def set_counter(value, name="intel-rapl:0", wrap=1_000_000_000):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "energy_uj").write_text(f"{value}\n")
        (folder / "max_energy_range_uj").write_text(f"{wrap}\n")

    return set_counter


def test_packages_add_up_and_their_parts_do_not_count_twice(tmp_path, zone):
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        zone(5_000_000, name)
    before = Counters.now(tmp_path)
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        zone(8_000_000, name)
    assert Counters.now(tmp_path).since(before) == {"package_joules": 6.0}


def test_a_counter_that_started_again_from_zero_is_understood(tmp_path, zone):
    zone(999_000_000)
    before = Counters.now(tmp_path)
    zone(1_000_000)
    assert Counters.now(tmp_path).since(before) == {"package_joules": pytest.approx(2.0)}


def test_what_cannot_be_read_is_left_out(tmp_path, zone):
    before = Counters.now(tmp_path)
    assert before.joules == {}
    zone("no number")
    (tmp_path / "intel-rapl:1").mkdir()
    assert Counters.now(tmp_path).since(before) == {}
