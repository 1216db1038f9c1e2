"""Each numbered example runs as it stands, and draws its picture."""

import runpy
from pathlib import Path

import matplotlib
import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("ex[0-9][0-9]_*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_draws_its_picture(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    runpy.run_path(str(example), run_name="__main__")
    assert (tmp_path / f"{example.stem}.png").stat().st_size > 0


def test_examples_are_short_enough_to_read():
    assert max(len(example.read_text().splitlines()) for example in EXAMPLES) < 60
