"""A folder with everything that a checkout has, in which a test may run snakemake and change code and study."""

import compileall
import importlib.util
import shutil
from functools import cache
from pathlib import Path
from pkgutil import iter_modules

from pipeline import stages
from pipeline.runtime.code_digest import code_digest

ROOT = Path(__file__).resolve().parents[2]


@cache
def _compile_checkout() -> None:
    """Compile and digest the checkout's modules once, as a first run does; otherwise each copy would do so itself."""
    compileall.compile_dir(ROOT / "src", quiet=1)
    for stage in iter_modules(stages.__path__):
        code_digest(f"pipeline.stages.{stage.name}")


#: Lines that let a copy measure the machine only for a moment: its tests check what a run makes of its roofs.
MOMENTARY = {
    "precision/attained.py": (
        "SAMPLING = Sampling(n_samples=15, ",
        "SAMPLING = Sampling(n_samples=1, n_at_least=1, n_warm=1, ",
    ),
    "precision/roofline.py": ("seconds: float = 1.5) -> Roofs:", "seconds: float = 0.02) -> Roofs:"),
}
#: A line that makes figures and does not write them, which takes longer than all the rest of a page.
UNWRITTEN = {
    "report/drawing.py": (
        'FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})',
        "buffer.write('<svg viewBox=\"0 0 1 1\"></svg>')",
    )
}


def copy_checkout(folder: Path, *, figures: bool = False) -> None:
    """Copy everything that a study needs to run; Python finds the copy's modules with its `src` in PYTHONPATH.

    Args:
        figures: Whether pages have figures; what these look like is tested in tests/report.
    """
    _compile_checkout()
    for name in ("src", "workflow", "config", "profiles"):
        # With compiled modules, which keep their dates; files that another process is writing have a further suffix.
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc.*", "*.json.*"))
    for name, (line, other) in (MOMENTARY if figures else MOMENTARY | UNWRITTEN).items():
        path = folder / "src" / "pipeline" / name
        assert line in path.read_text()
        path.write_text(path.read_text().replace(line, other))
    for name in ("Snakefile", "CMakeLists.txt"):
        shutil.copy(ROOT / name, folder)
    (folder / "cluster").symlink_to("profiles/cluster")
    # An editable installation finds the checkout's modules before any path; here the copy's modules are wanted.
    (folder / "src" / "sitecustomize.py").write_text(
        "import sys\nsys.meta_path = [f for f in sys.meta_path if 'ScikitBuild' not in type(f).__name__]\n"
    )
    for native in ("pipeline.precision._native", "pipeline.hmatrix._native"):
        library = Path(importlib.util.find_spec(native).origin)
        shutil.copy(library, folder / "src" / Path(*native.split(".")[:-1]) / library.name)
