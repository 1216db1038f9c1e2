"""Facts of a data set."""

from pipeline.artifacts.results import Facts


class ImagesFacts(Facts):
    """The images of a study, divided into three parts, with mean and deviation of the training pixels, 0 to 255."""

    name: str
    classes: list[str]
    source: str
    pixel_mean: float
    pixel_std: float
    train_samples: int
    validation_samples: int
    test_samples: int
