import math

import pytest
import torch
from torch.nn import functional

from pipeline.runtime.communicator import run_in_threads
from pipeline.training import Samples, evaluate, evaluation


def test_figures_are_those_of_all_scores_at_once(small_network, validation, monkeypatch):
    monkeypatch.setattr(evaluation, "BATCH", 7)
    model = small_network(batch_norm=True)
    found = evaluate(model, validation)
    scores = model.eval()(validation.images)
    assert found.loss == pytest.approx(functional.cross_entropy(scores, validation.labels).item(), rel=1e-5)
    assert torch.equal(found.predictions, scores.argmax(dim=1))
    assert found.accuracy == pytest.approx((found.predictions == validation.labels).float().mean().item())
    assert found.n_samples == 31


@pytest.mark.parametrize("training_mode", [True, False])
def test_the_mode_and_the_running_statistics_are_left_as_they_were(small_network, validation, training_mode):
    model = small_network(batch_norm=True).train(training_mode)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, validation)
    assert model.training == training_mode
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("n_processes", [2, 3, 40])
def test_any_number_of_processes_finds_the_same(small_network, validation, n_processes):
    alone = evaluate(small_network(), validation)
    for found in run_in_threads(
        n_processes, lambda communicator: evaluate(small_network(), validation, communicator=communicator)
    ):
        assert found.loss == pytest.approx(alone.loss, rel=1e-6)
        assert found.accuracy == alone.accuracy
        assert torch.equal(found.predictions, alone.predictions)


def test_no_samples_have_no_loss(small_network):
    found = evaluate(small_network(), Samples(torch.zeros(0, 1, 6, 6), torch.zeros(0, dtype=torch.int64)))
    assert (found.loss, found.accuracy, found.n_samples) == (0.0, 0.0, 0)
    assert not math.isnan(found.loss)
