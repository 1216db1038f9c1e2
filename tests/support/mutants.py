"""Change one place of a module at a time, and tell which changes no test notices.

    python tests/support/mutants.py MODULE TESTS... [--every N] [--seconds S]

A mutant swaps an operator, negates a condition, adds one to a number or inverts a truth value. It exists only in
memory; the file stays as it is. Each mutant is tried in a fork of this process, which has already imported slow
modules. A mutant that survives shows a line that the tests run and do not check, or a change that changes nothing.
"""

import argparse
import ast
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import scipy.linalg  # noqa: F401  # for the forks
import torch  # noqa: F401

SWAPPED: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Yield the places that can be changed, each with the name of its change; texts and types are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Raise | ast.JoinedStr) or (
            isinstance(node, ast.keyword) and node.arg == "strict"
        ):
            continue  # error texts are no behavior, and a strict zip only refuses what never occurs
        if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPPED:
            yield node, f"{type(node.op).__name__} to {SWAPPED[type(node.op)].__name__}"
        if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
            yield node, f"{type(node.ops[0]).__name__} to {SWAPPED[type(node.ops[0])].__name__}"
        if isinstance(node, ast.If | ast.IfExp | ast.While):
            yield node, "condition negated"
        if isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
            yield node, f"{node.value} changed"
        annotations = {id(part) for name in ("annotation", "returns") if (part := getattr(node, name, None))}
        kept = [child for child in ast.iter_child_nodes(node) if id(child) not in annotations]
        yield from places(ast.Module(kept, []) if annotations else node)


def change(node: ast.AST) -> None:
    """Change a place permanently."""
    if isinstance(node, ast.BinOp | ast.BoolOp):
        node.op = SWAPPED[type(node.op)]()
    elif isinstance(node, ast.Compare):
        node.ops[0] = SWAPPED[type(node.ops[0])]()
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Constant):
        node.value = not node.value if isinstance(node.value, bool) else node.value + 1


class Mutant(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Load the module with one of its places changed, instead of the module."""

    def __init__(self, module: str, path: str, number: int) -> None:
        super().__init__(module, path)
        self.number = number

    def find_spec(self, name, _path=None, _target=None):
        return (
            importlib.util.spec_from_file_location(name, self.path, loader=self)
            if name == self.name
            else None
        )

    def get_code(self, _name):
        tree = ast.parse(Path(self.path).read_text())
        change(list(places(tree))[self.number][0])
        return compile(ast.fix_missing_locations(tree), self.path, "exec")


def survives(module: str, path: str, number: int, tests: list[str], seconds: int) -> bool:
    """Whether all tests pass with a mutant; a mutant that does not end in so many seconds counts as noticed."""
    if (child := os.fork()) == 0:
        signal.alarm(seconds)
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
        if number >= 0:
            sys.meta_path.insert(0, Mutant(module, path, number))
        os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
    return os.waitpid(child, 0)[1] == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module", help="as it is imported: pipeline.training.kronecker")
    parser.add_argument("tests", nargs="+", help="files of tests that are to notice")
    parser.add_argument("--every", type=int, default=1, help="try each N-th place only")
    parser.add_argument("--seconds", type=int, default=120, help="how long the tests may take")
    options = parser.parse_args()
    path = Path("src", *options.module.split(".")).with_suffix(".py")
    if not survives(options.module, str(path), -1, options.tests, options.seconds):
        print("the tests fail without any change, or take longer; look with pytest", file=sys.stderr)
        return 2
    found = list(places(ast.parse(path.read_text())))[:: options.every]
    survivors = 0
    for number, (node, words) in enumerate(found):
        if survives(options.module, str(path), number * options.every, options.tests, options.seconds):
            survivors += 1
            print(f"{path}:{node.lineno}:{node.col_offset + 1}: survives: {words}", flush=True)
    print(f"{len(found)} mutants of {options.module}, {len(found) - survivors} noticed, {survivors} survive")
    return 0


if __name__ == "__main__":
    sys.exit(main())
