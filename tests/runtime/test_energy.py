"""Energy counters of the machine."""

import subprocess
import sys

import pytest

from pipeline.runtime.energy import Counters, _visible_gpus


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


class Nvml:
    """Two GPUs, the second with a part."""

    uuids = ("GPU-aaaa-1", "GPU-bbbb-2")

    def nvmlDeviceGetCount(self):
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):
        return self.uuids[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return uuid

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, part):
        assert part == "MIG-cccc"
        return self.uuids[1]

    def nvmlDeviceGetUUID(self, handle):
        return handle


@pytest.mark.parametrize(
    ("named", "found"),
    [
        (None, [0, 1]), ("", []), ("1", [1]), ("0,1", [0, 1]), ("-1", []),
        ("GPU-bbbb-2", [1]), ("GPU-aaaa", [0]), ("MIG-cccc", [1]), ("MIG-cccc,GPU-aaaa-1", [0, 1]),
    ],
)  # fmt: skip
def test_gpus_are_found_by_number_identifier_or_part(named, found, monkeypatch):
    if named is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert _visible_gpus(Nvml()) == [Nvml.uuids[index] for index in found]


def test_energy_is_counted_from_a_stages_start_and_by_no_command_that_makes_nothing():
    counts = "import sys\nfrom pipeline.{} import {}\nprint('pipeline.runtime.energy' in sys.modules)"
    for module, name, counted in (("__main__", "main", False), ("stages.points", "run", True)):
        done = subprocess.run(
            [sys.executable, "-c", counts.format(module, name)], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == str(counted)
