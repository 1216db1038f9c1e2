"""The table of operators, which the files beside this one fill."""

import inspect
from collections.abc import Callable
from typing import Any

OPERATORS: dict[str, Callable[..., Any]] = {}
ATTRIBUTES: dict[str, set[str]] = {}


class Refused(Exception):
    """A refusal of a node: what it has and what was wanted, without the node's name."""


def operator(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the function that computes an operator."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        keywords = {
            key
            for key, parameter in inspect.signature(function).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }
        for name in names:
            OPERATORS[name], ATTRIBUTES[name] = function, keywords
        return function

    return register


def plain(name: str, function: Callable[..., Any]) -> None:
    """Register an operator without attributes."""
    OPERATORS[name], ATTRIBUTES[name] = function, set()
