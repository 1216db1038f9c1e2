"""Past reports of a study: Snakemake removes a page before it makes the next one, and making that may fail."""

import json
import os
import re
import shutil
from pathlib import Path

from pipeline.artifacts.entry import provenance_of
from pipeline.artifacts.history import PAST_REPORTS

KEPT = 10
NAME = re.compile(r"\d{8}T\d{6}(-[0-9a-f]{8})?$")


def kept() -> int:
    """Number of past reports to keep: `PARSIMONY_PAST_REPORTS`, or ten."""
    try:
        return max(int(os.environ["PARSIMONY_PAST_REPORTS"]), 0)
    except (KeyError, ValueError):
        return KEPT


def keep_report(folder: Path, n: int | None = None) -> Path | None:
    """Copy a study's report to its past ones and keep the newest `n`, by default `kept()`; return the copy, if any."""
    n = kept() if n is None else n
    report, past = folder / "report", folder / PAST_REPORTS
    try:
        made = provenance_of(json.loads((report / "manifest.json").read_text(encoding="utf-8")))
        date = re.sub(r"[-:]", "", made.date)[:15]
        name = f"{date}-{made.short_commit}" if made.commit else date
    except (OSError, ValueError, KeyError, TypeError):
        return None
    copy = past / name
    if n > 0 and NAME.match(name) and not copy.exists():
        draft = past / f".{name}.{os.getpid()}"
        shutil.rmtree(draft, ignore_errors=True)
        past.mkdir(parents=True, exist_ok=True)
        # Only files, by plain copies: a link in the report might lead to something else.
        draft.mkdir()
        for file in report.iterdir():
            if file.is_file() and not file.is_symlink():
                shutil.copyfile(file, draft / file.name)
        draft.rename(copy)
    for old in past_reports(folder)[n:]:
        shutil.rmtree(old)
    return copy if copy.exists() else None


def past_reports(folder: Path) -> list[Path]:
    """The past reports of a study, newest first."""
    found = (
        path for path in (folder / PAST_REPORTS).glob("*") if NAME.match(path.name) and not path.is_symlink()
    )
    return sorted(found, reverse=True)
