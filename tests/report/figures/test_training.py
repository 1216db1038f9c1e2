import pytest

from pipeline.artifacts.results.network import EpochRow
from pipeline.report.figures import training
from pipeline.report.metrics import RunMetrics


@pytest.fixture
def limits(monkeypatch):
    """The ends of the vertical axes of learning curves, in the order of drawing."""
    seen = []

    def finish(figure, name, description, data):
        seen.append(figure.axes[0].get_ylim())

    monkeypatch.setattr(training, "finish", finish)
    return seen


@pytest.mark.parametrize(("n_epochs", "whole"), [(3, True), (9, True), (10, False), (60, False)])
def test_the_climb_of_the_first_epochs_is_left_out_only_where_more_follows(limits, n_epochs, whole):
    accuracies = [0.4, *[0.9 + 0.001 * epoch for epoch in range(n_epochs - 1)]]
    history = [
        dict.fromkeys(EpochRow.model_fields, 0) | {"epoch": epoch, "validation_accuracy": accuracy}
        for epoch, accuracy in enumerate(accuracies, 1)
    ]
    usual = {"label": "", "optimizer": "sgd", "batch_size": 64, "train_samples": 100, "epochs": n_epochs}
    run = RunMetrics.model_validate(usual | {"seeds": {"0": {"history": history}}})
    training.learning_curves({"run": run})
    bottom, top = limits[0]
    assert bool(bottom <= 0.4) is whole
    assert bottom < 0.9 < max(accuracies) < top


def test_a_dot_has_the_number_of_its_seed_where_another_has_no_score(no_svg):
    usual = {"label": "a", "optimizer": "sgd", "batch_size": 64, "train_samples": 100, "epochs": 1}
    seeds = {"3": {"diverged": "a loss is not finite"}, "7": {"test": {"loss": 0.5, "accuracy": 0.9}}}
    run = {"run": RunMetrics.model_validate(usual | {"seeds": seeds})}
    accuracy, loss = training.final_scores(run, run)
    assert accuracy.data["rows"] == [("a", "7", 90.0)]
    assert loss.data["rows"] == [("a", "7", 0.5)]
