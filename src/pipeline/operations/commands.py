"""The command line for operations on whole studies: their names, options, and modules."""

import argparse
from pathlib import Path

# Each command is run by the module of its name in this package.
COMMANDS = (
    "new", "check", "history", "rerun", "schedule", "explain", "explain_network", "archive", "verify",
)  # fmt: skip


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    def command(name: str, help: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=help)

    new = command("new", "Write a commented study for a file of your own, after a look at it.")
    new.add_argument("name", metavar="NAME", help="name of the study; config/NAME.yaml is written")
    new.add_argument(
        "--from",
        dest="source",
        type=Path,
        required=True,
        metavar="FILE",
        help="points (.csv, .npy, .npz, .parquet, .nc, .geojson, .tif), a mesh (.stl, .obj, .ply, .vtk, .msh), "
        "a network (.onnx), or a folder of images",
    )

    check = command("check", "Check a study before anything runs.")
    check.add_argument("study", metavar="STUDY", help="name of a file in config, or a YAML file")
    check.add_argument("--report", action="store_true", help="print where its report is, or will be")

    history = command("history", "Show the figures of past runs.")
    history.add_argument("--study", help="this study alone")
    history.add_argument("--artefact", metavar="PATTERN", help="names of artefacts, such as 'solve/*'")
    history.add_argument(
        "--figure",
        metavar="PATTERN",
        action="append",
        default=[],
        help="name of a figure, such as '*accuracy*'; repeatable",
    )
    history.add_argument(
        "--last", type=_count, default=100, metavar="N", help="runs of each artefact, at most"
    )
    history.add_argument("--plot", type=Path, metavar="FILE", help="draw them: .svg, .png or .pdf")

    rerun = command("rerun", "Run a study unattended, for cron and the like; print one line.")
    _study_and_profile(rerun)

    schedule = command("schedule", "Install, remove or show scheduled reruns.")
    schedule.add_argument("action", choices=("install", "remove", "show"))
    _study_and_profile(schedule)
    schedule.add_argument(
        "--with",
        dest="scheduler",
        choices=("crontab", "timer", "scrontab"),
        default="crontab",
        help="cron, systemd of the user, or Slurm's cron",
    )
    schedule.add_argument(
        "--at", metavar="TIME", help="five fields of cron ('30 3 * * *'), or a calendar of systemd ('daily')"
    )
    schedule.add_argument("--print", action="store_true", dest="only_print", help="print it, install nothing")

    explain = command("explain", "Say why a file was made and what would make it again.")
    explain.add_argument("path", type=Path, metavar="PATH", help="an artefact, its manifest, or a file in it")
    explain.add_argument("--study", help="name or file of its study, if not config/NAME.yaml")

    network = command(
        "explain_network", "Write a page that says why each layer of an ONNX file takes what it takes."
    )
    network.add_argument("model", type=Path, metavar="MODEL.onnx", help="the network")
    network.add_argument(
        "--inputs", type=Path, required=True, metavar="X.npy", help="samples like those to come"
    )
    network.add_argument(
        "--engine",
        choices=("ours", "onnxruntime", "openvino"),
        help="the engine to compare with; all that are installed if not given",
    )
    network.add_argument("--output", type=Path, required=True, metavar="PAGE.html", help="the page to write")

    archive = command("archive", "Pack a study with its code, so that others can check and rerun it.")
    archive.add_argument("--study", required=True, help="name of a file in config, or a YAML file")
    archive.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the .tar.gz to write; archives/STUDY-COMMIT.tar.gz if not given",
    )

    verify = command("verify", "Check an archive, or a folder of results, checksum by checksum.")
    verify.add_argument("path", type=Path, metavar="ARCHIVE_OR_FOLDER")
    verify.add_argument(
        "--against",
        type=Path,
        metavar="RESULTS",
        help="tell which results are the same there, apart from wall times",
    )
    verify.add_argument(
        "--into", type=Path, metavar="FOLDER", help="unpack the archive there once it is verified"
    )


def _study_and_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--study", default="default", help="name of a file in config, or a YAML file")
    parser.add_argument("--profile", default="local", help="local, a folder in profiles, or a folder's path")
    parser.add_argument("--cores", type=_count, metavar="N", help="cores of this machine; all if not given")
    parser.add_argument("--keep", type=_count, default=10, metavar="N", help="past reports to keep")


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value
