import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.errors import ConfigError, Interrupted
from pipeline.runtime.communicator import run_in_threads
from pipeline.training import METHODS, EpochRecord, Recipe, Samples, State, evaluate, train
from pipeline.training.optimizers import FOP, LAMB, LARS, SGD, SOAP, AdamW, Muon, ScheduleFree, SecondOrder
from pipeline.training.schedule import Constant
from pipeline.training.smoothing import SAM, LabelSmoothing, Mixup, WeightAverage, WeightNoise

SMOOTHED = (Mixup(0.4), LabelSmoothing(0.1), WeightNoise(0.2, annealed=True), WeightAverage(0.4))
SETTINGS = {"factor_interval": 2, "inverse_interval": 3, "sample_fraction": 0.5}
# 53 samples in batches of at most 20 are three of 17 or 18, cut into four or five micro-batches of at most
# 5: nothing divides anything.
SGD_RECIPE = Recipe(SGD(lr=0.05), batch_size=20, epochs=5, micro_batch=5)
KFAC_RECIPE = replace(SGD_RECIPE, optimizer=SecondOrder(lr=0.05, **SETTINGS))
RECIPES = {
    "sgd": SGD_RECIPE,
    "sgd_smoothed": replace(SGD_RECIPE, smoothing=SMOOTHED),
    "lars": replace(SGD_RECIPE, optimizer=LARS(lr=0.3)),
    "lamb": replace(SGD_RECIPE, optimizer=LAMB(lr=0.05)),
    "adamw": replace(SGD_RECIPE, optimizer=AdamW(lr=0.01), coupled_momentum=True),
    "muon": replace(SGD_RECIPE, optimizer=Muon(lr=0.05), rescaled_weights=True),
    "soap": replace(SGD_RECIPE, optimizer=SOAP(lr=0.03)),
    "schedule_free": replace(SGD_RECIPE, optimizer=ScheduleFree(lr=0.3), schedule=Constant()),
    "fop": replace(SGD_RECIPE, optimizer=FOP(lr=0.05, difference_weight=2.0, **SETTINGS)),
    "kfac": KFAC_RECIPE,
    "kfac_smoothed": replace(KFAC_RECIPE, smoothing=SMOOTHED),
}


# Nine steps: runs that are compared with each other need no more.
SHORT = {name: replace(recipe, epochs=3) for name, recipe in RECIPES.items()}
PARTS = ("gradient", "preconditioner", "factor", "inverse", "evaluation")
SECONDS = {"seconds": 0.0} | {f"{part}_seconds": 0.0 for part in PARTS}


def without_seconds(history):
    return [replace(record, **SECONDS) for record in history]


def through_json(state):
    """What remains of a state after it was written and read."""
    return State(
        {name: tensor.clone() for name, tensor in state.tensors.items()},
        json.loads(json.dumps(state.scalars)),
    )


def test_every_optimizer_has_a_case():
    assert {recipe.optimizer.name for recipe in RECIPES.values()} == set(METHODS)


# Two and three processes share four or five micro-batches; of seven processes, some idle. The plain optimizers take
# their step from a gradient that is the same everywhere: what could differ with the processes is in the others.
DIVIDED = {"kfac_smoothed", "fop"}


@pytest.mark.parametrize(
    ("name", "n_processes", "batch_norm"),
    [(name, 2, True) for name in sorted(RECIPES)]
    + [(name, n, norm) for n, norm in ((3, False), (7, True)) for name in sorted(DIVIDED)],
)
def test_the_number_of_processes_does_not_matter(
    name, batch_norm, n_processes, small_network, weights, training, validation
):
    def work(communicator=None):
        model = small_network(batch_norm)
        history = train(model, SHORT[name], training, validation, seed=3, communicator=communicator)
        return weights(model), without_seconds(history)

    alone, its_history = work()
    together = run_in_threads(n_processes, work)
    assert its_history[-1].steps == 9
    for found, history in together:
        assert torch.equal(found, together[0][0])
        assert history == together[0][1]
        assert (found - alone).norm() <= 1e-5 * alone.norm()


