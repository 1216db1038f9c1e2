import json
import shlex
import sys
from functools import cache
from pathlib import Path
from pkgutil import iter_modules

from pipeline import stages
from pipeline.config.yaml_files import read_study_file
from pipeline.errors import PipelineError
from pipeline.operations.inputs import digest_of_named_files
from pipeline.operations.main_process import (
    at_work,
    begin,
    end,
    end_in_failure,
    heed_signals_while_planning,
    look_back,
    was_interrupted,
)
from pipeline.operations.outline import OUTLINES, outline, studies_beside
from pipeline.operations.paths import own_files, results_folder
from pipeline.operations.unfinished import clear_page, leave_page, tell_how_to_get_the_page
from pipeline.runtime.code_digest import code_digest as digest
from pipeline.runtime.predicted_memory import NodeLimits, predicted_job
from pipeline.runtime.snakemake_patches import (
    check_versions,
    leave_outputs_marked,
    look_at_most_once_a_second,
    name_code_changes,
    refuse_unsupported,
)

if workflow.is_main_process:
    heed_signals_while_planning()

# Jobs find `python` and `mpiexec` beside the interpreter that runs Snakemake, whether its environment is activated or
# not. While a live view is drawn in the terminal, the output of jobs goes to a file instead, and always to their logs.
# A Ctrl-C reaches tee as well, but tee stays for the last lines of a job. Texts are UTF-8 whatever the locale.
shell.prefix(
    f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH PYTHONUTF8=1; "
    'tee() {{ if [ -n "${{PARSIMONY_SCREEN:-}}" ]; then command tee -i "$@" >"$PARSIMONY_SCREEN"; '
    'else command tee -i "$@"; fi; }}; '
)

try:
    check_versions(with_slurm=False)
    refuse_unsupported(sys.argv)
    for file in workflow.configfiles:
        read_study_file(Path(file))  # refuses keys written twice, of which Snakemake took the last
    results_folder(Path("results"))
    # A source path of the workflow: a module's files may lie in another folder than the study, or on another machine.
    default = Path(workflow.source_path("../../config/default.yaml"))
    STUDY = outline(config, default, cache=OUTLINES)
    # This study and the ones beside it, by their names; the rules are the same for all.
    STUDIES = {STUDY.study: STUDY, **studies_beside(STUDY.beside, default)}
    for study in STUDIES.values():
        own_files(study.files)
except PipelineError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)

# More than exist: Snakemake reduces threads to the cores that it was given, and a cluster's profile sets its own.
ALL_CORES = 1024


def code_digest(module):
    """The digest of a stage's code, computed on request: a job in a cluster's queue asks only for its own rule's."""
    computed = cache(lambda: digest(module))
    return lambda wildcards: computed()


def frozen_section(wildcards):
    """The text of the section that a rule reads; its name may belong to a study beside this one."""
    specs = STUDIES[wildcards.study].specs
    if wildcards.section not in specs:
        section = " ".join(Path(wildcards.section).parts)
        print(f"error: the study {wildcards.study} has no {section}", file=sys.stderr)
        sys.exit(2)
    return json.dumps(specs[wildcards.section], indent=1)


def files_behind(section):
    """The digest of the files outside the results that a section of the study names; for the `params` of a rule."""
    return lambda wildcards: digest_of_named_files(
        STUDIES[wildcards.study].specs[section.format(**wildcards)], cache=Path(".snakemake", "digests")
    )


def of_a_matrix(stage, what):
    """A resource of a matrix's job, from the size of the matrix, which is known once its points exist.

    A cluster's profile describes a node in `default-resources`: `node_mem_mb`, and `node_processes` for one matrix.
    """

    def found(wildcards, input, attempt):
        given = workflow.resource_settings.default_resources or {}
        node = NodeLimits(
            n_bytes=1e6 * int(given["node_mem_mb"].value) if "node_mem_mb" in given else float("inf"),
            processes=int(given["node_processes"].value) if "node_processes" in given else 2,
        )
        facts = json.loads(Path(input.points).read_text(encoding="utf-8"))["facts"]
        spec = STUDY.specs[f"{stage}/{wildcards.matrix}"]
        compress = STUDY.specs[f"compress/{wildcards.matrix}"]["compress"]
        job = predicted_job(stage, facts, spec, compress["tolerance"], node, form=compress["form"])
        return {
            "nodes": job.nodes,
            "processes": job.processes,
            "mem_mb": attempt * (job.n_bytes // 10**6 + 500),
        }[what]

    return found


def stage_digests():
    """The digest of every stage's code by the stage's name."""
    return {stage.name: digest(f"pipeline.stages.{stage.name}") for stage in iter_modules(stages.__path__)}


def one_of(names):
    """A pattern that matches these names and no other; without names, it matches nothing."""
    return "|".join(sorted(names)) or "(?!)"


def manifest(path, study=STUDY.study):
    """The file whose presence says that the artefact at this path of a study is complete."""
    return f"results/{study}/{path}/manifest.json"


def artefacts(study):
    """Every artefact of a study except the report."""
    return [manifest(path, study) for path in STUDIES[study].artefacts]


wildcard_constraints:
    study=one_of(STUDIES),
    run=one_of({run for study in STUDIES.values() for run in study.runs}),
    matrix=one_of(STUDY.matrices),
    network=one_of(STUDY.networks),
    seed=r"\d+",
    section=r"[A-Za-z0-9_/-]+",
