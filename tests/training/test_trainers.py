"""Loops that own the optimizer, as accelerate and Lightning wrap it."""

import io

import torch
from small_programs import batch, network, weights
from torch.nn.functional import cross_entropy

from pipeline.training import KFACOptimizer, KFACSettings

SETTINGS = KFACSettings(factor_interval=2, inverse_interval=3, damping=0.1, sample_fraction=1.0)


def optimizer_of(model):
    return KFACOptimizer(model, torch.optim.AdamW, lr=0.01, weight_decay=0.1, settings=SETTINGS)


def plainly_trained(n_steps):
    """What a plain loop ends with, its rate falling to a half at every third step."""
    model = network()
    optimizer = optimizer_of(model)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.5)
    for step in range(n_steps):
        optimizer.zero_grad()
        x, y = batch(step)
        cross_entropy(model(x), y).backward()
        optimizer.step()
        schedule.step()
    return weights(model)


class Prepared(torch.optim.Optimizer):
    """An optimizer around another, as accelerate has it: it moves the state once and skips steps while it gathers."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.gathers = False
        optimizer.load_state_dict(moved(optimizer.state_dict()))

    @property
    def state(self):
        return self.optimizer.state

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    @property
    def defaults(self):
        return self.optimizer.defaults

    def state_dict(self):
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict):
        self.optimizer.load_state_dict(state_dict)

    def zero_grad(self, set_to_none=True):
        if not self.gathers:
            self.optimizer.zero_grad(set_to_none=set_to_none)

    def step(self, closure=None):
        return None if self.gathers else self.optimizer.step(closure)


def moved(state):
    """The same with every tensor passed through a device, as accelerate does it by recursion."""
    if isinstance(state, torch.Tensor):
        return state.to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: moved(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(moved(value) for value in state)
    return state


def test_an_optimizer_whose_fresh_state_was_moved_trains_as_it_does_plainly():
    model = network()
    optimizer = Prepared(optimizer_of(model))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.5)
    for step in range(7):
        optimizer.zero_grad()
        x, y = batch(step)
        cross_entropy(model(x), y).backward()
        optimizer.step()
        schedule.step()
    assert torch.equal(weights(model), plainly_trained(7))


def test_gradients_gathered_over_skipped_steps_are_those_of_the_whole_batch():
    found = []
    for n_parts in (1, 2):
        model = network()
        optimizer = Prepared(optimizer_of(model))
        for step in range(5):
            parts = zip(*(tensor.chunk(n_parts) for tensor in batch(step)), strict=True)
            for number, (x, y) in enumerate(parts, start=1):
                optimizer.gathers = number < n_parts
                (cross_entropy(model(x), y) / n_parts).backward()
                optimizer.step()
                optimizer.zero_grad()
        found.append(weights(model))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


def lightning_like(model, optimizer, schedule, steps):
    """Steps by closures that compute the gradient, through a `step` that a schedule has wrapped already."""
    for step in steps:

        def closure(step=step):
            optimizer.zero_grad()
            x, y = batch(step)
            loss = cross_entropy(model(x), y)
            loss.backward()
            return loss

        loss = optimizer.step(closure=closure)
        assert loss.requires_grad
        schedule.step()


def test_a_trainer_that_steps_by_closures_and_resumes_from_its_checkpoint_trains_as_a_plain_loop():
    model = network()
    optimizer = optimizer_of(model)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.5)
    lightning_like(model, optimizer, schedule, range(4))
    file = io.BytesIO()
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
    }
    torch.save(checkpoint, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    again = network()
    again.load_state_dict(loaded["model"])
    optimizer = optimizer_of(again)
    optimizer.load_state_dict(loaded["optimizer"])
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.5)
    schedule.load_state_dict(loaded["schedule"])
    lightning_like(again, optimizer, schedule, range(4, 7))
    assert torch.equal(weights(again), plainly_trained(7))
