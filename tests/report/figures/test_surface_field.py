"""The picture of a scattered wave's field on the surface."""

import numpy as np
import pytest

from pipeline.data.meshes import sphere_mesh
from pipeline.report import Metrics
from pipeline.report.figures.scattering import seen, surface_field, uncovered
from pipeline.report.first_screen import pictures

FORWARD = np.array([0.0, 0.6, 0.8])
SQUARE = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]), np.array([[0, 1, 2], [0, 2, 3]])


def arrays(mesh, field, direction=FORWARD):
    vertices, triangles = mesh
    found = {"vertices": vertices, "triangles": triangles, "solution": field, "direction": direction}
    return {f"own/{key}": value for key, value in found.items()}


def test_half_of_a_sphere_is_seen_and_the_nearest_is_painted_last():
    vertices, triangles = sphere_mesh(2)
    order = seen(vertices, triangles, FORWARD)
    depths = vertices[triangles[order]].mean(axis=1) @ FORWARD
    # Flat triangles face away a little before or after the sphere does: by less than their own size.
    assert depths.max() < 0.2
    assert (np.diff(depths) <= 0).all()
    behind = seen(vertices, triangles, -FORWARD)
    assert len({*order.tolist(), *behind.tolist()}) == len(triangles)


def test_both_sides_of_a_screen_are_seen():
    for forward in (np.array([0.0, 0, 1]), np.array([0.0, 0, -1])):
        assert sorted(seen(*SQUARE, forward).tolist()) == [0, 1]


@pytest.mark.parametrize(
    ("n", "what"), [(20, "normal derivative of the pressure"), (12, "Size of the pressure")]
)
def test_values_of_triangles_and_of_vertices_are_told_apart_and_their_greatest_is_named(n, what):
    mesh = sphere_mesh(0)
    drawing = surface_field("own", arrays(mesh, np.linspace(0, 3, n) * 1j))
    assert what in drawing.description
    assert len(drawing.data["rows"]) == 20
    expected = np.linspace(0, 3, n) if n == 20 else np.linspace(0, 3, n)[mesh[1]].mean(axis=1)
    centers = mesh[0][mesh[1]].mean(axis=1)
    for *center, side, size in drawing.data["rows"]:
        triangle = np.linalg.norm(centers - center, axis=1).argmin()
        np.testing.assert_allclose(size, expected[triangle], atol=1e-5)
        faces = centers[triangle] @ FORWARD
        if abs(faces) > 0.1:
            assert side == ("seen along the wave" if faces < 0 else "seen against the wave")
    assert "<image" in drawing.svg


@pytest.mark.parametrize("direction", np.eye(3), ids=["x", "y", "z"])
def test_a_wave_along_any_axis_has_a_picture(direction):
    assert surface_field("own", arrays(sphere_mesh(0), np.zeros(20), direction)) is not None


@pytest.mark.parametrize("field", [np.zeros(7), np.full(20, np.nan), np.zeros((20, 2))])
def test_a_field_that_is_none_of_this_surface_has_no_picture(field):
    assert surface_field("own", arrays(sphere_mesh(0), field)) is None
    assert surface_field("own", {}) is None


def test_a_pointer_is_told_of_what_lies_in_front():
    """A small triangle stands before the middle of a large one: the large one's middle is not seen."""
    large = np.array([[-3.0, -2], [3, -2], [0, 4]])
    assert uncovered(np.stack([large, large / 4])).tolist() == [1]
    assert uncovered(np.stack([large / 4, large])).tolist() == [1]
    assert uncovered(np.stack([large, large + 10])).tolist() == [0, 1]


def test_of_a_fine_mesh_every_so_many_triangles_are_told():
    mesh = sphere_mesh(5)
    drawing = surface_field("own", arrays(mesh, np.zeros(len(mesh[1]))))
    assert 2 * 1200 < len(drawing.data["rows"]) <= 2 * 2500
    assert len(drawing.data["places"]) == len(drawing.data["rows"])


def test_a_study_without_a_map_shows_the_surface_on_its_first_screen(metrics):
    study = {"study": {"name": "own"}, "matrices": {"own": metrics["matrices"]["capacitance"]}}
    of_a_wave = arrays(sphere_mesh(1), np.ones(80) * 1j)
    (picture,) = pictures(Metrics.model_validate(study), of_a_wave)
    assert picture.panels[0].name == "first-surface-own"
    assert picture.caption == surface_field("own", of_a_wave).description
    assert pictures(Metrics.model_validate(study), {}) == []
