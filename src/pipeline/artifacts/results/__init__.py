"""The results of each stage, one file per kind of artefact: written as facts of its manifest, checked when read.

This file holds the base of all facts and imports no kind, so that a stage's code digest covers only the kinds that it
writes and reads.
"""

from pydantic import BaseModel, ConfigDict

#: A number that JSON may be unable to hold: an infinite or missing one is null there.
Number = float | None


class Facts(BaseModel):
    """Small results in the manifest of an artefact; entries that another version wrote beside them are ignored."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="null")
