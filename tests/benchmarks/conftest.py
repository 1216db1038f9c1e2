import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmark_folder(monkeypatch):
    """Benchmarks are scripts: their own folder comes first on the path when they run."""
    monkeypatch.syspath_prepend(FOLDER)
    yield
    for name in (
        "_architectures",
        "_frame",
        "_machine",
        "_training_steps",
        "pipeline_benchmark",
        "gaussian_process",
        "precision",
        "training",
        "peers",
        "peers.engines",
        "peers.kfac_pytorch",
        "peers.hmat_oss",
    ):
        sys.modules.pop(name, None)
