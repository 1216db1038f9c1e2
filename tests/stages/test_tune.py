import json

import numpy as np
import pytest

from pipeline.artifacts.results.network import Score
from pipeline.artifacts.results.tuning import Trial, TuningFacts
from pipeline.artifacts.store import Artifact
from pipeline.config.loading import validate
from pipeline.config.training import RunSpec, TrainingSpec, TuningSpec
from pipeline.errors import ConfigError, Interrupted
from pipeline.stages import tune
from pipeline.training import train
from pipeline.training.search import best

SEARCH = {"lr": [0.01, 0.1], "weight_decay": [1e-4, 1e-2], "momentum": [0.8, 0.95]}


@pytest.fixture
def tuned_study(study):
    study["training"]["trials"] = 3
    study["training"]["runs"]["only"]["search"] = SEARCH
    return study


@pytest.fixture
def tuned(bench, tuned_study):
    bench.write_specs(tuned_study)
    bench.dataset()
    return bench


def options(bench):
    found = bench.train_options()
    del found["seed"]
    return found | {"spec": bench.folder / "spec/tuning/only.json"}


def test_the_best_of_all_trials_is_trained_with_its_options(tuned):
    assert tuned.run("tune", **options(tuned)) == 0
    facts = Artifact.open(tuned.manifest("tune"), "tuning").facts_as(TuningFacts)
    accuracies = [trial.validation.accuracy for trial in facts.trials]
    assert len(accuracies) == 3
    assert accuracies[facts.chosen] == max(accuracies)
    assert facts.values == facts.trials[facts.chosen].values
    assert tuned.run("train", tuning=tuned.manifest("tune"), **tuned.train_options()) == 0
    spec = Artifact.open(tuned.manifest("train"), "network").spec_as(TrainingSpec)
    assert {name: getattr(spec.run.optimizer, name) for name in SEARCH} == facts.values
    assert not list((tuned.folder / "checkpoints").iterdir())


