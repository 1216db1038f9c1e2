import pytest
from launch import launched

SCRIPT = """
import sys
import torch
from pipeline.models import build_model
from pipeline.runtime.communicator import Serial
from pipeline.runtime.mpi import MpiCommunicator
from pipeline.runtime.node_group import process_group
from pipeline.runtime.torch_group import torch_group
from pipeline.training import KFACSettings, Recipe, Samples, train
from pipeline.training.smoothing import Mixup, WeightNoise

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
images, labels = torch.randn(101, 1, 8, 8, generator=generator), torch.randint(10, (101,), generator=generator)
training, validation = Samples(images[:70], labels[:70]), Samples(images[70:], labels[70:])
recipe = Recipe("kfac", lr=0.1, batch_size=35, epochs=2, micro_batch=9, kfac=KFACSettings(),
                smoothing=(Mixup(0.4), WeightNoise(0.3)))

def trained(communicator):
    generator = torch.Generator().manual_seed(0)
    model = build_model("cnn", input_shape=(1, 8, 8), n_classes=10, generator=generator, batch_norm=True)
    history = train(model, recipe, training, validation, seed=5, communicator=communicator)
    assert history[-1].steps == 4
    return torch.cat([tensor.double().flatten() for tensor in model.state_dict().values()])

alone = trained(Serial())
for opened in (torch_group, process_group):
    with opened(torch.device("cpu"), MpiCommunicator()) as group:
        together = trained(group)
        everywhere = group.all_gather(together)
        assert len(everywhere) == int(sys.argv[1])
        assert all(torch.equal(theirs, together) for theirs in everywhere)
        assert (together - alone).norm() <= 1e-5 * alone.norm()
if group.rank == 0:
    print("agreed")
"""


@pytest.mark.mpi
def test_real_processes_train_the_same_network_as_one(tmp_path):
    done = launched(2, SCRIPT, tmp_path, 2, warm=False)
    assert done.returncode == 0, done.stderr
    assert "agreed" in done.stdout
