"""Stage `dataset`: images with their fixed splits."""

import os
from argparse import Namespace
from pathlib import Path

from pipeline.artifacts.results.images import ImagesFacts
from pipeline.artifacts.store import create
from pipeline.config.images import ImageData
from pipeline.data import load_images
from pipeline.data.splits import split
from pipeline.runtime.provenance import provenance
from pipeline.stages.parts.spec import read_spec


def cache_folder() -> Path:
    """Where fetched data stays between studies: `PARSIMONY_DATA`, or `.data` below the working folder."""
    return Path(os.environ.get("PARSIMONY_DATA", ".data"))


def run(options: Namespace) -> None:
    """Read the images, split them by seed, and note the mean and deviation of the training pixels."""
    spec = read_spec(options.spec, ImageData)
    directory = Path(spec.directory) if spec.directory else None
    own = spec.model_dump(include={"image_size", "channels"}, exclude_none=True)
    if spec.path is not None:
        own["path"] = Path(spec.path)
    images = load_images(spec.name, directory=directory, cache=cache_folder(), **own)
    parts = split(
        images,
        train_samples=spec.train_samples,
        validation_samples=spec.validation_samples,
        seed=spec.split_seed,
    )
    train = images.train_images[parts.train]
    with create(options.output, kind="dataset", spec=spec, provenance=provenance(options.code)) as draft:
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
