"""Describe an archive as an RO-Crate [1]: its files, the workflow, and each run of a stage.

The description conforms to the profiles of Workflow Run RO-Crate [2]. `rocrate`, which writes it, takes a third
of a second to import: only `archive` imports this module.

References:
    [1] Soiland-Reyes et al., "Packaging research artefacts with RO-Crate", Data Science 2022.
    [2] Leo et al., "Recording provenance of workflow runs with RO-Crate", PLOS ONE 2024.
"""

import json
import mimetypes
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import metadata, version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rocrate.model import ComputationalWorkflow, ContextEntity, Entity
from rocrate.rocrate import ROCrate

from pipeline.artifacts.entry import provenance_of
from pipeline.artifacts.provenance import Provenance
from pipeline.operations.studies import RESULTS, StudyFile

CRATE = "ro-crate-metadata.json"
# The version of RO-Crate that the newest profiles of workflow runs extend.
VERSION = "1.1"
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
# It defines `sha256` and `resourceUsage`.
RUN_TERMS = "https://w3id.org/ro/terms/workflow-run/context"
# Units of costs by the last word of their names.
UNITS = {
    "seconds": "https://qudt.org/vocab/unit/SEC",
    "bytes": "https://qudt.org/vocab/unit/BYTE",
    "joules": "https://qudt.org/vocab/unit/J",
}


def describe(
    study: StudyFile,
    configs: Iterable[str],
    manifests: Collection[Path],
    files: Mapping[str, Path],
    sums: Mapping[str, str],
    made: Provenance,
) -> dict[str, Any]:
    """Return the description of an archive as JSON-LD.

    Args:
        study: The study that is packed.
        configs: The packed files of this study and of those beside it.
        manifests: All artefacts of these studies.
        files: What is packed, by its name in the archive.
        sums: Checksums of the files that are no links, by the same names.
        made: When the archive was made, and from which commit.
    """
    crate = _titled(study, made)
    workflow = crate.add_workflow(
        dest_path="Snakefile",
        main=True,
        lang="snakemake",
        lang_version=version("snakemake"),
        properties={
            "@type": [*ComputationalWorkflow.TYPES, "HowTo"],
            "name": "Parsimony",
            "version": made.commit or version("parsimony-pipeline"),
            **_content("Snakefile", files, sums),
        },
    )
    entities = {name: _add_file(crate, name, files, sums) for name in files if name != "Snakefile"}
    entities["Snakefile"] = workflow
    runs = [_add_run(crate, path, entities) for path in manifests]
    _add_steps(workflow, runs)
    given = [entities[name] for name in configs]
    found = [
        crate.add_dataset(dest_path=RESULTS / name, properties={"name": f"Results of study {name}"})
        for name in dict.fromkeys(path.relative_to(RESULTS).parts[0] for path in manifests)
    ]
    for name, role, kind, examples in (
        ("study", "input", "File", given),
        ("results", "output", "Dataset", found),
    ):
        parameter = crate.add_formal_parameter(
            name, kind, f"#{name}", properties={"workExample": _compact(examples)}
        )
        workflow[role] = parameter
        for example in examples:
            example["exampleOfWork"] = parameter
    whole = crate.add_action(
        workflow,
        "#run",
        object=_compact(given),
        result=_compact(found),
        properties={
            "name": f"run of study {study.name}",
            "description": study.command,
            "endTime": max(run["endTime"] for run in runs),
        },
    )
    crate.root_dataset["mentions"] = [whole, *runs]
    return dict(crate.metadata.generate())


def _titled(study: StudyFile, made: Provenance) -> ROCrate:
    """Begin a description with its title, its license, and the profiles that it conforms to."""
    crate = ROCrate(version=VERSION)
    crate.metadata.extra_contexts.append(RUN_TERMS)
    crate.name = f"Parsimony, study {study.name}"
    crate.description = (
        study.study.description or f"Study {study.name} with its results and the code behind them."
    )
    crate.datePublished = made.date
    spdx = metadata("parsimony-pipeline")["License-Expression"]
    crate.license = _add(crate, f"https://spdx.org/licenses/{spdx}", "CreativeWork", name=spdx)
    for profile, name in PROFILES.items():
        number = profile.rpartition("/")[2]
        entity = _add(crate, profile, "CreativeWork", name=name, version=number)
        crate.root_dataset.append_to("conformsTo", entity)
    return crate


