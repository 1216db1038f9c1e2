"""What mypy has to know of sections that are computed.

`make lint` reads this file: an attribute whose type is lost fails, and so does a misspelled one that is accepted, since
its `type: ignore` is then of no use.
"""

from typing import assert_type

from pipeline.config.training import TrainingSpec
from pipeline.training.optimizers import Optimizer


def attributes_of_a_run(spec: TrainingSpec) -> list[object]:
    assert_type(spec.run.batch_size, int)
    assert_type(spec.run.optimizer, Optimizer)
    return [spec.run.batch_sizee]  # type: ignore[attr-defined]
