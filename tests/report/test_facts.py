import pytest

from pipeline.report.facts import largest_rank, matrix_facts, provenance_facts
from pipeline.report.figures.structure import block_structure
from pipeline.report.metrics import MatrixMetrics, Origin


@pytest.fixture
def matrix(metrics) -> dict:
    return metrics["matrices"]["airports"]


def facts(matrix):
    return matrix_facts(MatrixMetrics.model_validate(matrix))


def texts(matrix) -> dict[str, str]:
    return {fact.name: fact.text.replace("\N{NO-BREAK SPACE}", " ") for fact in facts(matrix)}


def test_a_missed_tolerance_is_marked(matrix):
    assert texts(matrix)["Relative error"] == "7.8 × 10⁻⁷ (asked: 10⁻⁶)"
    assert all(fact.form == "" for fact in facts(matrix))
    matrix["compress"].update(relative_error=3.3e-5, tolerance=1e-5, missed=True)
    assert texts(matrix)["Relative error"] == "missed: 3.3 × 10⁻⁵, asked 10⁻⁵"
    assert [fact.name for fact in facts(matrix) if fact.form == "alarm"] == ["Relative error"]


def test_both_residuals_are_named_for_their_matrix(matrix):
    found = texts(matrix)
    assert found["Residual, compressed matrix"] == "6.1 × 10⁻⁹"
    assert found["Residual, exact rows"] == "4.4 × 10⁻⁷"
    matrix["solve"]["exact_residual"] = None
    assert "Residual, exact rows" not in texts(matrix)


def test_dense_algebra_stands_beside_compression_factorization_and_solve_together(matrix):
    assert "With dense algebra" not in texts(matrix)
    spent = (
        matrix["compress"]["seconds"]
        + matrix["solve"]["factorize_seconds"]
        + matrix["solve"]["solve_seconds"]
    )
    matrix["solve"]["dense_seconds"] = 20 * spent
    assert (
        texts(matrix)["With dense algebra"]
        .split(" together")[0]
        .endswith("on one process and 6.41 GB: 20× as long as compression, factorization and solve")
    )
    matrix["solve"]["dense_seconds"] = spent / 4
    assert texts(matrix)["With dense algebra"].split(" than")[0].endswith("6.41 GB: 4.0× faster")


def test_the_processes_that_share_a_matrix_are_counted(matrix):
    assert texts(matrix)["Divided among"] == "2 processes"
    matrix["solve"]["processes"] = 1
    assert texts(matrix)["Divided among"] == "one process"


def test_one_iteration_is_no_plural(matrix):
    matrix["solve"]["iterations"] = 1
    assert texts(matrix)["Solve"].split()[-1] == "iteration"
    matrix["solve"]["iterations"] = 2
    assert texts(matrix)["Solve"].split()[-1] == "iterations"


def test_determinant_and_likelihood_need_a_tight_factorization(matrix):
    found = texts(matrix)
    assert found["log det of standardized values, at tolerance 10⁻⁶"] == "−123,456.8"
    assert found["log likelihood of the values, at tolerance 10⁻⁶"] == "−18,234.5"
    matrix["solve"]["factor_tolerance"] = 1e-4
    assert "log det of standardized values, at tolerance 10⁻⁴" in texts(matrix)
    matrix["solve"]["factor_tolerance"] = 1.01e-4
    assert not any(name.startswith("log") for name in texts(matrix))


def test_a_matrix_of_low_rank_tells_no_determinant(matrix):
    matrix["compress"]["form"] = "low_rank"
    assert not any(name.startswith("log") for name in texts(matrix))


def test_dense_algebra_stands_beside_a_matrix_of_low_rank_too(matrix):
    matrix["compress"] |= {"form": "low_rank", "seconds": 1.0}
    matrix["solve"] |= {"factorize_seconds": 0.5, "solve_seconds": 0.5, "dense_seconds": 10.0}
    found = texts(matrix)["With dense algebra"]
    assert found.endswith("6.41 GB: 5.0× as long as compression, factorization and solve together, 2.00 s")


def test_panels_and_quadrature_points_are_told_apart(matrix):
    assert texts(matrix)["Points"] == "28,298 · airports · 3-D · 700 of 28,998 held out"
    matrix.update(n=6912, points="cube")
    matrix["compress"]["n_rows"] = 20736
    assert (
        texts(matrix)["Points"]
        == "6,912 panels, 20,736 quadrature points · cube · 3-D · 700 of 7,612 held out"
    )


def test_points_of_the_globe_and_held_out_ones_are_called_so(matrix):
    matrix.update(points="file", on_globe=True, n=9000)
    matrix["compress"]["n_rows"] = 9000
    matrix["result"]["n_held_out"] = 1000
    assert texts(matrix)["Points"] == "9,000 · own file · longitude and latitude · 1,000 of 10,000 held out"


def test_memory_near_that_of_a_dense_matrix_is_about_as_much(matrix):
    for ratio in (0.98, 1.02):
        matrix["compress"]["n_bytes"] = round(matrix["compress"]["dense_bytes"] / ratio)
        assert "(about as much as dense, " in texts(matrix)["Storage"]


def test_a_kernel_without_parameters_is_its_name(matrix):
    matrix["kernel"] = "LaplaceSingleLayer()"
    assert texts(matrix | {"nugget": 0.0})["Kernel"] == "Laplace single layer"


