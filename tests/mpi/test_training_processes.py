import pytest
import torch
from launch import launched

SCRIPT = """
import sys
import torch
from pipeline.models import build_model
from pipeline.runtime.mpi import MpiCommunicator
from pipeline.runtime.node_group import process_group
from pipeline.runtime.torch_group import torch_group
from pipeline.training import KFACSettings, Recipe, Samples, train
from pipeline.training.smoothing import Mixup, WeightNoise

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
images, labels = torch.randn(101, 1, 8, 8, generator=generator), torch.randint(10, (101,), generator=generator)
training, validation = Samples(images[:70], labels[:70]), Samples(images[70:], labels[70:])
model = build_model("cnn", input_shape=(1, 8, 8), n_classes=10, generator=generator, batch_norm=True)
recipe = Recipe("kfac", lr=0.1, batch_size=35, epochs=10, micro_batch=9, kfac=KFACSettings(),
                smoothing=(Mixup(0.4), WeightNoise(0.3)))
opened = {"torch": torch_group, "memory": process_group}[sys.argv[3]]
with opened(torch.device("cpu"), MpiCommunicator()) as group:
    history = train(model, recipe, training, validation, seed=5, communicator=group)
    assert history[-1].steps == 20
    weights = torch.cat([tensor.double().flatten() for tensor in model.state_dict().values()])
    everywhere = group.all_gather(weights)
    assert len(everywhere) == int(sys.argv[1])
    assert all(torch.equal(theirs, weights) for theirs in everywhere)
    if group.rank == 0:
        torch.save(weights, sys.argv[2])
"""


def trained_weights(n_processes, folder, messages="memory"):
    result = folder / f"weights{n_processes}.pt"
    done = launched(n_processes, SCRIPT, folder, n_processes, result, messages)
    assert done.returncode == 0, done.stderr
    return torch.load(result)


@pytest.mark.mpi
def test_real_processes_train_the_same_network_as_one(tmp_path):
    alone = trained_weights(1, tmp_path)
    for n_processes, messages in ((2, "memory"), (3, "torch")):
        together = trained_weights(n_processes, tmp_path, messages)
        assert (together - alone).norm() <= 1e-5 * alone.norm()
