"""Studies and profiles by the names that a command line gives them."""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.loading import load_study
from pipeline.config.study import Study
from pipeline.config.yaml_files import read_study_file, read_yaml
from pipeline.errors import ConfigError

CONFIG = Path("config")
RESULTS = Path("results")
SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")


@dataclass(frozen=True)
class StudyFile:
    """A study with the file that it was read from."""

    path: Path
    study: Study

    @property
    def name(self) -> str:
        """The study's name, which is also that of its results folder."""
        return self.study.study

    @property
    def folder(self) -> Path:
        return RESULTS / self.name

    @property
    def command(self) -> str:
        return f"snakemake --cores all --configfile {self.path}"


def in_checkout() -> None:
    """Raise ConfigError unless the working folder is a checkout."""
    if not Path("Snakefile").is_file() or not (CONFIG / "default.yaml").is_file():
        raise ConfigError(f"{Path.cwd()}: not a checkout of the pipeline (no Snakefile); change to one first")


def read_study(wanted: str) -> StudyFile:
    """Find and validate a study: a file in `config`, with or without its ending, or the path of a YAML file."""
    in_checkout()
    if wanted.endswith((".yaml", ".yml")):
        path = Path(wanted)
        # NAME.yaml means the file in `config` where there is none here.
        path = CONFIG / path if path == Path(path.name) and not path.exists() else path
    elif SAFE.match(wanted):
        path = CONFIG / f"{wanted}.yaml"
    else:
        raise ConfigError(
            f"{wanted!r} is not a valid name of a study; use letters, digits, '.', '-' and '_' only"
        )
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in CONFIG.glob("*.yaml")))
        raise ConfigError(f"there is no {path}; studies: {known}")
    return StudyFile(path, load_study(read_study_file(path), CONFIG / "default.yaml"))


def namesakes(study: StudyFile) -> list[Path]:
    """Other files in `config` that give their study the same name, and so the same folder of results."""
    found = []
    for path in sorted(CONFIG.glob("*.yaml")):
        with contextlib.suppress(ConfigError, OSError):
            # Parsing every study would take longer than all other checks.
            if study.name.encode() not in path.read_bytes() or path.samefile(study.path):
                continue
            if read_yaml(path).get("study") == study.name:
                found.append(path)
    return found


def find_profile(wanted: str) -> Path | None:
    """Find a profile of Snakemake: a folder below `profiles` or elsewhere, or "local", which is None."""
    if wanted == "local":
        return None
    for folder in (Path("profiles") / wanted, Path(wanted)):
        if any(folder.glob("config*.yaml")):
            return folder
    known = ", ".join(sorted(path.parent.name for path in Path("profiles").glob("*/config*.yaml")))
    raise ConfigError(f"--profile: no profile {wanted!r}; known: local, {known}, or a folder's path")
