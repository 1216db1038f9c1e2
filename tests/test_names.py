"""A name means one thing in the whole package."""

import ast
from collections import defaultdict
from pathlib import Path

SRC = Path(__file__).parents[1] / "src"
#: Nouns that are written down twice, since callers of either know only one: what solves with a matrix, and what the
#: random numbers of a core are for.
TWICE = {"Factorization", "Purpose"}


def types_of(path):
    """The names of a module's classes, and those of its aliases of types, which are capitalized words."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            yield "class", node.name
        elif isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Name):
            word = target.id
            if word[0].isupper() and not word.isupper():
                yield "alias", word


def test_no_two_classes_have_one_name_and_no_alias_has_that_of_a_class():
    found = defaultdict(list)
    for path in sorted(SRC.rglob("*.py")):
        for kind, name in types_of(path):
            if not name.startswith("_"):
                found[name].append((kind, str(path.relative_to(SRC))))
    assert "H2Matrix" in found
    twice = {
        name: places
        for name, places in found.items()
        if len(places) > 1 and ("class" in dict(places)) and name not in TWICE
    }
    assert twice == {}
