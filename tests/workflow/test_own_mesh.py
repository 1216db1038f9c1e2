"""A mesh of one's own, from its file through `new` and snakemake to the page."""

import meshio
import pytest
import yaml

from pipeline.data.meshes import sphere_mesh

pytestmark = pytest.mark.workflow


def test_a_mesh_comes_to_its_page_in_two_commands(workplace):
    vertices, triangles = sphere_mesh(2)
    meshio.Mesh(vertices, [("triangle", triangles)]).write(workplace.folder / "ball.stl")
    told = workplace.pipeline("new", "ball", "--from", "ball.stl")
    assert "ball.stl: 320 triangles, 162 vertices, 1 connected part, closed, which makes it a body" in told
    study = workplace.folder / "config/ball.yaml"
    workplace.write_study(yaml.safe_load(study.read_text()))
    workplace.snakemake()
    page = (workplace.folder / "results/ball/report/index.html").read_text()
    for words in (
        "A plane wave of wavenumber 1.9 is scattered by wave, a sound-soft surface",
        "triangles per wavelength", "The scattering cross-section is", "Far field f of the scattered wave",
        "Residual, compressed matrix",
    ):  # fmt: skip
        assert words in page
