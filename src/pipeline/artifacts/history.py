"""The figures of all runs, and who made them, in one SQLite database beside the results.

A job writes only its artefact, because SQLite loses data when several nodes write over a shared file system. The main
process merges new manifests when a study starts, succeeds or fails; after a kill, the next start finds and merges them.
Jobs read what they need of the past from a JSON snapshot that the main process writes.
"""

import json
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path

from pipeline.artifacts.disk import write_atomically
from pipeline.artifacts.entry import HistoryEntry, entry_of
from pipeline.errors import ArtifactError

FOLDER = "history"  # below the results
PAST_REPORTS = "past_reports"  # below a study's folder: copies, not results
DATABASE = "history.sqlite"
BUSY_SECONDS = 30
LEAST_FREE = 1_000_000  # bytes: SQLite needs some space beside the database
# Runs of each artefact in a snapshot: enough to know their noise, and few enough for a job to read in a second or two.
KEPT_IN_SNAPSHOT = 20
MOST_IN_SNAPSHOT = 20_000

SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY,
    study TEXT NOT NULL, artefact TEXT NOT NULL, kind TEXT NOT NULL, date TEXT NOT NULL,
    manifest TEXT NOT NULL, stamp TEXT NOT NULL, lineage TEXT NOT NULL, machine TEXT NOT NULL,
    code TEXT NOT NULL, commit_id TEXT, dirty INTEGER, host TEXT, slurm_job TEXT,
    UNIQUE (study, artefact, manifest)
);
CREATE TABLE IF NOT EXISTS figures (
    run INTEGER NOT NULL REFERENCES runs (id), name TEXT NOT NULL, value REAL NOT NULL,
    PRIMARY KEY (run, name)
) WITHOUT ROWID;
"""

COLUMNS = tuple(field.name for field in fields(HistoryEntry) if field.name != "figures")


def database_of(results: Path) -> Path:
    return results / FOLDER / DATABASE


def snapshot_of(results: Path, study: str) -> Path:
    return results / FOLDER / f"{study}.json"


def manifests_of(folder: Path) -> list[Path]:
    """The manifests of a study's folder, which is at most three levels deep."""
    found = (path for depth in (1, 2, 3) for path in folder.glob("*/" * depth + "manifest.json"))
    return sorted(path for path in found if path.relative_to(folder).parts[0] != PAST_REPORTS)


def merge(results: Path, study: str, manifests: Iterable[Path]) -> int:
    """Add the artefacts of a study that the database does not hold yet, and return their number.

    Missing and broken manifests are skipped.
    """
    with _opened(database_of(results)) as database:
        known = {
            (row["artefact"], row["stamp"])
            for row in database.execute("SELECT artefact, stamp FROM runs WHERE study = ?", (study,))
        }
        lineages: dict[Path, str] = {}
        new = 0
        # All reading is done before the write lock is taken.
        entries = [entry_of(path, results / study, known, lineages) for path in manifests]
        with database:
            database.execute("BEGIN IMMEDIATE")
            for entry in entries:
                new += entry is not None and _insert(database, entry)
    return new


def write_snapshot(results: Path, study: str) -> None:
    """Write the last runs of every artefact of a study to a file for its jobs."""
    with _opened(database_of(results)) as database:
        (n_artefacts,) = database.execute(
            "SELECT count(DISTINCT artefact) FROM runs WHERE study = ?", (study,)
        ).fetchone()
    last = max(min(KEPT_IN_SNAPSHOT, MOST_IN_SNAPSHOT // max(n_artefacts, 1)), 3)
    entries = [vars(entry) for entry in read(results, study, last)]
    write_atomically(snapshot_of(results, study), json.dumps(entries, separators=(",", ":")))


def _insert(database: sqlite3.Connection, entry: HistoryEntry) -> bool:
    values = vars(entry)
    marks = ", ".join("?" * len(COLUMNS))
    done = database.execute(
        f"INSERT OR IGNORE INTO runs ({', '.join(COLUMNS)}) VALUES ({marks})",
        [values[column] for column in COLUMNS],
    )
    if not done.rowcount:
        return False
    rows = [(done.lastrowid, name, value) for name, value in entry.figures.items()]
    database.executemany("INSERT INTO figures VALUES (?, ?, ?)", rows)
    return True


def read(results: Path, study: str | None = None, last: int = 1000) -> list[HistoryEntry]:
    """Return the last entries of every artefact, oldest first; none if there is no database."""
    if not database_of(results).exists():
        return []
    with _opened(database_of(results)) as database:
        database.execute(
            "CREATE TEMP TABLE chosen AS SELECT * FROM (SELECT *, row_number() OVER "
            "(PARTITION BY study, artefact ORDER BY date DESC, id DESC) AS place FROM runs "
            "WHERE study = ifnull(?, study)) WHERE place <= ?",
            (study, last),
        )
        rows = database.execute("SELECT * FROM chosen ORDER BY date, id").fetchall()
        figures: dict[int, dict[str, float]] = {row["id"]: {} for row in rows}
        chosen = "SELECT run, name, value FROM figures JOIN chosen ON figures.run = chosen.id"
        for run, name, value in database.execute(chosen):
            figures[run][name] = value
    return [
        HistoryEntry(**{column: row[column] for column in COLUMNS}, figures=figures[row["id"]])
        for row in rows
    ]


def read_snapshot(path: Path) -> list[HistoryEntry]:
    """Return the entries that the main process wrote for its jobs."""
    try:
        return [HistoryEntry(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(
            f"{path}: not a snapshot of the history ({error}); delete it and run again"
        ) from None


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the database, and create it if it is missing; writers on this node wait for each other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as database:
            database.row_factory = sqlite3.Row
            _write_ahead(database)
            database.executescript(SCHEMA)
            yield database
    except sqlite3.Error as error:
        advice = "move it away and a new one is begun"
        if isinstance(error, sqlite3.OperationalError) and shutil.disk_usage(path.parent).free < LEAST_FREE:
            advice = "the disk is full, so free some space"
        raise ArtifactError(f"{path}: the history cannot be used ({error}); {advice}") from error


def _write_ahead(database: sqlite3.Connection) -> None:
    """Choose the journal in which writers wait for each other; SQLite does not wait while it changes to that one."""
    last = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > last:
                raise
            time.sleep(0.01)