def test_finished_trials_survive_an_interruption_and_the_outcome_is_the_same(tuned, monkeypatch):
    assert tuned.run("tune", **options(tuned)) == 0
    undisturbed = Artifact.open(tuned.manifest("tune"), "tuning").facts_as(TuningFacts)
    tuned.manifest("tune").unlink()
    calls = []

    def stops_once(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise Interrupted("stopped on request")
        return train(*args, **kwargs)

    monkeypatch.setattr(tune, "train", stops_once)
    assert tuned.run("tune", **options(tuned)) == 75
    assert tuned.run("tune", **options(tuned)) == 0
    assert len(calls) == 4  # one trial, the one that was stopped, and the two that were left
    resumed = Artifact.open(tuned.manifest("tune"), "tuning").facts_as(TuningFacts)
    for one, other in zip(resumed.trials, undisturbed.trials, strict=True):
        assert one.values == other.values
        assert one.validation == other.validation


def test_where_every_trial_diverges_one_line_says_so(tuned_study, bench, capsys):
    tuned_study["training"]["runs"]["only"] |= {"warmup_epochs": 0, "search": SEARCH | {"lr": [1e29, 1e30]}}
    bench.write_specs(tuned_study)
    bench.dataset()
    assert bench.run("tune", **options(bench)) == 2
    error = capsys.readouterr().err
    assert "training.runs.only.search: all 3 trials diverged (the last: " in error
    assert error.endswith("lower the bounds of lr\n")


def test_the_two_best_trials_get_further_seeds_and_an_interruption_changes_nothing(
    tuned_study, bench, monkeypatch, capsys
):
    tuned_study["training"] |= {"final_seeds": 2, "tuning_seed": 50}
    bench.write_specs(tuned_study)
    bench.dataset()
    seeds = []

    def noted(*args, seed, **kwargs):
        seeds.append(seed)
        if len(seeds) == 6:
            raise Interrupted("stopped on request")
        return train(*args, seed=seed, **kwargs)

    monkeypatch.setattr(tune, "train", noted)
    assert bench.run("tune", **options(bench)) == 75
    assert bench.run("tune", **options(bench)) == 0
    assert seeds == [50, 50, 50, 51, 52, 51, 51, 52]  # the sixth was stopped and done anew
    assert "(mean of 3 seeds)" in capsys.readouterr().out
    facts = Artifact.open(bench.manifest("tune"), "tuning").facts_as(TuningFacts)
    monkeypatch.setattr(tune, "train", train)
    bench.manifest("tune").unlink()
    assert bench.run("tune", **options(bench)) == 0
    undisturbed = Artifact.open(bench.manifest("tune"), "tuning").facts_as(TuningFacts)
    assert undisturbed.chosen == facts.chosen
    assert [(t.validation, t.repeats) for t in undisturbed.trials] == [
        (t.validation, t.repeats) for t in facts.trials
    ]
    assert sorted(len(trial.repeats) for trial in facts.trials) == [0, 2, 2]
    means = {
        number: np.mean([score.accuracy for score in (trial.validation, *trial.repeats)])
        for number, trial in enumerate(facts.trials)
        if trial.repeats
    }
    firsts = [trial.validation.accuracy for trial in facts.trials]
    assert sorted(firsts[number] for number in means) == sorted(firsts)[1:]
    assert means[facts.chosen] == max(means.values())


def test_the_next_best_trial_takes_the_place_of_a_finalist_that_diverges(tuned, monkeypatch):
    spec = json.loads(options(tuned)["spec"].read_text()) | {"trials": 4, "final_seeds": 1, "seed": 10}
    first = {"a": 0.6, "b": 0.9, "c": 0.7, "d": 0.8}
    again = {"b": None, "c": 0.5, "d": 0.9}
    asked = []

    def score(values, seed):
        (name,) = values
        asked.append((name, seed))
        accuracy = first[name] if seed == 10 else again[name]
        found = None if accuracy is None else Score(loss=1.0, accuracy=accuracy)
        return Trial(values=values, validation=found, seconds=1.0, failure="" if found else "it diverged")

    trials = []
    grown = list(
        tune._trained(TuningSpec.model_validate(spec), [{name: 1.0} for name in first], trials, score)
    )
    assert asked == [("a", 10), ("b", 10), ("c", 10), ("d", 10), ("b", 11), ("c", 11), ("d", 11)]
    assert grown == [0, 1, 2, 3, 1, 2, 3]
    assert best(tune._outcomes(trials)) == 3
    assert [trial.n_trainings for trial in trials] == [1, 2, 2, 2]


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"lr": [0.1, 0.01]}, "search.lr: must rise, found 0.1 to 0.01"),
        ({"trust": [0.1, 0.2]}, "search.trust: there is no option 'trust'; known are lr, momentum"),
        ({"momentum": [0.5, 1.5]}, "search.momentum: SGD: momentum must lie in"),
    ],
)
def test_a_wrong_search_is_refused_with_its_path(study, search, words):
    study["training"]["runs"]["only"]["search"] = search
    with pytest.raises(ConfigError, match=f"training.runs.only.{words}"):
        validate(study)


def test_final_seeds_past_the_last_seed_are_refused(tuned_study):
    tuned_study["training"] |= {"final_seeds": 2, "tuning_seed": 2**63 - 2}
    with pytest.raises(
        ConfigError, match=r"training\.tuning_seed: the final_seeds after it must lie below 2\^63"
    ):
        validate(tuned_study)
    tuned_study["training"]["final_seeds"] = 1
    validate(tuned_study)


def test_runs_that_are_searched_have_as_many_options_each(tuned_study):
    runs = tuned_study["training"]["runs"]
    runs["other"] = runs["only"] | {"search": {"lr": [0.01, 0.1]}}
    with pytest.raises(
        ConfigError, match=r"runs\.other\.search: has 1 options and that of only has 3; give all"
    ):
        validate(tuned_study)
    tuned_study["training"]["trials"] = 0
    assert validate(tuned_study).training.tuned == []


def test_values_of_a_run_are_those_of_its_recipe():
    run = RunSpec.model_validate(
        {"optimizer": {"name": "kfac", "lr": 0.1}, "smoothing": [{"name": "mixup", "alpha": 0.4}],
         "batch_size": 8, "epochs": 1}
    ).with_values({"damping": 0.5, "mixup.alpha": 0.2})  # fmt: skip
    assert run.recipe().optimizer.damping == 0.5
    assert run.recipe().smoothing[0].alpha == 0.2
