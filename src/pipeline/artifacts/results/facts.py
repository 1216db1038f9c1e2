"""The base of all facts."""

from pydantic import BaseModel, ConfigDict

#: A number that JSON may be unable to hold: an infinite or missing one is null there.
Number = float | None


class Facts(BaseModel):
    """Small results in the manifest of an artefact; entries that another version wrote beside them are ignored."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="null")
