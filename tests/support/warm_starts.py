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
from collections import Counter
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
#: Variable with the folder of a process that several processes of pytest share, and with the name of one of these.
SHARED, ASKER = "WARM_STARTS", "PYTEST_XDIST_WORKER"

_held: list[int] = []


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


def folder_of_programs() -> str:
    """Return a folder with a `python` whose modules and scripts start warm; it should come first in a PATH."""
    return str(Path(_address()).parent / "bin")


def share() -> None:
    """Let all processes that this one starts fork their programs from one process, which ends when this one does.

    Who asks first starts it: the modules take as long to import as a dozen programs to run. It reads from a pipe that
    only this process holds open.
    """
    folder = tempfile.mkdtemp(prefix="warm")
    os.mkfifo(f"{folder}/held")
    _held.append(os.open(f"{folder}/held", os.O_RDWR))
    os.environ[SHARED] = folder


def end() -> None:
    """End the process that the others are forked from, if this process shared one."""
    for descriptor in _held:
        os.close(descriptor)
        shutil.rmtree(os.environ.pop(SHARED), ignore_errors=True)
    _held.clear()


def used() -> float:
    """Return the processor seconds of all programs that this process of pytest had started here and that have ended."""
    if not _address.cache_info().currsize:
        return 0.0
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(_address())
        server.sendall(f"?{os.environ.get(ASKER, '')}\n".encode())
        return float(server.makefile().readline())


@cache
def _address() -> str:
    """Return the socket of the process that programs are forked from; start that process if nobody has."""
    if SHARED not in os.environ:
        share()
    folder = Path(os.environ[SHARED])
    address = str(folder / "socket")
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "bin").exists():
            subprocess.run(
                [sys.executable, __file__, address], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"},
            )  # fmt: skip
            (folder / "bin").mkdir()
            words = [sys.executable, "-I", "-S", warm_client.__file__, sys.executable, address]
            (folder / "bin" / "python").write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
            (folder / "bin" / "python").chmod(0o755)
    return address


def held_pipe(folder: Path) -> int:
    """Open the pipe of the process that shares this one; exit if nobody holds it open any more."""
    held = os.open(folder / "held", os.O_RDONLY | os.O_NONBLOCK)
    with suppress(BlockingIOError):  # what an open pipe without a byte raises
        os.read(held, 1)
        sys.exit()
    return held


def serve(address: str, held: int, ready: int) -> dict:
    """Fork for each incoming request; return the request in the fork. Ends when nobody holds the pipe `held` open.

    A byte to the file `ready` tells that requests are listened to.
    """
    # Tests may have been started with interrupts ignored; programs must not inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    spent, (told, tell) = Counter[str](), os.pipe()
    os.set_blocking(told, False)

    def count() -> None:
        """Add what ended programs have told; a full pipe would hold them up."""
        with suppress(BlockingIOError):
            for line in os.read(told, 1 << 16).decode().splitlines():
                asker, _, seconds = line.rpartition(" ")
                spent[asker] += float(seconds)

    # The name appears with a server behind it, also where one that nobody waited for has taken it.
    own = f"{address}.{os.getpid()}"
    with socket.create_server(own, family=socket.AF_UNIX, backlog=64) as listener:
        os.rename(own, address)
        os.write(ready, b"+")
        os.close(ready)
        while held not in (changed := select.select([listener, held, told], [], [])[0]):
            count()
            if listener not in changed:
                continue
            connection, _ = listener.accept()
            kind, descriptors, *_ = socket.recv_fds(connection, 1, 250)
            if kind == b"+" and os.fork() == 0:
                listener.close()
                os.close(held)
                os.close(told)
                return keep(connection, descriptors, tell)
            for descriptor in descriptors:
                os.close(descriptor)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if kind == b"?":
                count()
                asker = connection.makefile().readline().strip()
                connection.sendall(f"{spent[asker]}\n".encode())
            connection.close()
    sys.exit()


def keep(connection: socket.socket, descriptors: list[int], tell: int) -> dict:
    """Fork a program and report how it ends; return, in the fork, its request. It ends when nobody waits for it.

    The processor seconds of the program, and of all processes that it waited for, are written to the file `tell`.
    """
    request = json.loads(connection.makefile().readline())
    asker = request["environment"].get(ASKER, "")
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
    os.write(tell, f"{asker} {spent.ru_utime + spent.ru_stime}\n".encode())
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
    # The process that others are forked from is nobody's child, since it may outlive the one that asked for it first.
    from_child, ready = os.pipe()
    if os.fork():
        os.close(ready)
        sys.exit(os.read(from_child, 1) != b"+")
    os.close(from_child)
    held = held_pipe(Path(sys.argv[1]).parent)
    for module in SLOW:
        with suppress(ImportError):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # objects that the collector leaves alone are not copied
    request = serve(sys.argv[1], held, ready)
    try:
        become(Path(sys.argv[1]).parent / "bin" / "python", **request)
    except SystemExit as ending:
        if (code := code_of(ending)) is None:
            raise
        end_at_once(code)
    end_at_once(0)
