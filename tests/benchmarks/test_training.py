import importlib
from importlib.util import find_spec

import pytest
import torch


@pytest.fixture
def steps():
    return importlib.import_module("_training_steps")


@pytest.fixture
def bench(steps):
    return importlib.import_module("training")


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_plain_loop_and_that_of_train_take_the_same_first_step_of_sgd(steps, monkeypatch):
    """With a batch of all images in order, which pieces of it pass together does not matter."""
    monkeypatch.setattr(steps, "N_IMAGES", 512)
    steps.samples.cache_clear()
    models = [steps.network() for _ in range(2)]
    before = weights(models[0])
    steps.plain_step(models[0], None, steps.samples())()
    steps.loop_step(models[1], None, 512)()
    steps.samples.cache_clear()
    moved = [weights(model) - before for model in models]
    # Sums of 512 single-precision terms in another order.
    assert float((moved[0] - moved[1]).norm() / moved[0].norm()) < 1e-5


def test_k_fac_changes_the_step(bench, steps):
    models = [steps.network() for _ in range(2)]
    steps.plain_step(models[0], None, steps.samples()[:64])()
    steps.plain_step(models[1], bench.ours(models[1], chosen=bench.settings(1)), steps.samples()[:64])()
    assert not torch.equal(weights(models[0]), weights(models[1]))


def test_without_a_gpu_its_case_says_so(bench, monkeypatch, capsys):
    monkeypatch.setattr(bench.torch.cuda, "is_available", lambda: False)
    rows = []
    bench.on_gpu(bench.Run("on a GPU", None, rows.append))
    assert capsys.readouterr().out == "on a GPU: not measured, for torch finds no GPU on this machine\n"
    assert not rows


def test_steps_of_the_gpu_s_case_run_wherever_torch_does(bench):
    for step in bench.resnet_steps(torch.device("cpu"), 2):
        step()


def test_the_median_of_ratios_is_taken_turn_by_turn(bench):
    assert bench.times([2.0, 30.0, 9.0], [1.0, 10.0, 2.0]) == 3.0


def test_bytes_of_a_step_are_those_of_the_gradients_and_the_packed_triangles(bench, steps, monkeypatch):
    monkeypatch.setattr(bench, "BATCH", 256)
    monkeypatch.setattr(bench, "WHOLE", 1)
    n_weights = sum(p.numel() for p in steps.network().parameters())
    loss_and_gradients = 8 * (1 + n_weights)
    assert bench.step_bytes(None, 2) == loss_and_gradients
    rows = [26, 16, 145, 32, 289, 64, 1025, 96, 97, 10]
    assert bench.replicated_bytes(2) == loss_and_gradients + 4 * sum(n * n for n in rows)
    chosen = bench.replace(bench.settings(1, block_size=0), communication="float32", placement="memory")
    messages = 4 * sum(n * (n + 1) // 2 for n in rows) + 4 * n_weights
    small = bench.step_bytes(chosen, 2) - loss_and_gradients - messages
    # Counts of samples, failures and scalar products: a few numbers a layer.
    assert 0 <= small < 8 * 100


WITH_TORCHVISION = pytest.mark.skipif(
    find_spec("torchvision") is None, reason="torchvision is not installed: pip install 'torchvision==0.28.*'"
)


@WITH_TORCHVISION
def test_at_least_99_percent_of_the_parameters_of_torchvision_s_networks_are_preconditioned(bench):
    found = {name: bench.coverage(name) for name in bench.ARCHITECTURES}
    assert len(found) == 20
    assert {name: covered for name, covered in found.items() if not covered.share > 0.99} == {}


@WITH_TORCHVISION
def test_the_table_names_what_is_left(bench, monkeypatch, capsys):
    monkeypatch.setattr(bench, "ARCHITECTURES", ("convnext_tiny",))
    rows = []
    bench.torchvision(bench.Run("networks", None, rows.append))
    assert [(row.case, row.met) for row in rows] == [("networks/convnext_tiny", True)]
    assert "keep their gradients: layer_scale of CNBlock" in capsys.readouterr().out
