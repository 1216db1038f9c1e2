import ast
from pathlib import Path

import pytest

from pipeline import hmatrix

FOLDER = Path(hmatrix.__file__).parent
FILES = [path for path in sorted(FOLDER.rglob("*.py")) if path.name != "__init__.py"]


def imports_of(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_our_modules_are_imported_at_the_top_and_never_through_the_package_that_imports_them(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = {file.stem for file in FOLDER.glob("*.py")} | {file.name for file in FOLDER.iterdir()}
    for node in imports_of(tree):
        name = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        if name and name.startswith("pipeline"):
            assert node in tree.body, f"line {node.lineno}: {name} is imported late"
        if name == "pipeline.hmatrix":
            assert {alias.name for alias in node.names} <= modules | {"_native"}, f"line {node.lineno}"
