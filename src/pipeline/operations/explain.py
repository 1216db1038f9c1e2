"""Command `explain`: tell why a file was made, by whom and from which inputs, and what would make it again."""

import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.artifacts.disk import sha256_of
from pipeline.artifacts.entry import HistoryEntry, entry_of, provenance_of
from pipeline.artifacts.history import read, read_snapshot, snapshot_of
from pipeline.artifacts.provenance import Provenance
from pipeline.config.specs import artefacts_of
from pipeline.errors import ArtifactError, ConfigError
from pipeline.operations.main_process import main_elsewhere
from pipeline.operations.studies import CONFIG, RESULTS, StudyFile, in_checkout, read_study
from pipeline.operations.text import duration, size
from pipeline.runtime.code_digest import code_digest, modules_behind

# The stages behind a folder of results, where they are not the stage of the folder's own name.
STAGES = {"points": ("points", "embeddings")}


def run(options: Namespace) -> None:
    """Print how the file was made and what would remake it."""
    in_checkout()
    manifest_path = manifest_of(options.path)
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        made = provenance_of(manifest)
        artefact = manifest_path.parent
        study = artefact.resolve().relative_to(RESULTS.resolve()).parts[0]
    except (OSError, KeyError, TypeError, ValidationError):
        raise ArtifactError(f"{manifest_path}: not a manifest; name an artefact's folder") from None
    except ValueError:
        raise ArtifactError(f"{manifest_path}: not an artefact of a study below {RESULTS}") from None
    artefact = RESULTS / artefact.resolve().relative_to(RESULTS.resolve())
    stage = stage_of(artefact, made)
    bad = damaged(artefact, manifest["files"])
    print("\n".join(_making(artefact, manifest, made, stage, bad)))
    print(f"Why: {reason_then(artefact, RESULTS / study)}")
    if not options.study and not (CONFIG / f"{study}.yaml").is_file():
        raise ConfigError(f"there is no {CONFIG / study}.yaml; name the study's file with --study")
    found = read_study(options.study or study)
    print("\n".join(_what_would(stage, manifest, made, found)))
    print("\n".join(_now(artefact, found, stage, made, bad)))


def manifest_of(path: Path) -> Path:
    """Return the manifest of the artefact that a path names or lies in; raise ArtifactError if there is none."""
    for folder in (path, *path.parents):
        if folder.is_dir() and (folder / "manifest.json").is_file():
            return folder / "manifest.json"
    what = "is in no artefact" if path.exists() else "isn't there"
    raise ArtifactError(f"{path}: {what}; name a folder with a manifest.json, or a file in one")


def stage_of(artefact: Path, made: Provenance) -> str:
    """Return the stage that made an artefact, from its command or from its folder's name."""
    words = made.command.split()
    folder = artefact.relative_to(RESULTS).parts[1]
    known = STAGES.get(folder, (folder,))
    return next((word for word in words if word in known), known[0])


def damaged(artefact: Path, files: Mapping[str, Any]) -> list[str]:
    return [
        name
        for name, listed in files.items()
        if not (artefact / name).is_file() or sha256_of(artefact / name) != listed["sha256"]
    ]


def _making(
    artefact: Path, manifest: Mapping[str, Any], made: Provenance, stage: str, bad: Sequence[str]
) -> Iterator[str]:
    changed = ", with changes that were not committed" if made.dirty else ""
    yield f"{artefact}: {manifest['kind']}, made by rule {stage} on {made.date.replace('T', ' ')[:16]} UTC"
    yield f"By: commit {made.short_commit or 'unknown'}{changed}, code digest {made.code or 'unknown'}"
    where = f"{made.host} ({', '.join([made.cpu, f'{made.cores} cores', *made.gpus])})"
    if made.slurm_job:
        where += f", Slurm job {made.slurm_job}"
    yield f"On: {where}, Python {made.python}"
    cost = made.cost
    if cost:
        parts = {"package_joules": "the node's processors", "gpu_joules": "its GPUs"}
        energy = [f"{cost[key]:.0f} J by {name}" for key, name in parts.items() if key in cost]
        spent = [
            duration(cost["seconds"]),
            f"{size(cost['peak_memory_bytes'])} at most in one process",
            *energy,
        ]
        yield f"Spent: {', '.join(spent)}"
    if inputs := _inputs(stage, manifest, made):
        yield f"From: {', '.join(f'{name} {path}'.strip() for name, path in inputs)}"
    if manifest["spec"]:
        yield f"Spec: {json.dumps(manifest['spec'])[:300]}"
    n = len(manifest["files"])
    yield f"Files: altered or lost: {', '.join(bad)}" if bad else f"Files: {n}, all as they were written"


