"""Whole studies through `snakemake --profile cluster`."""

import csv
import json

import pytest
import yaml
from workplace import ROOT, copy_checkout

from cluster import Place, wait_until
from pipeline.artifacts.overlap import Span
from pipeline.artifacts.provenance import Provenance

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def tiny(testbed, tmp_path_factory):
    """The tiny study, done on this machine without Slurm."""
    place = Place(tmp_path_factory.mktemp("tiny"), testbed, "tiny")
    copy_checkout(place.folder)
    (place.folder / "tiny.yaml").write_text((ROOT / "config" / "tiny.yaml").read_text())
    place.start_here("--quiet", "all").end()
    return place


def test_the_tiny_study_on_all_partitions_is_that_of_one_machine(slurm, tiny, tmp_path):
    place = Place(tmp_path / "checkout", slurm, "tiny")
    place.folder.mkdir()
    copy_checkout(place.folder)
    (place.folder / "tiny.yaml").write_text((ROOT / "config" / "tiny.yaml").read_text())
    before = slurm.all_jobs()
    try:
        place.start().end()
        assert place.checksums() == tiny.checksums()
        assert "Nothing to be done" in place.start().end()
    finally:
        place.close()
    where = {stage: manifest_of(place, stage)["provenance"]["slurm"] for stage in STAGES}
    assert {stage: (told["partition"], told["nodes"]) for stage, told in where.items()} == STAGES | {
        stage: (partition, where[stage]["nodes"])
        for stage, (partition, nodes) in STAGES.items()
        if nodes is None
    }
    # A fake GPU is none that torch can use.
    log = place.log_of("train/kfac_smoothed/seed0")
    assert "processes: 2" in log
    assert "device auto: no usable GPU on" in log
    assert manifest_of(place, "solve/airports")["facts"]["solve"]["processes"] == 2
    # 22 jobs, of which the points of three matrices share one of Slurm's. A matrix asks for nodes of its own.
    assert slurm.all_jobs() - before <= 20
    (report,) = (place.folder / "results" / "slurm").glob("efficiency_report_*.csv")
    with report.open() as file:
        assert any("train" in row["RuleName"] for row in csv.DictReader(file))
    wait_until(lambda: not slurm.queue(), "the queue to be empty")


STAGES = {
    "dataset": ("cpu", None),
    "train/kfac_smoothed/seed0": ("gpu", "g[1-2]"),
    "convert/kfac_smoothed": ("cpu", None),
    "time_layers/kfac_smoothed": ("cpu", None),
    "compress/airports": ("mpi", "m[1-2]"),
    "solve/airports": ("mpi", "m[1-2]"),
    "report": ("cpu", None),
}


def manifest_of(place, stage):
    return json.loads((place.folder / place.manifest(stage)).read_text())


def test_one_process_and_the_environments_own_mpi_are_one_profile_away(place):
    (place.results / "train" / "short" / "seed0" / "manifest.json").unlink()
    alone = {"nodes": 1, "tasks": "'1'", "gres": "''", "slurm_partition": "'mpi'", "mpi": "'srun --mpi=pmi2'"}
    place.write_profile(rules={"train": alone})
    place.start(place.manifest("train/short/seed0")).end()
    assert "processes: 1" in place.log_of("train/short/seed0")


@pytest.mark.parametrize(
    "asked",
    [{"gres": "''", "gpu": 2}, {"gres": "''", "gpu": 2, "gpu_model": "'fake'"}, {"gres": "'gpu:fake:1'"}],
)
def test_gpus_may_be_counted_by_job_or_by_node_and_be_of_a_type(place, slurm, asked):
    (place.results / "train" / "short" / "seed0" / "manifest.json").unlink()
    place.write_profile(rules={"train": asked})
    place.start(place.manifest("train/short/seed0")).end()
    job = manifest_of(place, "train/short/seed0")["provenance"]["slurm"]["job"]
    assert "gres/gpu=2" in slurm.call("sacct", "-X", "-n", "-P", "-j", job, "--format=AllocTRES")


def test_small_jobs_share_the_queues_places(place, mini, slurm):
    matrix = mini["matrices"]["airports"] | {"points": {"name": "airports", "n": 200}}
    mini["matrices"] = {f"m{i}": matrix for i in range(8)}
    (place.folder / "mini.yaml").write_text(yaml.safe_dump(mini))
    before = slurm.all_jobs()
    place.start(*(place.manifest(f"points/m{i}") for i in range(8))).end()
    # Eight jobs, in groups of four.
    assert slurm.all_jobs() - before == 2
    spans = [Span.of(Provenance(**manifest_of(place, f"points/m{i}")["provenance"])) for i in range(8)]
    beside = [[one.beside(other) > 0 for other in spans if other != one].count(True) for one in spans]
    # Those of a group run beside each other, as many at a time as their group has cores.
    assert min(beside) >= 3, spans


def test_a_matrix_that_never_succeeds_spares_others_that_do_not_share_its_place(place, mini):
    matrix = mini["matrices"]["airports"]
    # What no rounding can reach is refused each time.
    impossible = matrix | {"compress": {"tolerance": 1e-16}}
    mini["matrices"] = {"a": matrix, "b": matrix, "impossible": impossible}
    (place.folder / "mini.yaml").write_text(yaml.safe_dump(mini))
    place.write_profile(rules={}, retries=0)
    targets = [place.manifest(f"compress/{name}") for name in mini["matrices"]]
    said = place.start(*targets).end(code=2)
    assert "ask for a larger tolerance" in said
    place.start(*targets).end(code=2)
    assert [(place.folder / target).exists() for target in targets] == [True, True, False]
