"""The page that follows one box's record names what is in the code."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "divided.md"


def test_every_name_of_the_walk_is_in_a_file_that_it_names():
    text = PAGE.read_text(encoding="utf-8")
    names = re.findall(r"`([^`]+)`", text)
    files = [ROOT / "src" / "pipeline" / name for name in names if name.startswith("hmatrix/")]
    assert len(files) == 19
    code = "\n".join(file.read_text(encoding="utf-8") for file in files)
    parts = {part for name in names if not name.startswith("hmatrix/") for part in re.findall(r"\w+", name)}
    assert len(parts) > 20
    missing = {part for part in parts if not re.search(rf"\b{part}\b", code, re.IGNORECASE)}
    assert not missing
