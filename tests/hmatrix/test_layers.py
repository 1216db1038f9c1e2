import ast
from pathlib import Path

from pipeline import hmatrix

FOLDER = Path(hmatrix.__file__).parent
FILES = [path for path in sorted(FOLDER.rglob("*.py")) if path.name != "__init__.py"]


def imports_of(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def test_our_modules_are_imported_at_the_top_and_never_through_the_package_that_imports_them():
    modules = {file.stem for file in FOLDER.glob("*.py")} | {file.name for file in FOLDER.iterdir()}
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in imports_of(tree):
            name = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            if name and name.startswith("pipeline"):
                assert node in tree.body, f"{path}, line {node.lineno}: {name} is imported late"
            if name == "pipeline.hmatrix":
                assert {alias.name for alias in node.names} <= modules | {"_native"}, (
                    f"{path}, line {node.lineno}"
                )
