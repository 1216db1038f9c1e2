"""Command `new`: write a commented study for a user's own file, after a look at the file."""

import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from pipeline.artifacts.own_file import require_name
from pipeline.config.loading import load_study
from pipeline.config.section import NAME_PATTERN
from pipeline.config.study import RESERVED
from pipeline.config.yaml_files import read_yaml
from pipeline.data.arrays import READERS as ARRAY_READERS
from pipeline.data.own_mesh import READERS
from pipeline.data.tables import FORMATS
from pipeline.errors import ConfigError
from pipeline.operations.new_images import holds_idx_files, holds_images, study_of_images, study_of_set
from pipeline.operations.new_mesh import study_of_mesh
from pipeline.operations.new_network import study_of_network
from pipeline.operations.new_points import study_of_points
from pipeline.operations.studies import CONFIG, in_checkout

#: The function that writes the text of a study for a file, by the file's ending.
WRITERS: dict[str, Callable[[str, Path], str]] = {
    **dict.fromkeys(FORMATS, study_of_points),
    # Files in .npz that hold no images are points.
    **dict.fromkeys((ending for ending in ARRAY_READERS if ending not in FORMATS), study_of_set),
    **dict.fromkeys(READERS, study_of_mesh),
    ".onnx": study_of_network,
}


def run(options: Namespace) -> None:
    """Look at the file, and write `config/NAME.yaml`, a study that runs as it stands."""
    in_checkout()
    name, source = options.name, options.source
    if not re.fullmatch(NAME_PATTERN, name) or name in (*RESERVED, "default"):
        raise ConfigError(
            f"{name}: not a valid name for a study; use letters, digits, - and _, but not "
            f"{', '.join(RESERVED)} or default"
        )
    target = CONFIG / f"{name}.yaml"
    if target.exists():
        raise ConfigError(f"{target}: is there already; choose another name, or remove it")
    require_name(source)
    if not source.exists():
        raise ConfigError(f"{source}: there is no such file or folder; paths start at {Path.cwd()}")
    ending = source.suffix.lower()
    writer = WRITERS.get(ending)
    if source.is_dir():
        writer = study_of_set if holds_idx_files(source) else study_of_images
    elif ending == ".npz" and holds_images(source):
        writer = study_of_set
    if writer is None:
        raise ConfigError(
            f"{source}: wanted a folder of images or a file that ends in {', '.join(WRITERS)}; write it as one of these"
        )
    text = writer(name, source)
    target.write_text(text, encoding="utf-8")
    try:
        load_study(read_yaml(target), CONFIG / "default.yaml")
    except ConfigError as error:
        target.unlink()
        raise ConfigError(f"{source}: {error}") from None
    print("\n".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")))
    print(f"wrote {target}; look at it, then: make run STUDY={name}")
