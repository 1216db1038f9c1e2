import math

import pytest

from pipeline.__main__ import main
from pipeline.artifacts.results.critical_batch import CriticalBatchFacts
from pipeline.artifacts.results.network import EpochRow
from pipeline.artifacts.store import Artifact
from pipeline.config.loading import validate
from pipeline.errors import ConfigError, DivergenceError


@pytest.fixture
def swept_study(study):
    runs = study["training"]["runs"]
    runs["large"] = runs["only"] | {"batch_size": 128}
    runs["only"]["noise_scale"] = True
    study["training"]["sweeps"] = {"SGD": ["only", "large"]}
    return study


@pytest.fixture
def swept(bench, swept_study):
    bench.write_specs(swept_study)
    bench.dataset()
    for seed in (0, 1):
        options = bench.train_options() | {"seed": seed}
        assert bench.run("train", output=f"train/only/seed{seed}", **options) == 0
    return bench


def predict(bench, *networks):
    arguments = bench.arguments("predict", spec=bench.folder / "spec/predict.json")
    return main([*arguments, *(str(bench.manifest(f"train/{network}")) for network in networks)])


def test_the_batch_that_loses_is_predicted_from_the_small_batches_alone(swept):
    assert predict(swept, "only/seed0", "only/seed1") == 0
    facts = Artifact.open(swept.manifest("predict"), "critical_batch").facts_as(CriticalBatchFacts)
    assert list(facts.methods) == ["SGD"]
    found = facts.methods["SGD"]
    assert (found.run, found.batch_size, [seed.seed for seed in found.seeds]) == ("only", 64, [0, 1])
    for seed in found.seeds:
        network = Artifact.open(swept.manifest(f"train/only/seed{seed.seed}"), "network")
        rows = network.rows_as("history", EpochRow)
        scales = [row.noise_variance / row.noise_square for row in rows]
        assert seed.noise_scales == pytest.approx(scales)
        # Equation by hand: two epochs of two steps of 64 images.
        progress = [1 / (1 + scale / 64) for scale in scales]
        samples = sum(scale * share for scale, share in zip(scales, progress, strict=True))
        assert seed.critical_batch == pytest.approx(samples / sum(progress))
    mean = math.exp(sum(math.log(seed.critical_batch) for seed in found.seeds) / 2)
    assert found.critical_batch == pytest.approx(mean)


def test_seeds_that_diverged_take_no_part_in_the_prediction(swept, monkeypatch):
    def diverges(*_, **__):
        raise DivergenceError("the gradient of head.weight is not finite at step 3")

    monkeypatch.setattr("pipeline.stages.train.train", diverges)
    options = swept.train_options() | {"seed": 2}
    assert swept.run("train", output="train/only/seed2", **options) == 0
    for networks, seeds in ((("only/seed0", "only/seed2"), [0]), (("only/seed2",), [])):
        assert predict(swept, *networks) == 0
        facts = Artifact.open(swept.manifest("predict"), "critical_batch").facts_as(CriticalBatchFacts)
        assert [seed.seed for seed in facts.methods["SGD"].seeds] == seeds
        assert (facts.methods["SGD"].critical_batch is None) == (not seeds)


def test_a_network_that_measured_nothing_or_is_missing_is_named(bench, swept_study, capsys):
    bench.write_specs(swept_study)
    bench.dataset()
    assert bench.run("train", output="train/large/seed0", **bench.train_options("large")) == 0
    assert predict(bench, "large/seed0") == 2
    assert "wanted the networks of only, found none; name their manifests" in capsys.readouterr().err
    swept_study["training"]["runs"]["large"]["noise_scale"] = True
    swept_study["training"]["sweeps"] = {"SGD": ["large", "larger"]}
    swept_study["dataset"]["train_samples"] = 256
    swept_study["training"]["runs"]["larger"] = swept_study["training"]["runs"]["large"] | {"batch_size": 256}
    bench.write_specs(swept_study)
    assert predict(bench, "large/seed0") == 2
    assert "measured no noise; train it with noise_scale: true" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["only", "gone"], r"sweeps\.SGD: no training run 'gone'; known: only, large"),
        (["large", "only"], r"sweeps\.SGD: batch sizes must rise, found \[128, 64\]"),
        (["only"], r"sweeps\.SGD: must have at least 2 entries"),
    ],
)
def test_a_sweep_that_cannot_be_judged_is_refused_with_its_path(swept_study, names, words):
    swept_study["training"]["sweeps"] = {"SGD": names}
    with pytest.raises(ConfigError, match=f"training.{words}"):
        validate(swept_study)


def test_a_sweep_whose_first_run_measures_nothing_is_refused(swept_study):
    del swept_study["training"]["runs"]["only"]["noise_scale"]
    with pytest.raises(
        ConfigError, match=r"only measures no noise .* set training\.runs\.only\.noise_scale to true"
    ):
        validate(swept_study)