@pytest.mark.parametrize(
    ("name", "n_processes"), [(name, 2) for name in sorted(RECIPES)] + [("kfac_smoothed", 1)]
)
def test_a_run_resumed_at_any_step_ends_bit_equal(
    name, n_processes, small_network, weights, training, validation
):
    def work(communicator):
        states, model = [], small_network(batch_norm=True)
        options = {"seed": 3, "communicator": communicator, "checkpoint_steps": 1}
        history = train(model, SHORT[name], training, validation, on_checkpoint=states.append, **options)
        assert [state.step for state in states] == list(range(1, 10))
        # Within the second epoch, where factors are newer than their inverses, and with nothing left to do.
        for step in (5, 9):
            resumed = small_network(batch_norm=True, seed=9)
            state = through_json(states[step - 1])
            again = train(resumed, SHORT[name], training, validation, state=state, **options)
            assert torch.equal(weights(resumed), weights(model))
            assert without_seconds(again) == without_seconds(history)
        return True

    assert run_in_threads(n_processes, work) == [True] * n_processes


def test_checkpoints_share_no_memory_with_the_run(small_network, training, validation):
    states, copies = [], []

    def keep(state):
        states.append(state)
        copies.append(through_json(state))

    train(
        small_network(), RECIPES["kfac"], training, validation, seed=3, on_checkpoint=keep, checkpoint_steps=4
    )
    assert [state.step for state in states] == [4, 8, 12]
    for state, copy in zip(states, copies, strict=True):
        assert state.scalars == copy.scalars
        assert all(torch.equal(state.tensors[name], copy.tensors[name]) for name in copy.tensors)
        addresses = {tensor.data_ptr() for tensor in state.tensors.values()}
        assert len(addresses) == len(state.tensors)


def test_another_seed_gives_another_run(small_network, weights, training, validation):
    found = []
    for seed in (3, 4):
        model = small_network()
        train(model, RECIPES["sgd"], training, validation, seed=seed)
        found.append(weights(model))
    assert not torch.equal(*found)


def test_records_state_true_losses_on_fixed_samples(small_network, training, validation):
    recipe = replace(RECIPES["sgd_smoothed"], n_measured=10)
    model, records, losses = small_network(), [], []
    history = train(
        model,
        recipe,
        training,
        validation,
        seed=0,
        on_epoch=records.append,
        on_step=lambda step, n_steps, loss: losses.append((step, n_steps, loss)),
    )
    assert history == records
    assert [(record.epoch, record.steps) for record in history] == [(i, 3 * i) for i in range(1, 6)]
    assert [(step, n_steps) for step, n_steps, _ in losses] == [(i, 15) for i in range(1, 16)]
    last = history[-1]
    assert not model.training
    assert last.train_loss == evaluate(model, training[:10]).loss
    assert last.validation_loss == evaluate(model, validation).loss
    assert last.validation_accuracy == evaluate(model, validation).accuracy
    assert last.gap == last.validation_loss - last.train_loss
    assert all(a.seconds < b.seconds for a, b in pairwise(history))
    # 53 samples fall into batches of 17, 18 and 18.
    epoch_losses = [loss for _, _, loss in losses[:3]]
    weighted = sum(n * loss for n, loss in zip((17, 18, 18), epoch_losses, strict=True)) / 53
    assert history[0].objective == pytest.approx(weighted)


def test_plain_training_is_torch_sgd_written_by_hand(small_network, weights, training, validation):
    recipe = Recipe(SGD(lr=0.05, weight_decay=0.1), batch_size=53, epochs=3, micro_batch=10, warmup_epochs=0)
    model, by_hand = small_network(), small_network()
    train(model, recipe, training, validation, seed=0)
    velocity = {name: torch.zeros_like(p) for name, p in by_hand.named_parameters()}
    for lr in (0.05, 0.05 * 0.75, 0.05 * 0.25):
        by_hand.zero_grad()
        functional.cross_entropy(by_hand(training.images), training.labels).backward()
        with torch.no_grad():
            for name, p in by_hand.named_parameters():
                gradient = p.grad + (0.1 * p if p.ndim > 1 else 0)
                velocity[name] = 0.9 * velocity[name] + gradient
                p -= lr * velocity[name]
    torch.testing.assert_close(weights(model), weights(by_hand), rtol=1e-5, atol=1e-6)


def test_running_statistics_follow_the_mean_over_micro_batches(small_network, training, validation):
    recipe = Recipe(SGD(lr=1e-30), batch_size=53, epochs=1, micro_batch=20)
    model, reference = small_network(batch_norm=True), small_network(batch_norm=True)
    train(model, recipe, training, validation, seed=0)
    # With one micro-batch of all samples the means agree exactly, whatever the cut and the order.
    reference.train()(training.images)
    torch.testing.assert_close(model.body.norm1.running_mean, reference.body.norm1.running_mean)
    assert model.body.norm1.num_batches_tracked == 1


