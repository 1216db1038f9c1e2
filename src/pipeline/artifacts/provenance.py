"""The provenance of an artefact as its manifest holds it."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Provenance(BaseModel):
    """Who made an artefact, of which code and inputs, and at what cost; what is not known has its default.

    Attributes:
        commit: The commit that was checked out.
        dirty: Whether the checkout differed from its commit.
        code: Digest of the code of the stage.
        date: When the job ended, in ISO 8601 with a time zone.
        gpus: Names of the GPUs that the job might use.
        cores: Number of cores that the job might use.
        versions: Installed versions, by package.
        inputs: Manifests of the artefacts that the job read, by the option that named them.
        slurm: Slurm's information on the job.
        cost: Resources of the process, by a name that ends in its unit: seconds, bytes or joules.
    """

    model_config = ConfigDict(frozen=True)

    commit: str | None = None
    dirty: bool | None = None
    code: str = ""
    date: str = ""
    host: str = ""
    platform: str = ""
    cpu: str = ""
    gpus: list[str] = []
    cores: int | None = None
    python: str = ""
    versions: dict[str, str] = {}
    command: str = ""
    inputs: dict[str, str] = {}
    slurm_job: str | None = None
    slurm: dict[str, str] = {}
    cost: dict[str, float] = {}

    @model_validator(mode="before")
    @classmethod
    def _without_gaps(cls, content: Any) -> Any:
        """Take a missing value, which other versions wrote as null, for its default."""
        if not isinstance(content, dict):
            return content
        return {key: value for key, value in content.items() if value is not None}

    @property
    def short_commit(self) -> str | None:
        """The first eight characters of the commit."""
        return self.commit and self.commit[:8]
