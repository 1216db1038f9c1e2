"""A user's own images in IDX files."""

import gzip

import numpy as np


def idx_files(folder, arrays):
    """Write `train_images`, `train_labels`, `test_images` and `test_labels`; the training files are compressed."""
    folder.mkdir()
    for name, values in arrays.items():
        part, what = name.split("_")
        file = f"{'train' if part == 'train' else 't10k'}-{what}-idx{values.ndim}-ubyte"
        sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
        content = bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes()
        if part == "train":
            file, content = f"{file}.gz", gzip.compress(content)
        (folder / file).write_bytes(content)
