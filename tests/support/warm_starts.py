"""Start Python programs from a process that has imported what is slow to import, and none of the project's modules.

Each start is a fork of that process: a program with its own folder, variables, arguments and output, to which no
earlier start is visible. It takes what the program itself takes, without the seconds in which torch and Snakemake are
imported.
"""

import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

#: Modules of other projects that Snakemake and the pipeline import.
SLOW = [
    "snakemake.cli",
    "torch",
    "torch.export",
    "scipy.optimize",
    "scipy.spatial",
    "scipy.stats",
    "pydantic",
]
#: Processor seconds of all programs that were started here and have ended.
used = 0.0


def run_module(
    arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run `python -m` with these arguments in a folder; return its exit code and, as `stdout`, all that it printed."""
    global used
    server = _server()
    with tempfile.NamedTemporaryFile(prefix="warm") as printed:
        request = {
            "arguments": [*arguments], "folder": str(folder), "environment": {**environment}, "printed": printed.name,
        }  # fmt: skip
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        answer = json.loads(server.stdout.readline())
        used += answer["used"]
        return subprocess.CompletedProcess(arguments, answer["code"], printed.read().decode())


@cache
def _server() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"},
    )  # fmt: skip


def end() -> None:
    """End the process that the others are forks of, if there is one."""
    if _server.cache_info().currsize:
        _server().communicate()
        _server.cache_clear()


def serve() -> dict[str, object]:
    """Fork for each request that comes in, and answer when that process has ended; return, in the fork, its request."""
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            return json.loads(line)
        _, status, spent = os.wait4(child, 0)
        answer = {"code": os.waitstatus_to_exitcode(status), "used": spent.ru_utime + spent.ru_stime}
        print(json.dumps(answer), flush=True)
    sys.exit()


def become(arguments: list[str], folder: str, environment: dict[str, str], printed: str) -> None:
    """Be what `python -m` with these arguments would be."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for name, path, number, flags in (
        ("stdin", os.devnull, 0, os.O_RDONLY),
        ("stdout", printed, 1, os.O_WRONLY | os.O_APPEND),
        ("stderr", printed, 2, os.O_WRONLY | os.O_APPEND),
    ):
        file = os.open(path, flags)
        os.dup2(file, number)
        os.close(file)
        stream = os.fdopen(number, "w" if number else "r", encoding="utf-8", buffering=1, closefd=False)
        setattr(sys, name, stream)
    sys.argv = ["-m", *arguments[1:]]
    sys.orig_argv = [sys.executable, "-m", *arguments]
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[0:1] = [folder, *paths]
    for path in paths:
        if (custom := Path(path) / "sitecustomize.py").is_file():
            runpy.run_path(str(custom))
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for module in SLOW:
        with suppress(ImportError):
            importlib.import_module(module)
    become(**serve())
