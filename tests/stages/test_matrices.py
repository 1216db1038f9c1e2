import json

import numpy as np
import pytest
from launch import STAGES, launched

from pipeline.artifacts.store import Artifact
from pipeline.config.matrices import Fit
from pipeline.hmatrix import H2Matrix


def matrix(bench, name, **inputs):
    """Run points, compress and solve of one matrix; the exit codes in order."""
    spec = bench.folder / "spec"
    points, operator = bench.manifest(f"points/{name}"), bench.manifest(f"compress/{name}")
    stage = "embeddings" if inputs else "points"
    codes = [
        bench.run(stage, output=f"points/{name}", spec=spec / f"points/{name}.json", **inputs),
        bench.run("compress", output=f"compress/{name}", spec=spec / f"compress/{name}.json", points=points),
    ]
    if codes[-1] == 0:
        inputs = {"spec": spec / f"solve/{name}.json", "points": points, "operator": operator}
        codes.append(bench.run("solve", output=f"solve/{name}", **inputs))
    return codes


def facts(bench, name):
    return Artifact.open(bench.manifest(f"solve/{name}"), "solution").facts


def test_kriging_beats_the_mean_and_solves_the_dense_system(bench):
    assert matrix(bench, "airports") == [0, 0, 0]
    found = facts(bench, "airports")
    assert found["result"]["rmse"] < found["result"]["rmse_mean_predictor"]
    points = Artifact.open(bench.manifest("points/airports"), "points")
    x, values = np.array(points.array("points")), np.array(points.array("values"))
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    dense = np.exp(-distance / 0.1) + 0.01 * np.eye(len(x))
    weights = np.linalg.solve(dense, (values - values.mean()) / values.std(ddof=1))
    solution = np.array(Artifact.open(bench.manifest("solve/airports"), "solution").array("solution"))
    # The study asks for products within 1e-3; the inverse magnifies that by up to 1 / nugget.
    assert np.linalg.norm(solution - weights) < 1e-3 / 0.01 * np.linalg.norm(weights)
    solved = Artifact.open(bench.manifest("solve/airports"), "solution")
    std, residuals = np.array(solved.array("std")), np.array(solved.array("variogram_residuals"))
    assert (std > 0).all()
    assert np.array(solved.array("grid_std")).shape == np.array(solved.array("grid")).shape
    assert (residuals > 0).all()
    assert 0 <= found["result"]["coverage_95"] <= 1


def test_a_fit_takes_all_points_and_tells_its_intervals(bench, study):
    study["matrices"]["airports"]["fit"] = {}
    bench.write_specs(study)
    assert matrix(bench, "airports") == [0, 0, 0]
    fact = Artifact.open(bench.manifest("compress/airports"), "operator").facts
    assert fact["fit"]["n"] == Artifact.open(bench.manifest("points/airports"), "points").facts["n"]
    low, value, high = fact["fit"]["intervals"]["length_scale"]
    assert fact["fit"]["seconds"] > 0
    assert low < value < high
    assert value == pytest.approx(fact["kernel_parameters"]["length_scale"])


def test_a_fit_ends_after_the_steps_that_a_study_allows(bench, study):
    spec, points = bench.folder / "spec", bench.manifest("points/airports")
    steps = []
    for allowed in ({}, {"max_iterations": 1}):
        study["matrices"]["airports"] |= {"fit": {"subsample": 200, **allowed}}
        bench.write_specs(study)
        if not steps:
            assert bench.run("points", output="points/airports", spec=spec / "points/airports.json") == 0
        output = f"compress/fit{len(steps)}"
        assert bench.run("compress", output=output, spec=spec / "compress/airports.json", points=points) == 0
        steps.append(Artifact.open(bench.manifest(output), "operator").facts["fit"]["steps"])
    assert steps[0] > steps[1] == 1


def test_specs_of_fits_stay_as_they_were_before_steps_could_be_chosen():
    assert Fit().model_dump() == {"subsample": None, "seed": 0}
    assert Fit(max_iterations=3).model_dump() == {"subsample": None, "seed": 0, "max_iterations": 3}


def test_a_job_with_less_memory_than_was_predicted_ends_with_one_line(bench, study, capsys, monkeypatch):
    bench.write_specs(study)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1")
    assert matrix(bench, "airports") == [0, 2]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert "GB on a node with 1 of its processes, but Slurm gave it 0.001 GB there" in said[0]
    assert not bench.manifest("compress/airports").exists()


