import os
from ast import parse as ast_parse

import pytest

from pipeline.runtime import code_digest as module
from pipeline.runtime.code_digest import code_digest, modules_behind


@pytest.fixture
def tree(tmp_path):
    """A package with a stage that needs `science` through a relative import, and another that doesn't."""
    for path, text in {
        "pipeline/__init__.py": "",
        "pipeline/stages/__init__.py": "",
        "pipeline/stages/a.py": "def run():\n    from ..science import f\n    return f()\n",
        "pipeline/stages/b.py": "import json\n",
        "pipeline/science/__init__.py": '"""Doc."""\nfrom .core import f\n',
        "pipeline/science/core.py": 'def f():\n    """Doc."""\n    return 1  # comment\n',
        "pipeline/science/native/f.cpp": "int f;",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def digests(root):
    for found in (module._file_of, module._read, module._beside):
        found.cache_clear()
    return code_digest("pipeline.stages.a", root), code_digest("pipeline.stages.b", root)


def test_modules_are_found_through_functions_and_relative_imports(tree):
    assert modules_behind("pipeline.stages.a", tree) == [
        "pipeline",
        "pipeline.science",
        "pipeline.science.core",
        "pipeline.stages",
        "pipeline.stages.a",
    ]


def test_comments_docstrings_and_layout_do_not_count(tree):
    before = digests(tree)
    (tree / "pipeline/science/core.py").write_text(
        'def f():\n    """Other."""\n\n    # why\n    return (1)\n'
    )
    assert digests(tree) == before


def test_a_version_number_does_not_count(tree):
    before = digests(tree)
    (tree / "pipeline/__init__.py").write_text('__version__ = "0.2.0"\n')
    assert digests(tree) == before


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("science/core.py", "def f():\n    return 2\n"),
        ("science/native/f.cpp", "int g;"),
        ("stages/a.py", "x = 1\n"),
    ],
)
def test_a_change_of_meaning_counts_for_the_stages_that_need_it(tree, file, text):
    before = digests(tree)
    (tree / "pipeline" / file).write_text(text)
    after = digests(tree)
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_an_unchanged_file_is_not_parsed_again_and_gives_the_same_digest(tree, monkeypatch):
    monkeypatch.setattr(module.sys, "dont_write_bytecode", False)
    first = digests(tree)
    parsed = []
    monkeypatch.setattr(
        module.ast, "parse", lambda source, *rest: parsed.append(source) or ast_parse(source, *rest)
    )
    assert digests(tree) == first
    assert parsed == []
    # The same length and date: it is the content that decides.
    file = tree / "pipeline/science/core.py"
    before = file.stat()
    file.write_text(file.read_text().replace("return 1", "return 2"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digests(tree)[0] != first[0]
    assert parsed == [file.read_bytes()]


def test_kept_files_that_are_damaged_or_may_not_be_written_change_nothing(tree, monkeypatch):
    monkeypatch.setattr(module.sys, "dont_write_bytecode", True)
    first = digests(tree)
    assert not list(tree.rglob("*.meaning.json"))
    monkeypatch.setattr(module.sys, "dont_write_bytecode", False)
    assert digests(tree) == first
    kept = sorted(tree.rglob("*.meaning.json"))
    assert len(kept) == 6
    for file, text in zip(kept, ["", "[]", "{}", "null", '{"key": 1}', "\0"], strict=True):
        file.write_text(text)
    assert digests(tree) == first


def test_an_unknown_module_is_refused(tree):
    with pytest.raises(ValueError, match="no module"):
        code_digest("pipeline.stages.gone", tree)
