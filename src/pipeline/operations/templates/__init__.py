"""Text files with blanks: studies that `new` writes, and the page of `explain_network`."""

import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.runtime.words import counted


def filled(template: str, **blanks: Any) -> str:
    """Return a template with its blanks filled in; what goes into HTML is escaped."""
    environment = Environment(
        loader=PackageLoader("pipeline.operations"),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"json": json.dumps, "counted": counted}
    return environment.get_template(template).render(blanks)
