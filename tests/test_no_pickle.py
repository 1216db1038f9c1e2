"""Nothing that this program reads can run code: no pickle is loaded but by torch's reader that takes only tensors."""

import ast
import re
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


#: Words of which every offence holds one.
SUSPECT = re.compile(
    "|".join(
        [*FORBIDDEN_MODULES, *(name.split(".")[-1] for name in FORBIDDEN_CALLS), "eval", "exec", "shell"]
    )
)


def sources():
    return [path for folder in ("src", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]


def offences(text):
    for node in ast.walk(ast.parse(text)) if SUSPECT.search(text) else ():
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            yield node.module
        elif isinstance(node, ast.Call):
            if called(node.func) in FORBIDDEN_CALLS | {"eval", "exec"} and not loads_tensors_only(node):
                yield called(node.func)
            for keyword in node.keywords:
                if keyword.arg == "shell" or (
                    keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False"
                ):
                    yield f"{keyword.arg}={ast.unparse(keyword.value)}"


def called(function):
    """The name of a function as it is written, with dots; a part that is no name leaves an empty one."""
    if isinstance(function, ast.Attribute):
        return f"{called(function.value)}.{function.attr}"
    return function.id if isinstance(function, ast.Name) else ""


def loads_tensors_only(call):
    arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    return called(call.func) == "torch.load" and arguments.get("weights_only") == "True"


def test_no_module_loads_a_pickle_or_runs_text():
    found = {str(path.relative_to(ROOT)): list(offences(path.read_text())) for path in sources()}
    assert {path: what for path, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "text", ["import pickle", "from joblib import load", "torch.load(f)",
             "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)", "eval(x)",
             "subprocess.run(x, shell=True)"],
)  # fmt: skip
def test_what_would_is_seen(text):
    assert list(offences(text))


def test_tensors_alone_may_be_read_from_a_pickle():
    assert not list(offences("torch.load(f, weights_only=True)"))
