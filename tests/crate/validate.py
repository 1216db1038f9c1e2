"""Print the checks of the profiles of workflow runs that an RO-Crate fails, as JSON: their names by severity.

The profile of provenance extends all the others, back to RO-Crate itself: their checks run as well. The validator is
given every context from here, so it needs no network.
"""

import io
import json
import sys
import tempfile
from pathlib import Path

import requests
from rocrate_validator.models import Severity, ValidationSettings
from rocrate_validator.services import validate
from rocrate_validator.utils.http import HttpRequester

RUN = "https://w3id.org/ro/terms/workflow-run"
CONTEXTS = {
    # As the RO-Crate community published it, in the public domain.
    "https://w3id.org/ro/crate/1.1/context": Path(__file__)
    .with_name("ro-crate-1.1-context.jsonld")
    .read_bytes(),
    f"{RUN}/context": json.dumps(
        {"@context": {term: f"{RUN}#{term}" for term in ("sha256", "resourceUsage")}}
    ).encode(),
}


def answer(requester, url, **options):
    response = requests.Response()
    response.status_code, response.raw = 200, io.BytesIO(CONTEXTS[url])
    response.headers["Content-Type"] = "application/ld+json"
    return response


HttpRequester.get = HttpRequester.head = answer
with tempfile.TemporaryDirectory() as folder:
    settings = ValidationSettings(
        rocrate_uri=sys.argv[1],
        profile_identifier="provenance-run-crate-0.5",
        requirement_severity=Severity.RECOMMENDED,
        offline=True,
        cache_path=Path(folder) / "cache",
    )
    issues = validate(settings).get_issues()
failed = {
    severity.name: sorted({issue.check.name for issue in issues if issue.severity is severity})
    for severity in (Severity.REQUIRED, Severity.RECOMMENDED)
}
print(json.dumps(failed))