def test_the_nugget_stands_beside_the_kernel_when_there_is_one(matrix):
    matrix["kernel"] = "Matern(length_scale 0.09193951824327745, variance 1.5e-07, nu 0.5)"
    assert texts(matrix)["Kernel"] == "Matern, length scale 0.0919, variance 1.5e-07, nu 0.5"
    matrix["nugget"] = 0.0123
    assert texts(matrix)["Kernel"].endswith("nu 0.5, nugget 0.0123")
    matrix["nugget_at_bound"] = True
    assert texts(matrix)["Kernel"].endswith("nugget 0.0123 (the fit stopped at its smallest nugget)")


def test_the_largest_rank_is_that_of_the_drawing(matrix):
    structure = matrix["structure"]
    drawing = block_structure("airports", structure["n"], structure["blocks"])
    assert f"largest {largest_rank(MatrixMetrics.model_validate(matrix))})" in drawing.description
    assert texts(matrix)["Largest rank"] == str(largest_rank(MatrixMetrics.model_validate(matrix)))
    structure["blocks"] = []
    assert largest_rank(MatrixMetrics.model_validate(matrix)) == 88


def test_a_dense_matrix_says_where_its_gain_comes_from(matrix):
    assert "approximated" not in texts(matrix)["Storage"]
    matrix["structure"]["blocks"] = [[0, 1, 0, 1, -1], [0, 1, 1, 2, -1]]
    matrix["compress"]["symmetric"] = False
    assert texts(matrix)["Storage"].endswith("GB; nothing is approximated, all blocks are dense)")
    assert "Largest rank" not in texts(matrix)
    matrix["compress"] |= {"symmetric": True, "precision": "float32"}
    assert "GB, by symmetry and single precision; nothing is approximated" in texts(matrix)["Storage"]


def test_the_largest_rank_is_known_without_blocks(matrix):
    structure = matrix["structure"]
    structure["blocks"] = [[0, 1, 0, 1, -1]]
    assert largest_rank(MatrixMetrics.model_validate(matrix)) == 88


def test_provenance_reads_as_a_person_would_write_it():
    found = {
        "command": "python " + 60 * "path/ ",
        "date": "2026-11-23T02:01:36+01:00",
        "cpu": "EPYC",
        "slurm_job": None,
    }
    facts = provenance_facts(Origin(**found, dirty=False, versions={"torch": "2.13"}))
    assert [(fact.name, fact.text) for fact in facts[:-1]] == [
        ("Uncommitted changes", "no"), ("Date", "23 Nov 2026, 01:01 UTC"), ("CPU", "EPYC"), ("Versions", "torch 2.13"),
    ]  # fmt: skip
    assert (facts[-1].name, facts[-1].form) == ("Command", "line")


def test_costs_have_units():
    cost = {"seconds": 2.88, "cpu_seconds": 1.5, "peak_memory_bytes": 181735424, "package_joules": 2410.0}
    (fact,) = provenance_facts(Origin(cost=cost))
    text = fact.text.replace("\N{NO-BREAK SPACE}", " ")
    assert text == "2.88 s, CPU 1.50 s, peak memory 182 MB, package 2.41 kJ"


def test_what_was_not_committed_is_named():
    found = Origin(dirty=True, uncommitted=("config/mine.yaml",))
    assert [(fact.name, fact.text) for fact in provenance_facts(found)] == [
        ("Not committed", "config/mine.yaml")
    ]
    assert [fact.text for fact in provenance_facts(Origin(dirty=True))] == ["yes"]


def test_a_fit_has_a_time_of_its_own_and_is_no_part_of_what_dense_algebra_replaces(matrix):
    assert "Fit of the kernel" not in texts(matrix)
    matrix["solve"]["dense_seconds"] = 100.0
    before = texts(matrix)["With dense algebra"]
    matrix["fit"] = {"log_likelihood": -1.0, "n": 500, "steps": 9, "intervals": {}, "seconds": 3.1}
    assert texts(matrix)["Fit of the kernel"] == "3.10 s, to 500 values"
    assert texts(matrix)["With dense algebra"] == f"{before}; the fit of the kernel, 3.10 s, comes on top"
    del matrix["fit"]["seconds"]
    assert "Fit of the kernel" not in texts(matrix)


def test_variance_and_nugget_of_kriging_are_told_as_those_of_standardized_values(matrix):
    matrix["nugget"] = 0.01
    matrix["result"]["deviation"] = 250.0
    wanted = "1 is the variance of the known values, whose standard deviation is 250 m"
    assert texts(matrix)["Variance and nugget"] == wanted
    del matrix["result"]["deviation"]
    assert texts(matrix)["Variance and nugget"] == "1 is the variance of the known values"
    assert "Variance and nugget" not in texts(matrix | {"kernel": "Custom()", "nugget": 0.0})


def test_every_time_that_was_not_taken_alone_is_marked(matrix):
    matrix["solve"]["dense_seconds"] = 100.0
    matrix["fit"] = {"log_likelihood": -1.0, "n": 500, "steps": 9, "intervals": {}, "seconds": 3.1}
    assert not any("beside other jobs" in text for text in texts(matrix).values())
    matrix["alone"] = False
    marked = {name for name, text in texts(matrix).items() if "beside other jobs" in text}
    assert marked == {
        "Fit of the kernel", "Compression", "Factorization", "Solve", "With dense algebra",
    }  # fmt: skip