def _add(crate: ROCrate, identifier: str, kind: str, **properties: Any) -> Entity:
    return crate.add(ContextEntity(crate, identifier, {"@type": kind, **properties}))


def _compact(values: list[Entity]) -> Entity | list[Entity]:
    """Return a single value as itself, as the specification recommends."""
    return values[0] if len(values) == 1 else values


def _content(name: str, files: Mapping[str, Path], sums: Mapping[str, str]) -> dict[str, str]:
    """Return size, checksum and format of a packed file; a link has none of them."""
    if name not in sums:
        return {}
    return {
        "contentSize": str(files[name].stat().st_size),
        "sha256": sums[name],
        "encodingFormat": mimetypes.guess_type(name)[0] or "application/octet-stream",
    }


def _add_file(crate: ROCrate, name: str, files: Mapping[str, Path], sums: Mapping[str, str]) -> Entity:
    """Add a file, or a link to a folder."""
    properties: dict[str, Any] = {"name": name, **_content(name, files, sums)}
    if name == "README.md":
        properties["about"] = crate.root_dataset
    add = crate.add_dataset if files[name].is_dir() else crate.add_file
    return add(dest_path=name, properties=properties)


def _add_run(crate: ROCrate, path: Path, entities: Mapping[str, Entity]) -> Entity:
    """Add the run of the stage that made an artefact: its program, inputs, results, and cost."""
    manifest = json.loads(path.read_text(encoding="utf-8"))
    made, folder = provenance_of(manifest), path.parent.as_posix()
    identifier = f"#{quote(folder)}"
    results = [path.as_posix(), *(f"{folder}/{name}" for name in manifest["files"])]
    cost = [
        _add(
            crate,
            f"{identifier}/{name}",
            "PropertyValue",
            name=name,
            propertyID=name,
            value=str(value),
            unitCode=UNITS[name.rpartition("_")[2]],
        )
        for name, value in made.cost.items()
        if name.rpartition("_")[2] in UNITS
    ]
    return crate.add_action(
        _program(crate, made),
        identifier,
        object=_compact([entities[name] for name in made.inputs.values() if name in entities]),
        result=_compact([entities[name] for name in results if name in entities]),
        properties={
            "name": f"make {folder}",
            "description": made.command or f"make {folder}",
            "endTime": made.date,
            **({"resourceUsage": _compact(cost)} if cost else {}),
        },
    )


def _program(crate: ROCrate, made: Provenance) -> Entity:
    """Return the stage that made an artefact, at its commit: artefacts of one archive may be of several commits."""
    words = shlex.split(made.command)  # python -m pipeline STAGE ...
    stage = words[3] if len(words) > 3 else "pipeline"
    commit = made.commit or "unknown"
    identifier = f"#{stage}-{commit[:8]}"
    changed = " with changes that were not committed" if made.dirty else ""
    return crate.get(identifier) or _add(
        crate, identifier, "SoftwareApplication", name=stage, softwareVersion=f"commit {commit}{changed}"
    )


def _add_steps(workflow: Entity, runs: Iterable[Entity]) -> None:
    """Name the stages that ran as the workflow's parts and steps."""
    programs = {run["instrument"].id: run["instrument"] for run in runs}
    by_stage = defaultdict(list)
    for program in programs.values():
        by_stage[program["name"]].append(program)
    workflow["hasPart"] = _compact(list(programs.values()))
    workflow["step"] = _compact(
        [
            _add(workflow.crate, f"#step-{stage}", "HowToStep", name=stage, workExample=_compact(made_by))
            for stage, made_by in by_stage.items()
        ]
    )
