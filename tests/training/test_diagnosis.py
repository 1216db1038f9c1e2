import math

import pytest
import torch
from torch import nn

from pipeline.errors import ConvergenceError
from pipeline.runtime.communicator import run_in_threads
from pipeline.training import Recipe, Samples, train
from pipeline.training.diagnosis import require_agreement
from pipeline.training.optimizers import SGD, SecondOrder

RECIPE = Recipe(SGD(lr=0.05), batch_size=20, epochs=2, micro_batch=5)


class Breaks(nn.Module):
    """The identity, until pass number `when`; then its output or its gradient holds a NaN."""

    def __init__(self, when, what):
        super().__init__()
        self.when, self.what, self.n_passes = when, what, 0

    def forward(self, x):
        self.n_passes += self.training
        if self.n_passes < self.when:
            return x
        if self.what == "output":
            return x * math.nan
        # The derivative of a root at zero is infinite; times zero it is NaN, and zero the output.
        return x + 0 * torch.sqrt(0 * x)


def breaking_network(small_network, what, when=10):
    model = small_network()
    model.body.relu2 = Breaks(when, what)
    return model


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("output", "the output of layer body.relu2 is not finite at step 3; lower lr"),
        ("gradient", "the gradient at layer body.conv2 is not finite at step 3; lower lr"),
    ],
)
def test_the_first_layer_that_goes_wrong_is_named_with_the_step(
    what, message, small_network, training, validation
):
    # Four micro-batches of the first and second steps are passes 1 to 8.
    with pytest.raises(ConvergenceError, match=message):
        train(breaking_network(small_network, what), RECIPE, training, validation, seed=0)


def test_all_processes_name_the_layer_that_failed_on_one(small_network, training, validation):
    def work(communicator):
        when = 5 if communicator.rank == 1 else 10_000
        model = breaking_network(small_network, "output", when)
        with pytest.raises(ConvergenceError) as caught:
            train(model, RECIPE, training, validation, seed=0, communicator=communicator)
        return str(caught.value)

    messages = run_in_threads(3, work)
    assert len(set(messages)) == 1
    assert "body.relu2" in messages[0]


@pytest.mark.parametrize("optimizer", [SGD(lr=1e30), SecondOrder(lr=1e30, kl_clip=0)], ids=["sgd", "kfac"])
def test_a_rate_that_is_far_too_large_ends_with_an_error(optimizer, small_network, training, validation):
    recipe = Recipe(optimizer, batch_size=20, epochs=20)
    with pytest.raises(ConvergenceError, match="is not finite at step"):
        train(small_network(), recipe, training, validation, seed=0)


def test_samples_that_are_not_finite_are_found_in_the_first_layer(small_network, training, validation):
    images = training.images.clone()
    images[17, 0, 2, 3] = math.nan
    with pytest.raises(
        ConvergenceError, match=r"the output of layer body\.conv1 is not finite at step [123];"
    ):
        train(small_network(), RECIPE, Samples(images, training.labels), validation, seed=0)


def test_weights_that_leave_the_finite_in_the_last_step_of_an_epoch_are_found(
    small_network, training, validation
):
    recipe = Recipe(SGD(lr=1e38, momentum=0, weight_decay=0), batch_size=53, epochs=1, warmup_epochs=0)
    with pytest.raises(ConvergenceError, match=r"the output of layer .* is not finite at step 1;"):
        train(small_network(), recipe, training, validation, seed=0)


def test_weights_that_are_infinite_in_both_directions_are_no_disagreement():
    layer = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[math.inf, -math.inf]]))
    run_in_threads(2, lambda communicator: require_agreement(layer, step=1, communicator=communicator))


def test_processes_whose_weights_drift_apart_are_stopped_at_the_end_of_the_epoch(
    small_network, training, validation
):
    def work(communicator):
        model = small_network()

        def disturb(step, n_steps, loss):
            if communicator.rank == 2 and step == 2:
                with torch.no_grad():
                    model.head.bias[0].add_(1e-6)

        train(model, RECIPE, training, validation, seed=0, communicator=communicator, on_step=disturb)

    with pytest.raises(ConvergenceError, match="process 2 holds other weights than process 0 at step 3"):
        run_in_threads(3, work)
