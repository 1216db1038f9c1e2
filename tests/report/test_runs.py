"""Names of methods on the page: every registered optimizer and smoothing is written as its authors write it."""

import pytest

from pipeline.report.metrics import RunMetrics
from pipeline.report.runs import OPTIMIZERS, method_of
from pipeline.training import METHODS, SMOOTHINGS


def run_with(optimizer, *smoothing):
    return RunMetrics(
        label="",
        optimizer=optimizer,
        batch_size=1,
        train_samples=1,
        epochs=1,
        smoothing=list(smoothing),
        seeds={},
    )


def test_every_registered_optimizer_has_a_name_on_the_page_and_no_other_has():
    assert OPTIMIZERS.keys() == METHODS.keys()
    assert len(set(OPTIMIZERS.values())) == len(OPTIMIZERS)


@pytest.mark.parametrize("name", METHODS)
def test_an_optimizer_is_written_by_its_name(name):
    shown = method_of(run_with(name))
    assert shown == OPTIMIZERS[name]
    assert "_" not in shown
    assert shown != name


@pytest.mark.parametrize("name", SMOOTHINGS)
def test_a_smoothing_is_written_in_words_and_an_acronym_in_capitals(name):
    words = name.upper() if SMOOTHINGS[name].__name__.isupper() else name.replace("_", " ")
    # As the report's metrics have it: the name with its options behind.
    assert method_of(run_with("sgd", f"{name.replace('_', ' ')} (strength 1)")) == f"SGD with {words}"