def reason_then(artefact: Path, folder: Path) -> str:
    """Tell why an artefact was made: what differs from the previous run, as far as the history knows."""
    now = entry_of(artefact / "manifest.json", folder)
    if now is None:
        return "its manifest doesn't tell"
    results, study = folder.parent, folder.name
    past = read_snapshot(snapshot_of(results, study)) if main_elsewhere() else read(results, study)
    before = [
        entry
        for entry in past
        if entry.artefact == now.artefact and entry.manifest != now.manifest and entry.date <= now.date
    ]
    if not before:
        return "it was not there before, as far as the history goes"
    return difference(before[-1], now)


def difference(before: HistoryEntry, now: HistoryEntry) -> str:
    since = f"since the run of {before.date.replace('T', ' ')[:16]} UTC"
    parts = []
    if before.code != now.code:
        parts.append(f"its code changed (digest {before.code or 'unknown'} to {now.code or 'unknown'})")
    if before.lineage != now.lineage:
        parts.append("its spec, or one behind its inputs, changed")
    if not parts:
        return f"neither code nor specs changed {since}: an input was made again, it was deleted, or forced"
    return f"{' and '.join(parts)} {since}"


def _inputs(stage: str, manifest: Mapping[str, Any], made: Provenance) -> list[tuple[str, str]]:
    """Return names and folders of an artefact's inputs; for a report, which has all, return their number by stage."""
    found = [(name, str(Path(path).parent)) for name, path in made.inputs.items()]
    if stage == "report" and "runs" in manifest["spec"]:
        counts = Counter(name.partition("/")[0] for name in artefacts_of(manifest["spec"]))
        found += [(f"{name} ({n})", "") for name, n in counts.items()]
    return found


def _what_would(stage: str, manifest: Mapping[str, Any], made: Provenance, study: StudyFile) -> Iterator[str]:
    modules = modules_behind(f"pipeline.stages.{stage}")
    packages = Counter(name.split(".")[1] for name in modules if name.count(".") >= 2)
    yield "Made again when one of these changes:"
    yield f"- its section of {study.path}"
    if inputs := _inputs(stage, manifest, made):
        yield f"- an input: {', '.join(path or name for name, path in inputs)}"
    counted = ", ".join(f"{name} ({n})" for name, n in packages.most_common())
    yield f"- the code that rule {stage} imports, comments aside; modules of src/pipeline: {counted}"


def _now(artefact: Path, study: StudyFile, stage: str, made: Provenance, bad: Sequence[str]) -> Iterator[str]:
    target = artefact / "manifest.json"
    planned = plan(study.path, target)
    if not planned and bad:
        yield f"Now: damaged ({', '.join(bad)}), and nothing would make it again; delete {target}, then {study.command}"
        return
    if not planned:
        yield "Now: up to date; nothing would make it again"
        return
    own = [reason for output, _, reason in planned if str(target) in output]
    code = code_digest(f"pipeline.stages.{stage}")
    if made.code and code != made.code:
        own = [*own, f"its code has digest {code} now, it was made by {made.code}"]
    yield f"Now: it would be made again: {'; '.join(own) or 'an input would be'}"
    before = [f"{rule} ({reason})" for output, rule, reason in planned if str(target) not in output]
    if before:
        more = f" and {len(before) - 8} more" if len(before) > 8 else ""
        yield f"Before it: {'; '.join(before[:8])}{more}"


def plan(study: Path, target: Path) -> list[tuple[str, str, str]]:
    """Ask Snakemake what it would run for a target: outputs, rule and reason of every job."""
    command = [sys.executable, "-m", "snakemake", str(target), "--configfile", str(study)]
    command += ["--cores", "1", "--dry-run"]
    environment = os.environ | {"NO_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    said = done.stdout + done.stderr
    if done.returncode != 0:
        last = [line for line in said.splitlines() if line.strip()][-1:]
        raise ConfigError(f"snakemake --dry-run {target}: {' '.join(last)}")
    return jobs_planned(said)


def jobs_planned(said: str) -> list[tuple[str, str, str]]:
    """Read the blocks of a dry run."""
    jobs = []
    for block in re.split(r"\n\s*\n|\n(?=\[)", said):
        rule = re.search(r"^(?:local)?rule (\w+):$", block, flags=re.MULTILINE)
        output = re.search(r"^    output: (.*)$", block, flags=re.MULTILINE)
        reason = re.search(r"^    reason: (.*)$", block, flags=re.MULTILINE)
        if rule and output and reason:
            # Without old and new values of parameters, which may be pages long.
            short = re.sub(r"(changed since last execution)[:;].*", r"\1", reason.group(1))
            jobs.append((output.group(1), rule.group(1), short))
    return jobs
