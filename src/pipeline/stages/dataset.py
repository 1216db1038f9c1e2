"""Stage `dataset`: images with their fixed splits."""

import os
from argparse import Namespace
from pathlib import Path

from pipeline.artifacts.results.images import ImagesFacts
from pipeline.config.images import ImageData
from pipeline.stages.parts.spec import read_spec, written


def run(options: Namespace) -> None:
    """Read the images, split them by seed, and record the mean and deviation of the training pixels."""
    spec = read_spec(options.spec, ImageData)
    # Downloaded data stays in this folder, for all studies.
    images, parts = spec.load(Path(os.environ.get("PARSIMONY_DATA", ".data")))
    train = images.train_images[parts.train]
    with written(options, "dataset", spec) as draft:
        for name, indices in (("train", parts.train), ("validation", parts.validation)):
            draft.save_array(f"{name}_images", images.train_images[indices], unit="gray levels, 0 to 255")
            draft.save_array(f"{name}_labels", images.train_labels[indices], unit="class")
        draft.save_array("test_images", images.test_images, unit="gray levels, 0 to 255")
        draft.save_array("test_labels", images.test_labels, unit="class")
        draft.facts = ImagesFacts(
            name=spec.name,
            classes=images.classes,
            source=images.source,
            pixel_mean=float(train.mean()),
            pixel_std=float(train.std()),
            train_samples=len(parts.train),
            validation_samples=len(parts.validation),
            test_samples=len(images.test_labels),
        )
    print(
        f"dataset {spec.name}: {len(parts.train)} training, {len(parts.validation)} validation, "
        f"{len(images.test_labels)} test images from {images.source}"
    )
