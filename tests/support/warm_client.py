"""Make the process of `warm_starts.py` run a Python program, and behave like that program.

A program that is started as `python` through `warm_starts.folder_of_programs()` is this file. It imports little, since
it runs whenever such a program starts.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress


def run(
    address: str, arguments: Sequence[str], folder: str, environment: dict, descriptors: dict[int, int], *,
    in_its_place: bool = False,
) -> int:  # fmt: skip
    """Run `python` with these arguments; return its exit code, or the signal that ended it as a negative number.

    Args:
        descriptors: The program's open files: its number of each, and the number in this process.
        in_its_place: Whether signals to this process are meant for the program.
    """
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [b"+"], [*descriptors.values()])
        request = {
            "arguments": [*arguments], "folder": folder, "environment": environment, "numbers": [*descriptors]
        }  # fmt: skip
        server.sendall(json.dumps(request).encode() + b"\n")
        with server.makefile("r") as answers:
            process = int(answers.readline())

            def pass_on(number: int, _frame: object) -> None:
                with suppress(ProcessLookupError):
                    os.kill(process, number)

            if in_its_place:
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    signal.signal(number, pass_on)
            return int(answers.readline())


def main(python: str, address: str, *arguments: str) -> None:
    if arguments[:1] == ("-u",):  # programs that start warm write line by line anyway
        arguments = arguments[1:]
    # Only modules and scripts start warm: no program text after -c, and no other options of Python's own.
    if not arguments or (arguments[0].startswith("-") and arguments[0] != "-m"):
        os.execv(python, [python, *arguments])
    here = {number: number for number in map(int, os.listdir("/dev/fd")) if is_open(number)}
    code = run(address, arguments, os.getcwd(), dict(os.environ), here, in_its_place=True)
    if code < 0:
        if code != -signal.SIGKILL:  # SIGKILL has no handler to set
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def is_open(number: int) -> bool:
    """Whether a listed number still belongs to an open file; the listing itself had one open."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
