import numpy as np
import pytest
import torch

from pipeline.runtime.communicator import run_in_threads
from pipeline.training import MappedImages, Recipe, Samples, evaluate, train
from pipeline.training.optimizers import SGD


@pytest.fixture
def mapped(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 6, 6), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    return MappedImages(np.load(tmp_path / "pixels.npy", mmap_mode="r"), 120.0, 70.0, torch.device("cpu"))


def test_an_index_reads_what_it_would_of_the_tensor(mapped):
    whole = mapped[:]
    assert whole.shape == (40, 1, 6, 6)
    assert float(whole[3, 0, 2, 1]) == pytest.approx((int(mapped.pixels[3, 2, 1]) - 120) / 70)
    for chosen in (torch.tensor([7, 0, 39]), slice(5, 9), slice(0, 0), torch.tensor([], dtype=torch.int64)):
        assert torch.equal(mapped[chosen], whole[chosen])


def test_colors_keep_their_channels():
    pixels = np.zeros((2, 3, 4, 5), np.uint8)
    assert MappedImages(pixels, 0.0, 1.0, torch.device("cpu"))[:].shape == (2, 3, 4, 5)


def test_training_from_the_file_is_bit_equal_to_training_from_memory(mapped, small_network, weights):
    labels = torch.arange(40) % 3
    recipe = Recipe(SGD(lr=0.05), batch_size=16, epochs=2, micro_batch=5)
    lazy, eager = Samples(mapped, labels), Samples(mapped[:], labels)

    def work(samples):
        def run(communicator):
            model = small_network()
            train(model, recipe, samples, samples[:10], seed=0, communicator=communicator)
            return weights(model), evaluate(model, samples, communicator=communicator).loss

        return run_in_threads(2, run)[0]

    (one, one_loss), (other, other_loss) = work(lazy), work(eager)
    assert torch.equal(one, other)
    assert one_loss == other_loss
