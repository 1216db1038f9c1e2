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

def steps(n):
    for _ in range(n):
        held = [torch.ones(5_000_000) for _ in range(5)]
        del held

assert keep_freed_memory()
steps(3)
before = faults()
steps(5)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_memory_that_comes_again_costs_no_page_faults():
    # Without, up to 4883 pages for each of five tensors in each of five steps; how many, the layout of memory decides.
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 4883
