"""Studies that hold only some of the parts, from their specs to the page."""

import json

import pytest

from pipeline.config.report import ReportSpec
from pipeline.errors import DivergenceError

RUN = {"optimizer": {"name": "sgd", "lr": 0.05}, "batch_size": 64, "epochs": 1}
SMALL = {
    "points": {"name": "airports", "n": 300},
    "kernel": {"name": "matern", "length_scale": 0.1},
    "nugget": 0.01,
    "task": "kriging",
    "compress": {"tolerance": 1e-3},
}


def page_of(bench) -> str:
    """Make the report of what the bench holds."""
    spec = bench.folder / "spec/report.json"
    assert bench.run("report", spec=spec, benchmarks=bench.folder / "benchmarks") == 0
    return (bench.folder / "report/index.html").read_text()


def solve(bench, name):
    inputs = {}
    for stage, made in (("points", "points"), ("compress", "operator"), ("solve", None)):
        spec = bench.folder / f"spec/{stage}/{name}.json"
        assert bench.run(stage, output=f"{stage}/{name}", spec=spec, **inputs) == 0
        inputs |= {made: bench.manifest(f"{stage}/{name}")} if made else {}


def test_matrices_alone_make_a_page_without_training(bench):
    bench.write_specs({"study": "matrices", "matrices": {"airports": SMALL}})
    solve(bench, "airports")
    page = page_of(bench)
    assert 'id="numbers"' in page
    assert 'id="steps"' not in page
    assert 'id="bits"' not in page
    metrics = json.loads((bench.folder / "report/metrics.json").read_text())
    assert list(metrics["matrices"]) == ["airports"]
    assert metrics["training"] == {}
    assert metrics["study"]["dataset"] is None


def test_growth_alone_makes_a_page(bench):
    bench.write_specs({"study": "growth", "scaling": {"sizes": [256, 300], "tolerance": 1e-3}})
    assert bench.run("scaling", spec=bench.folder / "spec/scaling.json") == 0
    assert "Growth with N" in page_of(bench)


def test_training_alone_makes_a_page_without_matrices(bench):
    study = {
        "study": "training",
        "seeds": [0],
        "device": "cpu",
        "dataset": {"name": "digits", "train_samples": 128, "validation_samples": 32},
        "training": {"runs": {"only": RUN}},
    }
    bench.write_specs(study)
    bench.dataset()
    assert bench.run("train", output="train/only/seed0", **bench.train_options()) == 0
    page = page_of(bench)
    assert 'id="steps"' in page
    assert 'id="numbers"' not in page
    assert "Options of every run" in page


def test_a_seed_that_diverged_leaves_a_page_of_the_others_that_says_so(bench, monkeypatch):
    def diverges(*_, **__):
        raise DivergenceError("the gradient of head.weight is not finite at step 3")

    study = {
        "study": "training",
        "seeds": [0, 1, 2],
        "device": "cpu",
        "dataset": {"name": "digits", "train_samples": 128, "validation_samples": 32},
        "training": {"runs": {"only": RUN, "other": RUN}},
    }
    bench.write_specs(study)
    bench.dataset()
    for name, bad_seeds in (("only", {1}), ("other", {0, 1, 2})):
        for seed in range(3):
            with monkeypatch.context() as patch:
                if seed in bad_seeds:
                    patch.setattr("pipeline.stages.train.train", diverges)
                options = bench.train_options(name) | {"seed": seed}
                assert bench.run("train", output=f"train/{name}/seed{seed}", **options) == 0
    page = page_of(bench)
    assert "only (1 of 3 seeds, seed 1, diverged)" in page
    assert "other (3 of 3 seeds diverged)" in page
    metrics = json.loads((bench.folder / "report/metrics.json").read_text())
    seeds = metrics["training"]["only"]["seeds"]
    assert [bool(seed["diverged"]) for seed in seeds.values()] == [False, True, False]
    assert [seed["test"] is None for seed in seeds.values()] == [False, True, False]


def test_a_method_has_the_name_that_its_authors_write(bench):
    study = {
        "study": "training",
        "seeds": [0],
        "device": "cpu",
        "dataset": {"name": "digits", "train_samples": 128, "validation_samples": 32},
        "training": {
            "runs": {
                "only": RUN
                | {
                    "optimizer": {"name": "schedule_free", "lr": 0.05},
                    "schedule": {"name": "constant"},
                    "smoothing": [{"name": "mixup", "alpha": 0.2}],
                }
            }
        },
    }
    bench.write_specs(study)
    bench.dataset()
    assert bench.run("train", output="train/only/seed0", **bench.train_options()) == 0
    page = page_of(bench)
    assert "Schedule-free SGD with mixup" in page
    assert "SCHEDULE_FREE" not in page


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        ({"matrices": {"a": SMALL}}, {"points", "compress", "solve"}),
        ({"training": {"runs": {"a": RUN}}}, {"dataset", "train"}),
        ({"scaling": {"sizes": [256, 300]}}, {"scaling"}),
    ],
)
def test_a_study_is_made_of_what_it_names(bench, parts, wanted):
    bench.write_specs({"study": "some"} | parts)
    spec = ReportSpec.model_validate_json((bench.folder / "spec/report.json").read_text())
    assert {path.split("/")[0] for path in spec.artefacts()} == wanted
