"""A pytest plugin: put the native routines that were built with the address sanitizer in the place of the others."""

import importlib.util
import os
import sys
from pathlib import Path

NAME = "pipeline.precision._native"
[path] = Path(os.environ["SANITIZED"], "pipeline", "precision").glob("_native.*.so")
if b"__asan_init" not in path.read_bytes():
    raise SystemExit(f"{path} was built without the address sanitizer; make clean, then make test-native")
spec = importlib.util.spec_from_file_location(NAME, path)
sys.modules[NAME] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[NAME])
