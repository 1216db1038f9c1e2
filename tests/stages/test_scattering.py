"""Task scattering, from a file of triangles to the page, against Mie's series."""

import json

import meshio
import numpy as np
import pytest
from launch import STAGES, launched
from scipy.special import eval_legendre, spherical_jn, spherical_yn

from pipeline.artifacts.store import Artifact
from pipeline.config.loading import validate
from pipeline.data.meshes import sphere_mesh
from pipeline.errors import ConfigError

K = 1.5


def section(points, **others):
    return {
        "points": points,
        "kernel": {"name": "helmholtz", "wavenumber": K},
        "task": "scattering",
        "compress": {"tolerance": 1e-5},
        **others,
    }


def mie(angles, condition):
    """The far field of a unit sphere: the series in Legendre polynomials of the angle from the wave."""
    orders = np.arange(25)
    derivative = condition == "hard"
    j = spherical_jn(orders, K, derivative=derivative)
    h = j + 1j * spherical_yn(orders, K, derivative=derivative)
    terms = (2 * orders + 1) * j / h * eval_legendre(orders, np.cos(np.radians(angles))[:, None])
    return 1j / K * terms.sum(axis=1)


def mie_cross_section(condition):
    orders = np.arange(25)
    derivative = condition == "hard"
    j = spherical_jn(orders, K, derivative=derivative)
    h = j + 1j * spherical_yn(orders, K, derivative=derivative)
    return 4 * np.pi / K**2 * float(((2 * orders + 1) * np.abs(j / h) ** 2).sum())


def solved(bench, name, matrix):
    bench.write_specs({"study": name, "matrices": {name: matrix}})
    inputs = {}
    for stage, made in (("points", "points"), ("compress", "operator"), ("solve", "solution")):
        spec = bench.folder / f"spec/{stage}/{name}.json"
        assert bench.run(stage, output=f"{stage}/{name}", spec=spec, **inputs) == 0
        inputs[made] = bench.manifest(f"{stage}/{name}")
    return Artifact.open(inputs["solution"], "solution")


@pytest.mark.parametrize("condition", ["soft", "hard"])
def test_a_sphere_scatters_as_mie_says_with_errors_that_fall_as_the_square_of_its_triangles(bench, condition):
    wave = {"condition": condition, "direction": [1.0, 2.0, -2.0]}
    errors, imbalances = [], []
    for refinements in (1, 2):
        points = {"name": "sphere", "refinements": refinements}
        found = solved(bench, f"ball{refinements}", section(points, wave=wave))
        exact = mie(found.array("angle"), condition)
        # The sphere looks alike in both planes.
        errors.append(float(np.abs(found.array("far_field") - exact).max() / np.abs(exact).max()))
        result = found.facts["result"]
        imbalances.append(result["power_imbalance"])
        assert result["forward"] == pytest.approx(float(np.abs(exact[0])), rel=2 * errors[-1])
        assert result["backward"] == pytest.approx(
            float(np.abs(exact[180])), abs=2 * errors[-1] * np.abs(exact).max()
        )
        # |f|² is off by at most twice as much as f where it is greatest, over the whole sphere.
        area = 4 * np.pi * float(np.abs(exact).max()) ** 2
        assert result["cross_section"] == pytest.approx(
            mie_cross_section(condition), abs=3 * errors[-1] * area
        )
    # Edges are halved, so that an error of second order is a quarter; a third leaves room for the next order.
    assert errors[1] < errors[0] / 3
    assert imbalances[1] < imbalances[0] / 3


@pytest.mark.mpi
def test_three_processes_scatter_as_one_does(bench):
    points = {"name": "sphere", "refinements": 1}
    waves = {
        condition: {"condition": condition, "direction": [1.0, 2.0, -2.0]} for condition in ("soft", "hard")
    }
    alone = {name: solved(bench, name, section(points, wave=wave)) for name, wave in waves.items()}
    stages = [
        bench.arguments(
            "solve", output=f"solve/{name}_shared", processes=3, spec=bench.folder / f"spec/solve/{name}.json",
            points=bench.manifest(f"points/{name}"), operator=bench.manifest(f"compress/{name}"),
        )
        for name in waves
    ]  # fmt: skip
    done = launched(3, STAGES, bench.folder, json.dumps(stages))
    assert done.returncode == 0, done.stdout + done.stderr
    for name, one in alone.items():
        three = Artifact.open(bench.manifest(f"solve/{name}_shared"), "solution")
        assert three.facts["solve"]["processes"] == 3
        # Both are within the tolerance of the compression.
        for array in ("solution", "far_field"):
            difference = np.abs(three.array(array) - one.array(array)).max()
            assert difference < 1e-4 * np.abs(one.array(array)).max()
        assert three.facts["result"]["cross_section"] == pytest.approx(
            one.facts["result"]["cross_section"], rel=1e-4
        )


