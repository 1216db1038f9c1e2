import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
import torch
from pipeline.runtime.memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    before = faults()
    held = [torch.ones(n * 250_000) for n in range(1, 25)]  # 1 to 24 MB
    del held
    return faults() - before

assert keep_freed_memory()
print(step(), step())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_memory_that_comes_again_costs_few_page_faults():
    # Without, the second step has as many as the first; with, at most a sixth, as the layout of memory decides.
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    first, second = map(int, done.stdout.split())
    assert second < first / 3
