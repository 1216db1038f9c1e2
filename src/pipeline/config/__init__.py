"""Studies: what a user may write in a YAML file, validated before anything runs.

A study is one file merged over `config/default.yaml`. Every section is a frozen model that refuses unknown keys, so a
misspelled key is an error with its full path and never a silent default. Each rule of the workflow reads one *spec*,
the section that `specs` cuts out for it; a changed value re-runs that spec and what hangs on it, nothing else.
"""

from pipeline.config.loading import load_study, merge, validate
from pipeline.config.specs import artefacts_of, specs
from pipeline.config.study import Study, schema

__all__ = ["Study", "artefacts_of", "load_study", "merge", "schema", "specs", "validate"]
