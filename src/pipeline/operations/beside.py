"""The studies that are computed in one call with another one, and judge the same claims on other data or networks."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.config.yaml_files import read_study_file
from pipeline.errors import ConfigError
from pipeline.operations.kept_outline import OUTLINES, Outline, outline

#: First parts of the paths of artefacts that a study with training alone makes.
TRAINING = ("dataset", "tune/", "train/", "predict")


def studies_beside(files: Mapping[str, str], default: Path, cache: Path = OUTLINES) -> dict[str, Outline]:
    """Return the outlines of the studies beside another one, by their names, from the file of each.

    Raises:
        ConfigError: If a file is missing or wrong, or holds a study that can't stand beside another one.
    """
    found = {}
    for name, file in files.items():
        try:
            found[name] = outline(read_study_file(Path(file)), default, cache)
        except ConfigError as error:
            # Errors in the file itself already begin with its path.
            said = str(error) if str(error).startswith(file) else f"{file}: {error}"
            raise ConfigError(f"beside.{name}: {said}") from None
        if problem := _why_not(name, found[name]):
            raise ConfigError(f"beside.{name}: {file} {problem}")
    return found


def _why_not(name: str, study: Outline) -> str:
    """Say why a study can't stand beside another one under this name; empty if it can."""
    if study.study != name:
        return f"is the file of study {study.study}; write that name before it, or name another file"
    if study.beside:
        return f"has studies beside it itself ({', '.join(study.beside)}); name them in this study instead"
    if not study.runs:
        return "has no training.runs to compare; name a study that trains"
    # The rules of matrices and conversions depend on their study; the rule of a training is the same in all studies.
    if more := dict.fromkeys(path.split("/")[0] for path in study.artefacts if not path.startswith(TRAINING)):
        return f"makes more than trainings ({', '.join(more)}); compute it by itself"
    return ""
