"""The page of a study with failed jobs: it shows the results that exist, and tells what is missing and why.

After a run of chosen targets, which makes no page, a line tells how to get it.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.operations.live.tail import last_lines, refusal
from pipeline.operations.text import tell

#: The folder beside the one of the report.
FOLDER = "unfinished"


def leave_page(
    study: str, spec: Mapping[str, Any], dag: Any, failed: Iterable[Any], results: Path = Path("results")
) -> None:
    """Write the page of the existing results after jobs have failed, and print where it is.

    Only a run that would have made the report leaves such a page; `spec` is the report's spec. A page that can't be
    written is only a warning: the failure of the jobs is what counts.
    """
    folder = results / study
    missing = missing_artefacts(dag, failed, folder, beside=spec["beside"])
    if missing.pop("report", None) is None:
        return
    try:
        clear_page(study, results)
        with TemporaryDirectory() as temporary:
            texts = {"spec": spec, "missing": missing}
            files = {name: Path(temporary, f"{name}.json") for name in texts}
            for name, text in texts.items():
                files[name].write_text(json.dumps(text), encoding="utf-8")
            page = folder / FOLDER / "index.html"
            history = results / "history" / f"{study}.json"
            command = [
                *(sys.executable, "-m", "pipeline", "report"),
                *("--spec", files["spec"], "--missing", files["missing"]),
                *("--benchmarks", folder / "benchmarks", "--output", page.with_name("manifest.json")),
                *(("--history", history) if history.is_file() else ()),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        tell(f"warning: no page shows what is there: {error}")
        return
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2]
        tell(f"warning: no page shows what is there: {said}")
    else:
        tell(f"The page of what is there, and of what is missing: {page}")


def tell_how_to_get_the_page(study: str, dag: Any, results: Path = Path("results")) -> None:
    """Print how to make the page, after a run whose targets and their inputs did not include it."""
    folder = results / study
    if not any("report" in _artefacts_of(job, folder) for job in dag.jobs):
        tell(
            "This run was not asked for the page; the same command without targets, --until and --omit-from makes it: "
            f"{folder / 'report' / 'index.html'}"
        )


def clear_page(study: str, results: Path = Path("results")) -> None:
    shutil.rmtree(results / study / FOLDER, ignore_errors=True)


def missing_artefacts(
    dag: Any, failed: Iterable[Any], folder: Path, beside: Iterable[str] = ()
) -> dict[str, str]:
    """Return each artefact that was to be made and is missing, by its path below the study's folder, with the reason.

    The pages of the studies `beside` it count too, by their paths below the folder of all results.
    """
    groups = [list(getattr(one, "jobs", [one])) for one in failed]
    culprits = {job: len(group) for group in groups for job in group}
    pages = {f"{study}/report" for study in beside}
    return {
        artefact: _reason(dag, job, culprits, folder)
        for job in dag.needrun_jobs()
        if not dag.finished(job)
        for artefact in [*_artefacts_of(job, folder), *pages.intersection(_artefacts_of(job, folder.parent))]
    }


def _artefacts_of(job: Any, folder: Path) -> list[str]:
    outputs = [Path(output) for output in job.output]
    return [
        output.parent.relative_to(folder).as_posix()
        for output in outputs
        if output.name == "manifest.json" and output.is_relative_to(folder)
    ]


def _reason(dag: Any, job: Any, culprits: Mapping[Any, int], folder: Path) -> str:
    if job not in culprits:
        behind = [other for other in dag.bfs(dag.dependencies, job) if other in culprits]
        names = sorted(
            {
                name
                for other in behind
                for name in _artefacts_of(other, folder) or _artefacts_of(other, folder.parent)
            }
        )
        return f"waits for {', '.join(names)}" if names else "was not started, because another job had failed"
    logs = [Path(log) for log in job.log]
    said = next((told for log in logs if (told := refusal(log))), "")
    if said:
        return said.removeprefix("error: ")
    if culprits[job] > 1 and not any("Traceback" in line for log in logs for line in last_lines(log, 50)):
        return "shared a place in the queue with a job that failed"
    ends = next((lines[0] for log in logs if (lines := last_lines(log, 1))), "")
    return f"the job failed{f' ({ends})' if ends else ''}; its log is {', '.join(map(str, logs))}"