class Rearranged(nn.Module):
    """A classifier that picks pixels in an order of its own, and normalizes them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("order", torch.arange(35, -1, -1))
        self.register_buffer("mask", torch.arange(36) % 5 > 0)
        self.norm = nn.BatchNorm1d(36)
        self.head = nn.Linear(36, 3)

    def forward(self, images):
        return self.head(self.norm(images.flatten(1)[:, self.order] * self.mask))


@pytest.mark.parametrize("smoothing", [(), (SAM(0.05),)])
def test_only_batch_normalizations_count_passes_other_whole_numbers_stay(smoothing, training, validation):
    model, untrained = Rearranged(), Rearranged()
    train(model, replace(RECIPES["kfac"], smoothing=smoothing), training, validation, seed=0)
    assert torch.equal(model.order, untrained.order)
    assert torch.equal(model.mask, untrained.mask)
    assert model.norm.num_batches_tracked == 5 * 3  # epochs of three steps


@pytest.mark.parametrize("name", sorted(METHODS))
def test_training_learns(name, small_network, training, validation):
    recipe = replace(RECIPES[name], epochs=15)
    before = evaluate(small_network(), training)
    history = train(small_network(), recipe, training, validation, seed=0)
    assert history[-1].train_loss < before.loss / 3


def test_no_epochs_leave_the_network_as_it_is(small_network, weights, training, validation):
    model = small_network()
    assert train(model, replace(RECIPES["sgd"], epochs=0), training, validation, seed=0) == []
    assert torch.equal(weights(model), weights(small_network()))


def test_hooks_are_gone_after_training(small_network, training, validation):
    model = small_network()
    train(model, RECIPES["kfac"], training, validation, seed=0)
    assert not any(module._forward_hooks for module in model.modules())


def test_more_processes_than_samples_in_a_batch_are_refused_in_one_sentence(
    small_network, training, validation
):
    recipe = replace(RECIPES["sgd"], batch_size=4)

    def work(communicator):
        train(small_network(), recipe, training, validation, seed=0, communicator=communicator)

    with pytest.raises(
        ConfigError, match="5 processes cannot share a batch of 3 samples; start fewer processes"
    ):
        run_in_threads(5, work)


def test_a_batch_larger_than_the_training_set_is_refused(small_network, training, validation):
    with pytest.raises(ConfigError, match="batch_size is 54 but there are only 53 training samples; lower"):
        train(small_network(), replace(RECIPES["sgd"], batch_size=54), training, validation, seed=0)


def test_labels_beyond_the_networks_classes_are_refused(small_network, training, validation):
    wrong = Samples(training.images, training.labels + 1)
    with pytest.raises(ValueError, match="label 3 is out of range for 3 classes"):
        train(small_network(), RECIPES["sgd"], wrong, validation, seed=0)


def checkpoint_of(network, recipe, training, validation):
    states = []
    with pytest.raises(Interrupted):
        train(
            network,
            recipe,
            training,
            validation,
            seed=3,
            on_checkpoint=states.append,
            interrupted=lambda: True,
        )
    return states[0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"optimizer": SecondOrder(lr=0.06, **SETTINGS)}, ": lr=0.05 there and lr=0.06 here; delete it"),
        ({"smoothing": ()}, r": smoothing=.* there and smoothing=\(\) here; delete it"),
        (
            {"optimizer": SGD(lr=0.05)},
            ": optimizer=SecondOrder, .* there and optimizer=SGD, .* here; delete it",
        ),
    ],
)
def test_a_checkpoint_of_another_recipe_is_refused(change, told, small_network, training, validation):
    state = checkpoint_of(small_network(), RECIPES["kfac_smoothed"], training, validation)
    with pytest.raises(ConfigError, match=f"checkpoint is of another run{told}"):
        train(
            small_network(),
            replace(RECIPES["kfac_smoothed"], **change),
            training,
            validation,
            seed=3,
            state=state,
        )


def test_a_checkpoint_of_another_network_is_refused(small_network, training, validation):
    state = checkpoint_of(small_network(), RECIPES["sgd"], training, validation)
    with pytest.raises(ConfigError, match=r"checkpoint is of another network: body\.conv1.bias has shape"):
        train(small_network(batch_norm=True), RECIPES["sgd"], training, validation, seed=3, state=state)


def test_the_name_of_an_optimizer_is_no_optimizer():
    with pytest.raises(TypeError, match=r"optimizer must be an Optimizer such as SGD\(lr=0\.1\), not 'sgd'"):
        replace(RECIPES["sgd"], optimizer="sgd")


@pytest.mark.parametrize("name", ["batch_size", "micro_batch", "n_measured"])
def test_sizes_must_be_positive(name):
    with pytest.raises(ValueError, match=rf"Recipe: {name} must lie in \[1, 1e\+09\], not 0"):
        replace(RECIPES["sgd"], **{name: 0})


def test_a_record_holds_plain_numbers(small_network, training, validation):
    record = train(small_network(), replace(RECIPES["sgd"], epochs=1), training, validation, seed=0)[0]
    assert isinstance(record, EpochRecord)
    assert all(type(value) in (int, float) for name, value in vars(record).items() if name != "layers")


def test_a_record_tells_what_the_preconditioner_did(small_network, training, validation):
    history = train(small_network(), RECIPES["kfac"], training, validation, seed=0)
    assert all(0 < record.step_size <= KFAC_RECIPE.optimizer.kl_clip * (1 + 1e-6) for record in history)
    assert all(record.damping == KFAC_RECIPE.optimizer.damping for record in history)
    # Updates every second and every third step, and three steps an epoch.
    assert [record.factor_age for record in history] == [1, 2, 1, 2, 1]
    assert [record.inverse_age for record in history] == [3] * 5
    assert [bool(record.layers) for record in history] == [False] * 4 + [True]
    layers = history[-1].layers
    assert list(layers) == ["body.conv1", "body.conv2", "body.hidden", "head"]
    for figures in layers.values():
        assert set(figures) == {"trace_A", "condition_A", "trace_G", "condition_G", "pi"}
        assert all(value > 0 for value in figures.values())
        assert min(figures["condition_A"], figures["condition_G"]) >= 1


@pytest.mark.parametrize("name", ["sgd", "kfac"])
def test_the_parts_of_a_step_are_within_the_whole(name, small_network, training, validation):
    last = train(small_network(), RECIPES[name], training, validation, seed=0)[-1]
    assert 0 < last.gradient_seconds < last.seconds
    assert last.gradient_seconds + last.preconditioner_seconds <= last.seconds
    assert (last.preconditioner_seconds > 0) == (name == "kfac")
    assert (last.factor_seconds > 0) == (last.inverse_seconds > 0) == (name == "kfac")
    assert last.factor_seconds + last.inverse_seconds <= last.preconditioner_seconds
    assert last.evaluation_seconds > 0


@pytest.mark.parametrize("n_processes", [1, 3])
def test_a_request_to_end_leaves_a_checkpoint_of_that_step_from_which_the_run_ends_bit_equal(
    n_processes, small_network, weights, training, validation
):
    def work(communicator):
        options = {"seed": 3, "communicator": communicator}
        undisturbed = small_network()
        train(undisturbed, SHORT["kfac_smoothed"], training, validation, **options)
        steps, states = [], []
        with pytest.raises(Interrupted, match="stopped on request after step 5 of 9"):
            train(
                small_network(),
                SHORT["kfac_smoothed"],
                training,
                validation,
                on_step=lambda step, n_steps, loss: steps.append(step),
                on_checkpoint=states.append,
                # The signal may reach one process only.
                interrupted=lambda: len(steps) == 5 and communicator.rank == communicator.size - 1,
                **options,
            )
        assert [state.step for state in states] == [5]
        resumed = small_network(seed=9)
        train(resumed, SHORT["kfac_smoothed"], training, validation, state=through_json(states[0]), **options)
        return torch.equal(weights(resumed), weights(undisturbed))

    assert run_in_threads(n_processes, work) == [True] * n_processes


def test_a_request_that_comes_with_the_last_step_is_too_late(small_network, training, validation):
    steps = []
    history = train(
        small_network(),
        RECIPES["sgd"],
        training,
        validation,
        seed=0,
        on_step=lambda step, n_steps, loss: steps.append(step),
        interrupted=lambda: len(steps) == 15,
    )
    assert history[-1].steps == 15


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_run_may_go_on_with_another_number_of_processes(name, small_network, weights, training, validation):
    def work(communicator=None):
        model, states = small_network(batch_norm=True), []
        options = {"seed": 3, "communicator": communicator, "checkpoint_steps": 5}
        train(model, SHORT[name], training, validation, on_checkpoint=states.append, **options)
        return weights(model), states[0]

    undisturbed, state = work()

    def go_on(communicator):
        model = small_network(batch_norm=True, seed=9)
        train(
            model,
            SHORT[name],
            training,
            validation,
            seed=3,
            communicator=communicator,
            state=through_json(state),
        )
        return weights(model)

    for found in run_in_threads(3, go_on):
        assert (found - undisturbed).norm() <= 1e-5 * undisturbed.norm()
