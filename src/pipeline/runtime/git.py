"""What git tells of the checkout: its commit, and which of its files no commit holds."""

import subprocess
from pathlib import Path

# Where the files lie that a result is made by; new ones count before they are committed, but for a new study: what it
# says is in the spec of every artefact.
CODE = ("Snakefile", "config", "profiles", "src", "workflow")
NEW_CODE = tuple(name for name in CODE if name != "config")


def _git(*arguments: str, folder: Path = Path(__file__).parent) -> str | None:
    command = ["git", *arguments]
    try:
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def commit() -> str | None:
    """The commit that is checked out; None where git can't tell."""
    told = _git("rev-parse", "HEAD")
    return None if told is None else told.strip()


def is_dirty() -> bool | None:
    """Whether the checkout differs from its commit, by new code too; None where git can't tell."""
    changed = _git("status", "--porcelain", "--untracked-files=no")
    new = _git("ls-files", "--others", "--exclude-standard", "--", *(f":/{name}" for name in NEW_CODE))
    return None if changed is None or new is None else bool(changed or new)


def commits_between(old: str | None, new: str | None, most: int = 20) -> list[str]:
    """The commits after `old` up to `new`, newest first, each its short name and subject; none if git can't tell."""
    if not old or not new or old == new:
        return []
    told = _git("log", "--oneline", "--no-decorate", f"--max-count={most + 1}", f"{old}..{new}", "--")
    lines = (told or "").splitlines()
    return lines if len(lines) <= most else [*lines[:most], "and older ones"]


def uncommitted(folder: Path = Path(__file__).parent) -> list[str]:
    """The files of the code that differ from their commit or are new, by their paths in it; none where git can't tell.

    A new study in `config/` is none of them: what it says is in the spec of every artefact.
    """
    told = _git(
        "status", "--porcelain", "--untracked-files=all", "-z", "--no-renames", "--",
        *(f":/{name}" for name in CODE), folder=folder,
    )  # fmt: skip
    return [line[3:] for line in (told or "").split("\0") if line and not line.startswith("?? config/")]
