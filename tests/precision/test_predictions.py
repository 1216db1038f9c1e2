import json

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.precision.predictions import compare_predictions, confusion, wilson_interval


def logits(predicted, n_classes=3, size=1.0):
    return size * torch.nn.functional.one_hot(torch.tensor(predicted), n_classes).float()


def test_counts_are_those_of_the_samples_that_changed():
    labels = torch.tensor([0, 1, 2, 0, 1])
    found = compare_predictions(logits([0, 1, 2, 1, 2]), logits([0, 2, 2, 0, 0]), labels)
    assert (found.n_changed, found.n_worsened, found.n_mended) == (3, 1, 1)
    assert (found.accuracy_before, found.accuracy_after) == (0.6, 0.6)
    assert found.points_lost == 0.0
    assert [(c.sample, c.label, c.before, c.after) for c in found.changed] == [
        (1, 1, 1, 2),
        (3, 0, 1, 0),
        (4, 1, 2, 0),
    ]
    assert found.confusion_before == ((1, 1, 0), (0, 1, 1), (0, 0, 1))
    assert found.confusion_after == ((2, 0, 0), (1, 0, 1), (0, 0, 1))
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("strange", [3, -1])
def test_a_label_that_is_no_class_is_refused(strange):
    with pytest.raises(
        ConfigError, match=f"class {strange} is none of the network's 3 outputs; wanted 0 to 2"
    ):
        compare_predictions(logits([0, 1]), logits([0, 1]), torch.tensor([0, strange]))


def test_examples_are_the_most_surprising_changes():
    before = torch.tensor([[1.0, 0.9], [1.0, 0.1], [1.0, 0.5]])
    found = compare_predictions(before, before.flip(1), torch.zeros(3, dtype=torch.long), n_examples=2)
    assert [c.sample for c in found.changed] == [1, 2]
    assert found.changed[0].margin == pytest.approx(0.9)


def test_nothing_changes_between_equal_logits():
    values = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    found = compare_predictions(values, values, torch.zeros(7, dtype=torch.long))
    assert (found.n_changed, found.points_lost, found.interval_lost, found.changed) == (
        0,
        0.0,
        (0.0, 0.0),
        (),
    )


def test_wilsons_interval_is_the_one_of_the_paper_and_stays_between_0_and_1():
    # The roots of (p - share)^2 = z^2 p (1 - p) / n, its definition.
    for right, n in ((0, 10), (3, 10), (10, 10), (912, 1000)):
        for bound in wilson_interval(right, n):
            assert 0 <= bound <= 1
            assert (bound - right / n) ** 2 == pytest.approx(
                1.959963984540054**2 * bound * (1 - bound) / n, abs=1e-12
            )


def test_the_interval_of_the_loss_covers_it_in_19_of_20_repetitions():
    generator = torch.Generator().manual_seed(3)
    labels = torch.zeros(400, dtype=torch.long)
    covered = 0
    for _ in range(400):
        draw = torch.rand(400, generator=generator)
        # 4 % worsen, 2 % mend: 2 points are lost on average.
        before, after = ((draw >= 0.02).logical_not()).long(), (draw >= 0.96).long()
        low, high = compare_predictions(logits(before.tolist()), logits(after.tolist()), labels).interval_lost
        covered += low <= 2.0 <= high
    assert 0.91 <= covered / 400 <= 0.99  # four standard deviations around 0.95


def test_a_confusion_counts_every_sample_once():
    labels, predicted = torch.tensor([0, 0, 1]), torch.tensor([1, 1, 1])
    assert confusion(labels, predicted, 3) == ((0, 2, 0), (0, 1, 0), (0, 0, 0))
