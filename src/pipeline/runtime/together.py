"""Failures that all processes share: if one process fails, all end with one line, and none keeps waiting."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

from pipeline.errors import ArtifactError, ConfigError, ConvergenceError
from pipeline.runtime.communicator import Communicator

_ERRORS = ArtifactError, ConfigError, ConvergenceError, TypeError, ValueError, ZeroDivisionError, MemoryError
_KINDS: dict[str, type[Exception]] = {kind.__name__: kind for kind in _ERRORS}

_ORDER = "call the same methods in the same order on all processes"
_ALIKE = "{"  # first letter of the text from `require_alike`, and of no failure
_SYSTEM = "errno "  # before the number of an error of the system, such as a full disk


def gather_text(communicator: Communicator, text: str) -> list[str]:
    """Return the text of every process, in order; collective."""
    letters = torch.from_numpy(np.frombuffer(text.encode(), np.uint8).copy())
    return [letter.numpy().tobytes().decode() for letter in communicator.all_gather(letters)]


def _told(failure: BaseException) -> str:
    """Return a failure as text for the other processes: its kind and its message."""
    if isinstance(failure, OSError) and failure.errno:
        where = "" if failure.filename is None else f": {failure.filename}"
        return f"{_SYSTEM}{failure.errno}\n{failure.strerror}{where}"
    names = [kind.__name__ for kind in type(failure).__mro__]
    name = next((name for name in names if name in _KINDS), names[0])
    return f"{name}\n{' '.join(str(failure).split())}"


@contextmanager
def together(communicator: Communicator) -> Iterator[None]:
    """Run a block that is not collective, and raise on all processes if it fails on one; collective.

    The first process that failed raises its own exception. The others raise one of the same type, if users can act on
    it, or else a RuntimeError; it names the first process. An interruption of one process, such as Ctrl-C, ends all.
    """
    failure: BaseException | None = None
    try:
        yield
    except BaseException as caught:
        failure = caught
    told = gather_text(communicator, "" if failure is None else _told(failure))
    for rank, text in enumerate(told):
        if not text:
            continue
        if failure is not None and (rank == communicator.rank or not isinstance(failure, Exception)):
            raise failure
        if text.startswith(_ALIKE):
            raise ConfigError(f"process {rank} does not do what process {communicator.rank} does: {_ORDER}")
        name, _, reason = text.partition("\n")
        if name.startswith(_SYSTEM):
            raise OSError(int(name.removeprefix(_SYSTEM)), f"process {rank}: {reason}")
        kind = _KINDS.get(name, RuntimeError)
        words = [name, reason] if kind is RuntimeError else [reason or name]
        raise kind(f"process {rank}: {': '.join(word for word in words if word)}")


def require_alike(communicator: Communicator, values: Mapping[str, object]) -> None:
    """Raise ConfigError on all processes unless all have passed the same values under the same names; collective.

    Values are numbers, texts, lists and None; anything else is compared by its text.
    """
    told = json.dumps(values, default=_plain)
    texts = gather_text(communicator, told)
    for rank, text in enumerate(texts):
        if not text.startswith(_ALIKE):
            raise ConfigError(f"process {rank} does not do what process {communicator.rank} does: {_ORDER}")
    everybodys = [json.loads(text) for text in texts]
    for rank, theirs in enumerate(everybodys):
        if theirs.keys() != everybodys[0].keys():
            raise ConfigError(
                f"process 0 passes {', '.join(everybodys[0])} and process {rank} passes {', '.join(theirs)}: {_ORDER}"
            )
        for name, value in everybodys[0].items():
            if theirs[name] != value:
                raise ConfigError(
                    f"{name}: process 0 passes {value} and process {rank} {theirs[name]}; "
                    "pass the same on all processes"
                )


def _plain(value: object) -> object:
    """Return a number of NumPy or torch as a Python number, and anything else as text.

    It never fails: a process that failed here would leave the others waiting.
    """
    item = getattr(value, "item", None)
    try:
        return item() if callable(item) else repr(value)
    except (TypeError, ValueError, RuntimeError):
        return repr(value)
