"""Networks of one's own, which are converted without a training."""

from pipeline.config.precision import OwnNetwork
from pipeline.precision import Budget


def budget_of(own: OwnNetwork) -> Budget:
    """What half precision may cost a network of one's own; a layer may add a quarter of the whole."""
    given = own.budget
    return Budget(
        points=given.points, layer_error=given.relative_error / 4, output_error=given.relative_error
    )
