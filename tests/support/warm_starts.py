"""Start Python programs from a process that has imported what is slow to import, and none of the project's modules.

Each start is a fork of that process: a program with its own folder, variables, arguments and open files, to which no
earlier start is visible. It takes what the program itself takes, without the seconds in which torch and Snakemake are
imported. Variables that Python obeys while it starts (PYTHONUTF8, LC_ALL) come too late for it.
"""

import atexit
import ctypes
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import warm_client

#: Modules of other projects that Snakemake and the pipeline import.
SLOW = [
    "snakemake.cli",
    "snakemake.report.html_reporter",
    "smart_open",
    "yte",
    "snakemake_executor_plugin_cluster_generic",
    "snakemake_executor_plugin_slurm",
    "snakemake_executor_plugin_slurm_jobstep",
    "torch",
    "torch._dynamo",
    "torch.export",
    "torch.distributed",
    "scipy.linalg",
    "scipy.optimize",
    "scipy.sparse.linalg",
    "scipy.spatial",
    "scipy.special",
    "scipy.stats",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "pandas",
    "PIL.Image",
    "psutil",
    "pyarrow.csv",
    "pydantic",
    "safetensors.torch",
    "sklearn.datasets",
    "jinja2",
    "mpi4py",
]
#: Open files are passed under numbers from here on, so that none meets one that it is to take the place of.
FIRST_NUMBER = 500


def run_python(
    arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run `python` with these arguments in a folder; return its exit code and, as `stdout`, all that it printed.

    What the program itself starts as `python`, or as `sys.executable`, starts in the same way.
    """
    path = f"{folder_of_programs()}:{Path(sys.executable).parent}:{environment['PATH']}"
    with tempfile.TemporaryFile(prefix="warm") as printed, open(os.devnull) as nothing:
        files = {0: nothing.fileno(), 1: printed.fileno(), 2: printed.fileno()}
        code = warm_client.run(_address(), arguments, str(folder), {**environment, "PATH": path}, files)
        printed.seek(0)
        return subprocess.CompletedProcess(arguments, code, printed.read().decode())


@cache
def folder_of_programs() -> str:
    """Return a folder that holds a `python` whose modules and scripts start warm, to stand first in a PATH."""
    folder = Path(_address()).parent / "bin"
    folder.mkdir()
    words = [sys.executable, "-I", "-S", warm_client.__file__, sys.executable, _address()]
    (folder / "python").write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    (folder / "python").chmod(0o755)
    return str(folder)


def used() -> float:
    """Return the processor seconds of all programs that were started here and have ended."""
    if not _server.cache_info().currsize:
        return 0.0
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(_address())
        server.sendall(b"?")
        return float(server.makefile().readline())


def _address() -> str:
    return _server()[1]


@cache
def _server() -> tuple[subprocess.Popen[str], str]:
    """Start the process that the others are forks of; return it, and the socket on which it listens."""
    folder = tempfile.mkdtemp(prefix="warm")
    address = f"{folder}/socket"
    process = subprocess.Popen(
        [sys.executable, __file__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process, address


def end() -> None:
    """End the process that the others are forks of, if there is one."""
    if _server.cache_info().currsize:
        process, address = _server()
        process.communicate()
        shutil.rmtree(Path(address).parent)


def serve(address: str) -> dict:
    """Fork for each request that comes in; return, in the fork, what it asks for. End with the standard input."""
    # Tests may have been started with interrupts ignored; no program is to inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    spent, (told, tell) = 0.0, os.pipe()
    with socket.create_server(address, family=socket.AF_UNIX, backlog=64) as listener:
        print("ready", flush=True)
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            kind, descriptors, *_ = socket.recv_fds(connection, 1, 250)
            if kind == b"+" and os.fork() == 0:
                listener.close()
                os.close(told)
                return keep(connection, descriptors, tell)
            for descriptor in descriptors:
                os.close(descriptor)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if kind == b"?":
                os.write(tell, b"\n")
                spent += sum(map(float, os.read(told, 1 << 16).split()))
                connection.sendall(f"{spent}\n".encode())
            connection.close()
    sys.exit()


def keep(connection: socket.socket, descriptors: list[int], tell: int) -> dict:
    """Fork a program and tell how it ends; return, in the fork, what it is to be. It ends when nobody waits for it.

    The processor seconds of the program, and of all that it waited for, are written to the file `tell`.
    """
    request = json.loads(connection.makefile().readline())
    if (child := os.fork()) == 0:
        connection.close()
        os.close(tell)
        moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, FIRST_NUMBER) for descriptor in descriptors]
        for descriptor in descriptors:
            os.close(descriptor)
        for descriptor, number in zip(moved, request.pop("numbers"), strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        return request
    for descriptor in descriptors:
        os.close(descriptor)
    connection.sendall(f"{child}\n".encode())

    def end_with_the_asker() -> None:
        connection.recv(1)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)

    threading.Thread(target=end_with_the_asker, daemon=True).start()
    _, status, spent = os.wait4(child, 0)
    os.write(tell, f"{spent.ru_utime + spent.ru_stime}\n".encode())
    with suppress(OSError):
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def become(python: Path, arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Be what `python` with these arguments would be, which begin with `-m` or the path of a script."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = os.fdopen(number, "w" if number else "r", encoding="utf-8", buffering=1, closefd=False)
        setattr(sys, name, stream)
    sys.executable = str(python)
    sys.orig_argv = [sys.executable, *arguments]
    is_module = arguments[0] == "-m"
    sys.argv = arguments[is_module:]
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[0:1] = [folder if is_module else str(Path(sys.argv[0]).parent.resolve()), *paths]
    for path in paths:
        if (custom := Path(path) / "sitecustomize.py").is_file():
            runpy.run_path(str(custom))
    if is_module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


def end_at_once(code: int) -> None:
    """Do all that a program does at its end but freeing its objects one by one, which would copy the memory of all."""
    threading._shutdown()
    atexit._run_exitfuncs()
    under_mpiexec = "mpi4py.MPI" in sys.modules and "PMI_RANK" in os.environ
    if "mpi4py.MPI" in sys.modules and not sys.modules["mpi4py.MPI"].Is_finalized():
        sys.modules["mpi4py.MPI"].Finalize()
    sys.stdout.flush()
    sys.stderr.flush()
    libc = ctypes.CDLL(None)
    if under_mpiexec:
        libc.exit(code)  # MPICH takes its leave of mpiexec here
    libc.fflush(None)
    os._exit(code)


def code_of(ending: SystemExit) -> int | None:
    """Return the exit code that a program ends with; None of one that Python itself has to end.

    That is one with a text in place of a code, or one that failed while others may wait for it.
    """
    code = ending.code or 0
    return code if isinstance(code, int) and not (code and "mpi4py.MPI" in sys.modules) else None


if __name__ == "__main__":
    for module in SLOW:
        with suppress(ImportError):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # what is not looked at again is not copied
    request = serve(sys.argv[1])
    try:
        become(Path(sys.argv[1]).parent / "bin" / "python", **request)
    except SystemExit as ending:
        if (code := code_of(ending)) is None:
            raise
        end_at_once(code)
    end_at_once(0)
