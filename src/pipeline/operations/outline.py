"""What the workflow's rules need of a study."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outline:
    """What the rules need of a study."""

    study: str
    #: The seeds of each training run.
    seeds: dict[str, list[int]]
    runs: list[str]
    #: The runs whose options trials choose.
    tuned: list[str]
    matrices: list[str]
    #: The matrices whose points are a network's features, each with the run that trained the network.
    embedded: dict[str, str]
    budget_points: float
    #: Trained networks from the user's own files.
    networks: list[str]
    #: The spec of each rule by its path below `spec/`.
    specs: dict[str, dict[str, Any]]
    #: Every artefact but the report, by its path below the study's folder.
    artefacts: list[str]
    #: The user's own files, by the key of the study that names each.
    files: dict[str, str]
