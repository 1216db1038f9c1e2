"""Nothing that this program reads can run code: no pickle is loaded but by torch's reader that takes only tensors."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {
    "torch.load",
    "torch.save",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "pandas.read_pickle",
}


def sources():
    return [path for folder in ("src", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]


def offences(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            yield node.module
        elif isinstance(node, ast.Call):
            arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            tensors_only = ast.unparse(node.func) == "torch.load" and arguments.get("weights_only") == "True"
            if ast.unparse(node.func) in FORBIDDEN_CALLS | {"eval", "exec"} and not tensors_only:
                yield ast.unparse(node.func)
            for keyword in node.keywords:
                if keyword.arg == "shell" or (
                    keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False"
                ):
                    yield f"{keyword.arg}={ast.unparse(keyword.value)}"


def test_no_module_loads_a_pickle_or_runs_text():
    found = {str(path.relative_to(ROOT)): list(offences(ast.parse(path.read_text()))) for path in sources()}
    assert {path: what for path, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "text", ["import pickle", "from joblib import load", "torch.load(f)",
             "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)", "eval(x)",
             "subprocess.run(x, shell=True)"],
)  # fmt: skip
def test_what_would_is_seen(text):
    assert list(offences(ast.parse(text)))


def test_tensors_alone_may_be_read_from_a_pickle():
    assert not list(offences(ast.parse("torch.load(f, weights_only=True)")))
