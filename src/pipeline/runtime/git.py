"""The checkout as git knows it: its commit, and the files that are in no commit."""

import os
import subprocess
from pathlib import Path

# Folders and files that a result depends on. New ones count before they are committed, except a new study: its content
# is in the spec of every artefact.
CODE = ("Snakefile", "config", "profiles", "src", "workflow")
NEW_CODE = tuple(name for name in CODE if name != "config")


def git(*arguments: str, folder: Path = Path(__file__).parent) -> str | None:
    """Return what git prints in a folder; None if it fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return os.fsdecode(done.stdout)


def commit() -> str | None:
    """The commit that is checked out; None where git can't tell."""
    told = git("rev-parse", "HEAD")
    return None if told is None else told.strip()


def is_dirty() -> bool | None:
    """Whether the checkout differs from its commit, also by new code; None where git can't tell."""
    changed = git("status", "--porcelain", "--untracked-files=no")
    new = git("ls-files", "--others", "--exclude-standard", "--", *(f":/{name}" for name in NEW_CODE))
    return None if changed is None or new is None else bool(changed or new)


def commits_between(old: str | None, new: str | None, most: int = 20) -> list[str]:
    """The commits after `old` up to `new`, newest first, by short name and subject; none if git can't tell."""
    if not old or not new or old == new:
        return []
    told = git("log", "--oneline", "--no-decorate", f"--max-count={most + 1}", f"{old}..{new}", "--")
    lines = (told or "").splitlines()
    return lines if len(lines) <= most else [*lines[:most], "and older ones"]


def uncommitted(folder: Path = Path(__file__).parent) -> list[str]:
    """The code files that are new or differ from their commit, by their paths in the checkout; none if git can't tell.

    A new study in `config/` is left out: its content is in the spec of every artefact.
    """
    told = git(
        "status", "--porcelain", "--untracked-files=all", "-z", "--no-renames", "--",
        *(f":/{name}" for name in CODE), folder=folder,
    )  # fmt: skip
    return [line[3:] for line in (told or "").split("\0") if line and not line.startswith("?? config/")]
