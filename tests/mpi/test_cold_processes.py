"""Processes that start as a user's do, each with an order of its own for what sets hold, do as one process does."""

import subprocess

import numpy as np
import pytest
from launch import launched

from pipeline.hmatrix import GaussianProcess, kernels

pytestmark = pytest.mark.mpi

# One launch for both: most of it is imports.
SCRIPT = """
import sys
import numpy as np
import torch
from pipeline.hmatrix import GaussianProcess, kernels
from pipeline.models import build_model
from pipeline.runtime.communicator import Serial
from pipeline.runtime.mpi import MpiCommunicator
from pipeline.runtime.node_group import process_group
from pipeline.runtime.torch_group import torch_group
from pipeline.training import Recipe, Samples, train
from pipeline.training.optimizers import SecondOrder
from pipeline.training.smoothing import Mixup, WeightNoise

comm, alone = MpiCommunicator(), np.load(sys.argv[1])
own = slice(0, 0) if comm.rank == 1 else slice(0, 60) if comm.rank == 0 else slice(60, 101)
X, y = alone["X"][own], alone["y"][own]
kernel = kernels.Matern(nu=1.5, length_scale=0.3)
divided = GaussianProcess(kernel, nugget="fit", trend="constant", communicator=comm).fit(X, y)
assert abs(divided.log_likelihood_ - alone["log_likelihood"]) < 0.1, (divided.log_likelihood_, alone["log_likelihood"])
found, expected = divided.predict(X[:50]), alone["predicted"][own][:50]
assert np.linalg.norm(found - expected) <= 1e-2 * np.linalg.norm(expected)
comm.barrier()
if comm.rank == 0:
    print("fits agree", flush=True)

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
images, labels = torch.randn(101, 1, 8, 8, generator=generator), torch.randint(10, (101,), generator=generator)
training, validation = Samples(images[:70], labels[:70]), Samples(images[70:], labels[70:])
recipe = Recipe(SecondOrder(lr=0.1), batch_size=35, epochs=10, micro_batch=9,
                smoothing=(Mixup(0.4), WeightNoise(0.3)))

def trained(communicator):
    generator = torch.Generator().manual_seed(0)
    model = build_model("cnn", input_shape=(1, 8, 8), n_classes=10, generator=generator, batch_norm=True)
    history = train(model, recipe, training, validation, seed=5, communicator=communicator)
    assert history[-1].steps == 20
    return torch.cat([tensor.double().flatten() for tensor in model.state_dict().values()])

alone = trained(Serial()) if comm.rank == 0 else None
for opened in (torch_group, process_group):
    with opened(torch.device("cpu"), MpiCommunicator()) as group:
        together = trained(group)
        everywhere = group.all_gather(together)
        assert len(everywhere) == comm.size
        assert all(torch.equal(theirs, together) for theirs in everywhere)
        assert alone is None or (together - alone).norm() <= 1e-5 * alone.norm()
if comm.rank == 0:
    print("trainings agree", flush=True)
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> subprocess.CompletedProcess:
    tmp_path = tmp_path_factory.mktemp("cold")
    rng = np.random.default_rng(0)
    X = rng.random((101, 2))  # a fit of 301 sends ten times as many messages
    y = np.sin(5 * X[:, 0]) + X[:, 1] + 0.1 * rng.standard_normal(101)
    alone = GaussianProcess(kernels.Matern(nu=1.5, length_scale=0.3), nugget="fit", trend="constant").fit(
        X, y
    )
    path = tmp_path / "alone.npz"
    np.savez(path, X=X, y=y, log_likelihood=alone.log_likelihood_, predicted=alone.predict(X))
    return launched(3, SCRIPT, tmp_path, path, warm=False, timeout=270)


def test_real_processes_fit_as_one_does(done):
    assert "fits agree" in done.stdout, done.stderr


def test_real_processes_train_the_same_network_as_one(done):
    assert "trainings agree" in done.stdout, done.stderr
    assert done.returncode == 0, done.stderr
