"""The studies that are computed in one call with another, whose verdicts they judge on other data or networks."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.config.yaml_files import read_study_file
from pipeline.errors import ConfigError
from pipeline.operations.kept_outline import OUTLINES, Outline, outline

#: The first parts of paths of what a study of training alone makes.
TRAINING = ("dataset", "tune/", "train/", "predict")


def studies_beside(files: Mapping[str, str], default: Path, cache: Path = OUTLINES) -> dict[str, Outline]:
    """Return the outlines of the studies beside another, by their names, from the file of each.

    Raises:
        ConfigError: If a file is missing or wrong, or is that of a study which can't stand beside another.
    """
    found = {}
    for name, file in files.items():
        try:
            found[name] = outline(read_study_file(Path(file)), default, cache)
        except ConfigError as error:
            # Errors of the file itself begin with its path.
            said = str(error) if str(error).startswith(file) else f"{file}: {error}"
            raise ConfigError(f"beside.{name}: {said}") from None
        if problem := _why_not(name, found[name]):
            raise ConfigError(f"beside.{name}: {file} {problem}")
    return found


def _why_not(name: str, study: Outline) -> str:
    """Say why a study can't stand beside another under this name; empty if it can."""
    if study.study != name:
        return f"is the file of study {study.study}; write that name before it, or name another file"
    if study.beside:
        return f"has studies beside it itself ({', '.join(study.beside)}); name them in this study instead"
    if not study.runs:
        return "has no training.runs to compare; name a study that trains"
    # What a matrix or a conversion is made by depends on its study; a training's rule is the same in all.
    if more := dict.fromkeys(path.split("/")[0] for path in study.artefacts if not path.startswith(TRAINING)):
        return f"makes more than trainings ({', '.join(more)}); compute it by itself"
    return ""
