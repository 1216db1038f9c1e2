"""Start Python programs from a process that has imported slow modules, but none of the project's own.

Each start is a fork of that process: a program with its own folder, variables, arguments and open files, which sees no
earlier start. It takes as long as the program itself, without the seconds for importing torch and Snakemake. Variables
that Python reads while it starts (PYTHONUTF8, LC_ALL) come too late.
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
#: Open files are passed under numbers from here on, so that none has a number that another one is to get.
FIRST_NUMBER = 500


def run_python(
    arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run `python` with these arguments in a folder; return its exit code and, as `stdout`, everything that it printed.

    Programs that it starts as `python`, or as `sys.executable`, start in the same way.
    """
    path = f"{folder_of_programs()}:{Path(sys.executable).parent}:{environment['PATH']}"
    with tempfile.TemporaryFile(prefix="warm") as printed, open(os.devnull) as nothing:
        files = {0: nothing.fileno(), 1: printed.fileno(), 2: printed.fileno()}
        code = warm_client.run(_address(), arguments, str(folder), {**environment, "PATH": path}, files)
        printed.seek(0)
        return subprocess.CompletedProcess(arguments, code, printed.read().decode())


@cache
def folder_of_programs() -> str:
    """Return a folder with a `python` whose modules and scripts start warm; it should come first in a PATH."""
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
    """Start the process that the others are forked from; return it, and the socket on which it listens."""
    folder = tempfile.mkdtemp(prefix="warm")
    address = f"{folder}/socket"
    process = subprocess.Popen(
        [sys.executable, __file__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process, address


def end() -> None:
    """End the process that the others are forked from, if there is one."""
    if _server.cache_info().currsize:
        process, address = _server()
        process.communicate()
        shutil.rmtree(Path(address).parent)


def serve(address: str) -> dict:
    """Fork for each incoming request; return the request in the fork. Ends when the standard input closes."""
    # Tests may have been started with interrupts ignored; programs must not inherit that.
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
    """Fork a program and report how it ends; return, in the fork, its request. It ends when nobody waits for it.

    The processor seconds of the program, and of all processes that it waited for, are written to the file `tell`.
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
    """Become what `python` with these arguments would be; they begin with `-m` or the path of a script."""
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
    """Do everything that a program does at its end, except freeing objects one by one, which would copy all memory."""
    threading._shutdown()
    atexit._run_exitfuncs()
    under_mpiexec = "mpi4py.MPI" in sys.modules and "PMI_RANK" in os.environ
    if "mpi4py.MPI" in sys.modules and not sys.modules["mpi4py.MPI"].Is_finalized():
        sys.modules["mpi4py.MPI"].Finalize()
    sys.stdout.flush()
    sys.stderr.flush()
    libc = ctypes.CDLL(None)
    if under_mpiexec:
        libc.exit(code)  # MPICH signs off from mpiexec here
    libc.fflush(None)
    os._exit(code)


def code_of(ending: SystemExit) -> int | None:
    """Return the exit code that a program ends with; None where Python itself has to end it.

    Python has to end it if there is a text in place of a code, or if it failed while others may wait for it.
    """
    code = ending.code or 0
    return code if isinstance(code, int) and not (code and "mpi4py.MPI" in sys.modules) else None


if __name__ == "__main__":
    for module in SLOW:
        with suppress(ImportError):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # objects that the collector leaves alone are not copied
    request = serve(sys.argv[1])
    try:
        become(Path(sys.argv[1]).parent / "bin" / "python", **request)
    except SystemExit as ending:
        if (code := code_of(ending)) is None:
            raise
        end_at_once(code)
    end_at_once(0)
