"""Command `check`: is a study right, and can its results be written?"""

import inspect
import pkgutil
import sys
from argparse import Namespace

from pipeline.config.models import ImportedModel
from pipeline.config.specs import specs
from pipeline.config.study import Study
from pipeline.errors import ConfigError
from pipeline.operations.inputs import KNOWN, require_readable_once
from pipeline.operations.outline import studies_beside
from pipeline.operations.own_inputs import usable_kernels
from pipeline.operations.paths import own_files, results_folder
from pipeline.operations.studies import CONFIG, RESULTS, namesakes, read_study
from pipeline.runtime.words import counted


def run(options: Namespace) -> None:
    """Validate a study and print one line about it, or about its report."""
    found = read_study(options.study)
    results_folder(RESULTS)
    if options.report:
        print(f"report: {found.folder / 'report' / 'index.html'}")
        return
    study = found.study
    importable_model(study)
    own_files(study.files())
    parts = specs(study)
    require_readable_once(parts, cache=KNOWN)
    usable_kernels(study)
    beside = studies_beside(study.beside, CONFIG / "default.yaml")
    for outline in beside.values():
        own_files(outline.files)
        require_readable_once(outline.specs, cache=KNOWN)
    for other in namesakes(found):
        print(
            f"warning: {found.path} and {other} both name study {study.study}, and share {found.folder}",
            file=sys.stderr,
        )
    counts = (
        counted(sum(len(seeds) for seeds in study.seeds_by_run().values()), "training"),
        *([f"{study.training.n_of_trials:,} more for trials"] if study.training.tuned else []),
        counted(len(study.precision.runs) + len(study.precision.networks), "conversion"),
        counted(len(study.matrices), "matrix", "matrices"),
        counted(len(parts), "file of options", "files of options"),
        *(
            f"beside it {name} with {counted(sum(map(len, outline.seeds.values())), 'training')}"
            for name, outline in beside.items()
        ),
    )
    print(f"{found.path}: study {found.name}, {', '.join(counts)}: all right")


def importable_model(study: Study) -> None:
    """Raise ConfigError unless a network of another library can be imported and takes its configured options."""
    model = study.model
    if not isinstance(model, ImportedModel):
        return
    where = f"model.path: {model.path!r}"
    try:
        build = pkgutil.resolve_name(model.path)
    except (Exception, SystemExit) as error:  # importing a module may raise anything
        ends = isinstance(error, SystemExit)
        reason = "it ends the program" if ends else " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"{where} can't be imported ({reason}); install its package, put its file beside the Snakefile, or "
            "correct the name"
        ) from None
    if not callable(build):
        raise ConfigError(
            f"{where} is of type {type(build).__name__}; name a function or class that returns the network"
        )
    try:
        inspect.signature(build).bind(num_classes=2, **model.options)
    except TypeError as error:
        raise ConfigError(
            f"{where} can't be called with num_classes and these model.options ({error}); change the options"
        ) from None
    except ValueError:  # some built-in callables have no signature
        return
