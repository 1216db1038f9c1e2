"""The command line: what a person or a scheduler calls, and the stages that the workflow calls.

Heavy imports are inside the stages, so that `--help` and a refused argument answer at once.
"""

import argparse
import difflib
import functools
import importlib
import io
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from pipeline.artifacts.disk import Patience, date_after, make_folder_of
from pipeline.errors import ArtifactError, Interrupted, PipelineError, ProcessLostError
from pipeline.operations.commands import COMMANDS, add_commands
from pipeline.runtime.slurm import queue_again
from pipeline.runtime.software import check_code, check_software
from pipeline.runtime.termination import EXIT_INTERRUPTED

INPUTS = {
    "spec": "frozen section of the study",
    "dataset": "manifest of the data set",
    "tuning": "manifest of the trials that chose the run's options",
    "weights": "manifest of a trained network",
    "network": "manifest of a converted network",
    "points": "manifest of the matrix's points",
    "operator": "manifest of the compressed matrix",
    "onnx": "a network of your own, instead of a study's",
    "inputs": "samples of your own, .npy of shape (n, channels, rows, columns)",
    "labels": "their classes, .npy of shape (n,)",
}


class _Parser(argparse.ArgumentParser):
    """A parser that answers an unknown word with the word that was probably meant."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = [str(choice) for choice in action.choices or ()]
        if choices and str(value) not in choices:
            near = difflib.get_close_matches(str(value), choices, n=1)
            meant = f"did you mean {near[0]!r}? " if near else ""
            self.exit(
                2,
                f"error: there is no {str(action.metavar or action.dest).lower()} {value!r}; {meant}"
                f"`{self.prog} --help` lists what there is\n",
            )


@functools.cache
def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="python -m pipeline", description=__doc__.splitlines()[0] if __doc__ else None
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_commands(commands)
    schema = commands.add_parser(
        "schema", help="Print the JSON schema of a study, or a study with its comments."
    )
    schema.add_argument(
        "--comment", type=Path, metavar="STUDY", help="print this study file with every key explained"
    )

    def stage(name: str, help: str, *inputs: str, optional: tuple[str, ...] = ()) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=f"Stage: {help[0].lower()}{help[1:]}", description=help)
        for option in (*inputs, *optional):
            command.add_argument(
                f"--{option}", type=Path, required=option in inputs, metavar="FILE", help=INPUTS[option]
            )
        command.add_argument(
            "--output", type=Path, required=True, metavar="MANIFEST", help="manifest to write"
        )
        command.add_argument(
            "--code", default="", metavar="DIGEST", help="digest of the stage's code, for the manifest"
        )
        return command

    stage("dataset", "Read images and fix their splits.", "spec")
    tune = stage("tune", "Choose the options of a training run by trials.", "spec", "dataset")
    train = stage("train", "Train one network.", "spec", "dataset", optional=("tuning",))
    train.add_argument("--seed", type=int, required=True, help="seed of weights, order and smoothing")
    for command in (tune, train):
        command.add_argument("--run", required=True, help="name of the run, for messages")
        command.add_argument(
            "--checkpoints", type=Path, required=True, metavar="FOLDER", help="where checkpoints lie"
        )
        command.add_argument(
            "--processes", type=int, metavar="N", help="refuse to run with another number of processes"
        )
    train.add_argument(
        "--checkpoint-steps", type=int, default=20, metavar="N", help="steps between checkpoints"
    )
    train.add_argument(
        "--curves", type=Path, metavar="FILE", help="write the figures of every epoch as a line of JSON"
    )
    train.add_argument(
        "--tensorboard",
        type=int,
        choices=(0, 1),
        default=0,
        help="1: write them for TensorBoard beside it, too",
    )
    predict = stage("predict", "Predict from noise at what batch each method starts to lose.", "spec")
    predict.add_argument(
        "networks",
        type=Path,
        nargs="+",
        metavar="MANIFEST",
        help="the networks of the runs that measured noise",
    )
    convert = stage(
        "convert",
        "Convert a trained network to half precision.",
        optional=("spec", "weights", "dataset", "onnx", "inputs", "labels"),
    )
    convert.add_argument(
        "--budget-points", type=float, default=0.1, metavar="POINTS", help="accuracy that it may cost"
    )
    stage(
        "time_layers",
        "Time a converted network layer by layer.",
        "network",
        optional=("spec", "dataset", "inputs", "labels"),
    )
    stage("points", "Make the points of a matrix.", "spec")
    stage(
        "embeddings", "Make the points of a matrix from a network's features.", "spec", "network", "dataset"
    )
    compress = stage("compress", "Compress a matrix to H2 form.", "spec", "points")
    solve = stage(
        "solve", "Factorize and solve, and answer the matrix's question.", "spec", "points", "operator"
    )
    for together in (compress, solve):
        together.add_argument(
            "--processes", type=int, metavar="N", help="refuse to run with another number of processes"
        )
    stage("scaling", "Measure time and storage against the number of points.", "spec")
    report = stage("report", "Write the study's page and metrics.", "spec")
    report.add_argument(
        "--benchmarks", type=Path, required=True, metavar="FOLDER", help="Snakemake's benchmark files"
    )
    report.add_argument(
        "--history", type=Path, metavar="FILE", help="snapshot of past runs that figures are compared with"
    )
    report.add_argument(
        "--missing",
        type=Path,
        metavar="FILE",
        help="JSON object of the artefacts that failed jobs did not make, each with its reason",
    )
    report.add_argument(
        "artefacts",
        type=Path,
        nargs="*",
        metavar="MANIFEST",
        help="every artefact of the study; those beside the output that the spec names, if none is given",
    )
    clean = commands.add_parser(
        "clean_checkpoints", help="Stage: remove what interrupted trainings left behind."
    )
    clean.add_argument(
        "--checkpoints", type=Path, required=True, metavar="FOLDER", help="where checkpoints lie"
    )
    return parser


def _check_output(options: argparse.Namespace) -> None:
    """Refuse an output that a stage could not write, before it computes for hours.

    An output that names a folder is refused too: the files of the stage would lie beside that folder.
    """
    output = options.output
    if output.name != "manifest.json":
        raise ArtifactError(
            f"--output {output}: expected a path that ends in manifest.json, such as {output / 'manifest.json'}; "
            "the other files are written beside it"
        )
    make_folder_of(output)


def _is_first_process() -> bool:
    """Whether this is process 0 of its MPI group, as launchers tell it, or alone."""
    ranks = (os.environ.get(name, "0") for name in ("PMI_RANK", "PMIX_RANK", "SLURM_PROCID"))
    return all(rank == "0" for rank in ranks)


def _wait_for_inputs(options: argparse.Namespace) -> None:
    """Give a shared file system time to show this node the files that the first process's node sees already."""
    inputs = [value for name, value in vars(options).items() if name in INPUTS and value is not None]
    patience = Patience()
    while not all(path.exists() for path in inputs) and not patience.ended:
        patience.pause()