def test_duplicate_points_without_a_nugget_are_one_line_that_says_what_to_do(bench, study, capsys):
    # All airports: five pairs share their coordinates exactly.
    study["matrices"]["airports"] |= {"points": {"name": "airports", "held_out": 1e-4}, "nugget": 0.0}
    bench.write_specs(study)
    codes = matrix(bench, "airports")
    assert codes[-1] == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "matrices.airports" in errors[0]
    assert "nugget" in errors[0]
    assert not bench.manifest("solve/airports").exists()


def test_features_of_the_half_network_are_classified_as_by_a_dense_kernel_matrix(trained):
    codes = matrix(
        trained, "embeddings", network=trained.manifest("convert"), dataset=trained.manifest("dataset")
    )
    assert codes == [0, 0, 0]
    points = Artifact.open(trained.manifest("points/embeddings"), "points")
    parameters = Artifact.open(trained.manifest("compress/embeddings"), "operator").facts["kernel_parameters"]
    rows, tests = (np.array(points.array(name)) for name in ("points", "held_out_points"))

    def kernel(a, b):
        square = ((a[:, None] - b[None]) ** 2).sum(axis=2)
        return np.exp(-square / (2 * parameters["length_scale"] ** 2))

    targets = np.eye(10)[points.array("labels")] - 0.1
    weights = np.linalg.solve(kernel(rows, rows) + 0.01 * np.eye(len(rows)), targets)
    scores = kernel(tests, rows) @ weights
    solved = Artifact.open(trained.manifest("solve/embeddings"), "solution")
    differing = np.array(solved.array("predicted_labels")) != scores.argmax(axis=1)
    # Compression at 1e-3 may turn a prediction only where the best two scores are about as close as that.
    best = np.sort(scores, axis=1)
    assert np.all(best[differing, -1] - best[differing, -2] < 0.05)
    assert solved.facts["solve"]["dense_seconds"] > 0
    accuracy = float((scores.argmax(axis=1) == points.array("held_out_labels")).mean())
    assert abs(solved.facts["result"]["accuracy"] - accuracy) <= differing.mean() + 1e-12


def test_a_matrix_of_low_rank_is_solved_as_the_dense_one(bench, study):
    study["matrices"]["airports"] |= {
        "kernel": {"name": "squared_exponential", "length_scale": 1.0},
        "task": "solve",
        "compress": {"tolerance": 1e-7, "form": "low_rank"},
    }
    bench.write_specs(study)
    assert matrix(bench, "airports") == [0, 0, 0]
    found = Artifact.open(bench.manifest("compress/airports"), "operator").facts["compress"]
    points = Artifact.open(bench.manifest("points/airports"), "points")
    x, values = np.array(points.array("points")), np.array(points.array("values"))
    assert (found["form"], found["n_bytes"]) == ("low_rank", 8 * len(x) * (found["max_rank"] + 1))
    assert found["max_rank"] <= len(x) / 4
    dense = np.exp(-((x[:, None] - x[None]) ** 2).sum(axis=2) / 2) + 0.01 * np.eye(len(x))
    solved = Artifact.open(bench.manifest("solve/airports"), "solution")
    # The study asks for products within 1e-7 of a norm below n; the inverse magnifies that by up to 1 / nugget.
    expected = np.linalg.solve(dense, values)
    off = np.linalg.norm(np.array(solved.array("solution")) - expected) / np.linalg.norm(expected)
    assert off < 2e-7 * len(x) / 0.01
    assert solved.facts["solve"]["exact_residual"] < 2e-7 * len(x) / 0.01
    assert solved.facts["solve"]["logdet"] is None


def test_a_sphere_has_the_capacitance_of_its_radius(bench, study):
    study["matrices"]["airports"] = {
        "points": {"name": "sphere", "refinements": 2},
        "kernel": {"name": "laplace_single_layer"},
        "task": "capacitance",
        "compress": {"tolerance": 1e-4},
    }
    bench.write_specs(study)
    assert matrix(bench, "airports") == [0, 0, 0]
    # An inscribed mesh of edge h misses the sphere by O(h^2); 320 triangles have h = 0.3.
    assert facts(bench, "airports")["result"]["relative_error"] < 0.3**2 / 2


