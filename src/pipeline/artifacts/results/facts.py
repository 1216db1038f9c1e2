"""The base of all facts."""

from pydantic import BaseModel, ConfigDict

#: A number of ours that JSON may not hold: an infinite one, or none at all, is null there.
Number = float | None


class Facts(BaseModel):
    """Small results in the manifest of an artefact; what another version wrote beside them is left aside."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="null")