def test_a_file_of_triangles_comes_to_a_page_with_its_far_field(bench, monkeypatch):
    monkeypatch.chdir(bench.folder)
    vertices, triangles = sphere_mesh(2)
    meshio.Mesh(vertices, [("triangle", triangles)]).write("ball.stl")
    found = solved(bench, "ball", section({"name": "mesh", "path": "ball.stl"}))
    solution = found.facts["solve"]
    assert solution["relative_residual"] <= 1e-8
    spec = bench.folder / "spec/report.json"
    assert bench.run("report", spec=spec, benchmarks=bench.folder / "benchmarks") == 0
    page = (bench.folder / "report/index.html").read_text()
    for words in (
        "A plane wave of wavenumber 1.5 is", "13 triangles per wavelength", "The scattering cross-section is",
        "far-field-ball", "Far field f of the scattered wave", "surface-ball",
        "Size of the normal derivative of the pressure on the surface",
        "and is assembled and solved in", "Assembly of the layers", "the solve holds the double layer too",
    ):  # fmt: skip
        assert words in page
    assert "Factorization" not in page


def test_an_open_plate_is_a_screen(bench, monkeypatch, capsys):
    monkeypatch.chdir(bench.folder)
    n = 5
    x, y = (part.ravel() for part in np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 1, n), indexing="ij"))
    corner = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
    triangles = np.concatenate(
        [np.stack([corner, corner + n, corner + n + 1], 1), np.stack([corner, corner + n + 1, corner + 1], 1)]
    )
    meshio.Mesh(np.stack([x, y, 0 * x], 1), [("triangle", triangles)]).write("plate.ply")
    found = solved(bench, "plate", section({"name": "mesh", "path": "plate.ply"}))
    said = capsys.readouterr().out
    assert "taken as a screen: 16 open edges" in said
    assert "error:" not in said
    # What crosses the plane of a soft screen is mirrored: both sides of it look alike.
    np.testing.assert_allclose(found.facts["result"]["forward"], found.facts["result"]["backward"], rtol=1e-6)


def test_a_mesh_too_coarse_for_the_wave_is_refused_before_it_is_compressed(bench, capsys):
    matrix = section({"name": "sphere", "refinements": 1}) | {
        "kernel": {"name": "helmholtz", "wavenumber": 12}
    }
    bench.write_specs({"study": "coarse", "matrices": {"coarse": matrix}})
    assert bench.run("points", output="points/coarse", spec=bench.folder / "spec/points/coarse.json") == 0
    capsys.readouterr()
    arguments = {
        "spec": bench.folder / "spec/compress/coarse.json",
        "points": bench.manifest("points/coarse"),
    }
    assert bench.run("compress", output="compress/coarse", **arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: matrices.coarse: triangle ")
    assert "at least 3 triangles for each wavelength are needed; refine the mesh" in line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"kernel": {"name": "laplace_single_layer"}},
            "needs kernel 'helmholtz' and a wavenumber above 0",
        ),
        ({"points": {"name": "uniform_cube", "n": 100}}, "needs points sphere or cube or mesh"),
        ({"wave": {"direction": [0, 0, 0]}}, "three finite numbers that are not all 0"),
        (
            {"task": "solve", "points": {"name": "uniform_cube", "n": 100}, "wave": {}},
            "wave belongs to task 'scattering'",
        ),
    ],
)
def test_what_does_not_go_with_scattering_is_one_line(change, words):
    matrix = section({"name": "sphere", "refinements": 2}) | change
    with pytest.raises(ConfigError, match=words) as error:
        validate({"study": "wrong", "matrices": {"a": matrix}})
    assert "\n" not in str(error.value)