@pytest.fixture(scope="module")
def by_three(tmp_path_factory, make_bench):
    """A bench where one process, and three of one launch, compressed and solved a matrix and fitted a kernel.

    Artefacts of the three are called `shared`; `fitted` is the airports' matrix with a kernel to fit.
    """

    def with_a_fit(study):
        fit = {"fit": {"subsample": 100, "seed": 0}}
        study["matrices"]["fitted"] = study["matrices"]["airports"] | fit

    bench = make_bench(tmp_path_factory.mktemp("by_three"), with_a_fit)
    assert matrix(bench, "airports") == [0, 0, 0]
    assert matrix(bench, "fitted")[:2] == [0, 0]
    solve = bench.folder / "spec/solve/airports.json"
    asked = json.loads(solve.read_text())
    measured = bench.folder / "spec/solve/measured.json"
    measured.write_text(json.dumps(asked | {"factor": asked["factor"] | {"balance": "measured"}}))
    points, operator = bench.manifest("points/airports"), bench.manifest("compress/airports")
    stages = [
        bench.arguments("compress", output="compress/shared", processes=3, points=points,
                        spec=bench.folder / "spec/compress/airports.json"),
        bench.arguments("solve", output="solve/shared", spec=measured, points=points, operator=operator),
        bench.arguments("compress", output="compress/shared_fit", points=bench.manifest("points/fitted"),
                        spec=bench.folder / "spec/compress/fitted.json"),
    ]  # fmt: skip
    done = launched(3, STAGES, bench.folder, json.dumps(stages))
    assert done.returncode == 0, done.stdout + done.stderr
    return bench


@pytest.mark.mpi
def test_a_matrix_compressed_by_three_processes_is_read_by_one_and_its_damaged_shards_are_named(
    by_three, capsys
):
    operator = Artifact.open(by_three.manifest("compress/shared"), "operator")
    shards = [f"operator/shard-{number:05d}.safetensors" for number in range(3)]
    assert [name for name in operator.manifest["files"] if "shard" in name and "json" not in name] == shards
    assert [row["process"] for row in operator.table("processes")] == ["0", "1", "2"]
    points = by_three.manifest("points/airports")
    x = np.array(Artifact.open(points, "points").array("points"))
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    dense = np.exp(-distance / 0.1) + 0.01 * np.eye(len(x))
    assert np.linalg.norm(
        H2Matrix.load(operator.folder / "operator") @ x - dense @ x
    ) < 1e-3 * np.linalg.norm(dense @ x)
    solve = {
        "spec": by_three.folder / "spec/solve/airports.json",
        "operator": by_three.manifest("compress/shared"),
        "points": points,
    }
    assert by_three.run("solve", output="solve/read", **solve) == 0
    damaged = operator.folder / shards[1]
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert by_three.run("solve", output="solve/read", **solve) == 2
    assert str(damaged) in capsys.readouterr().err


@pytest.mark.mpi
def test_three_processes_of_measured_speed_solve_as_one_does(by_three):
    one, three = (
        Artifact.open(by_three.manifest(f"solve/{name}"), "solution") for name in ("airports", "shared")
    )
    assert three.facts["solve"]["processes"] == 3
    assert {row["process"] for row in three.table("speeds")} == {"0", "1", "2"}
    alone, shared = np.array(one.array("solution")), np.array(three.array("solution"))
    spec = json.loads((by_three.folder / "spec/solve/airports.json").read_text())
    # Residuals within the tolerance; the nugget bounds the inverse.
    assert np.linalg.norm(shared - alone) <= 2 * spec["solve"]["tolerance"] / 0.01 * np.linalg.norm(alone)
    # Standard deviations hang on the fields that each process draws: they are told to about so much.
    for name in ("predicted", "grid"):
        np.testing.assert_allclose(three.array(name), one.array(name), atol=1e-3 * one.array(name).std())
    np.testing.assert_allclose(three.array("std"), one.array("std"), rtol=0.03)
    assert three.facts["result"]["crps"] == pytest.approx(one.facts["result"]["crps"], rel=1e-2)


@pytest.mark.mpi
def test_three_processes_fit_as_one_does(by_three):
    alone = Artifact.open(by_three.manifest("compress/fitted"), "operator").facts
    shared = Artifact.open(by_three.manifest("compress/shared_fit"), "operator").facts
    assert shared["fit"]["n"] == alone["fit"]["n"] == 100
    assert shared["fit"]["log_likelihood"] == pytest.approx(alone["fit"]["log_likelihood"], abs=0.1)
    for name, (low, value, high) in alone["fit"]["intervals"].items():
        # Within a tenth of the interval, which both tell alike.
        assert abs(np.log(shared["fit"]["intervals"][name][1] / value)) < 0.1 * np.log(high / low)
