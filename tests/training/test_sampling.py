import pytest
import torch

from pipeline.training import Samples
from pipeline.training.randomness import Purpose, generator
from pipeline.training.sampling import cut, epoch_order, n_pieces


@pytest.mark.parametrize("size", [1, 7, 16, 17, 100])
@pytest.mark.parametrize("n", [1, 16, 17, 53, 97])
def test_pieces_cover_everything_once_and_differ_by_one_at_most(n, size):
    pieces = cut(n, n_pieces(n, size))
    assert [i for piece in pieces for i in range(n)[piece]] == list(range(n))
    lengths = {piece.stop - piece.start for piece in pieces}
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1


def test_more_pieces_than_things_leave_some_empty():
    assert sorted(piece.stop - piece.start for piece in cut(2, 5)) == [0, 0, 0, 1, 1]


def test_each_epoch_visits_every_sample_in_an_order_of_its_own():
    orders = [epoch_order(97, seed=3, epoch=epoch) for epoch in (0, 1)]
    assert all(sorted(order.tolist()) == list(range(97)) for order in orders)
    assert not torch.equal(*orders)
    assert torch.equal(orders[1], epoch_order(97, seed=3, epoch=1))


def test_generators_of_different_keys_draw_different_numbers():
    keys = [
        (0, Purpose.BATCH, 1, 2),
        (0, Purpose.BATCH, 2, 1),
        (1, Purpose.BATCH, 1, 2),
        (0, Purpose.WEIGHTS, 1, 2),
    ]
    draws = [generator(*key).random() for key in keys]
    assert len(set(draws)) == len(keys)
    assert draws[0] == generator(*keys[0]).random()


def test_images_and_labels_must_be_equally_many():
    with pytest.raises(ValueError, match="3 images have 2 labels"):
        Samples(torch.zeros(3, 1, 2, 2), torch.zeros(2, dtype=torch.int64))