def _files_among(options: argparse.Namespace) -> list[Path]:
    """Return the files that a stage was given to read."""
    given = [value for name, value in vars(options).items() if name != "output"]
    flat = [entry for value in given for entry in (value if isinstance(value, list) else [value])]
    return [entry for entry in flat if isinstance(entry, Path) and entry.is_file()]


def main(arguments: list[str] | None = None) -> int:
    """Run one stage or command.

    Returns:
        0, or 2 after one line about what the user can change, or 75 after a checkpoint was written on SIGTERM
        or SIGINT, or 130 on SIGINT where there is none to write; commands may have codes of their own.
    """
    for stream in (sys.stdout, sys.stderr):
        # In a locale without the micro sign, an escape is printed for it instead of an error.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    level = logging.INFO if _is_first_process() else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    try:
        if options.command == "schema":
            from pipeline.config.comments import commented
            from pipeline.config.study import schema

            study = options.comment
            print(
                commented(study.read_text()) if study else json.dumps(schema(), indent=1),
                end="" if study else "\n",
            )
        elif options.command in COMMANDS:
            module = importlib.import_module(f"pipeline.operations.{options.command}")
            return int(module.run(options) or 0)
        else:
            if "output" in options:
                _check_output(options)
            check_software()
            if not _is_first_process():
                _wait_for_inputs(options)
            stage = importlib.import_module(f"pipeline.stages.{options.command}")
            if "code" in options:
                options.code = check_code(options.command, options.code)
            found = stage.run(options)
            if _is_first_process() and "output" in options:
                date_after(options.output, [*_files_among(options), *(found or [])])
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "pipeline":
            raise
        print(
            f"error: {options.command} needs the package {error.name}, which is not installed; "
            "pip install 'parsimony-pipeline[workflow]', or `make env` in a checkout",
            file=sys.stderr,
        )
        return 2
    except PipelineError as error:
        if not _is_first_process() and not isinstance(error, ProcessLostError):
            # All processes of a group usually fail alike: the first process's line then ends the group before these.
            time.sleep(5)
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        if _is_first_process():
            print(f"interrupted: {stop}", file=sys.stderr)
            if queue_again():
                print("Slurm starts this job again", file=sys.stderr)
        else:
            # The first process to end may end the group, and process 0 has to talk to Slurm before.
            time.sleep(60)
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        if not _is_first_process():
            # The first process to end ends the group, and process 0 prints a line before, unless it waits for others.
            time.sleep(5)
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
