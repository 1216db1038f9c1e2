"""Meshes are diagnosed before they are computed on: each defect with its count, its place and advice."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest

from pipeline.data.meshes import cube_mesh, sphere_mesh
from pipeline.errors import ConfigError
from pipeline.hmatrix.boundary_elements import TriangleMesh, diagnose, merge_vertices
from pipeline.meshes import merged
from pipeline.meshes.diagnosis import _ADVICE_FOR_ONE, _WHAT


@pytest.fixture
def sphere():
    return sphere_mesh(2)


def counts_of(mesh):
    return {kind: count for kind, count in diagnose(mesh).counts.items() if count}


@pytest.mark.parametrize("mesh", [sphere_mesh(0), sphere_mesh(2), cube_mesh(3)])
def test_closed_oriented_meshes_are_clean(mesh):
    found = diagnose(TriangleMesh(*mesh))
    found.require_usable()
    assert (counts_of(mesh), found.n_parts, found.is_closed) == ({}, 1, True)
    assert str(found).endswith("1 connected part, closed")


def test_a_missing_triangle_opens_three_edges_and_is_told_with_its_place(sphere):
    vertices, triangles = sphere
    mesh = vertices, triangles[1:]
    assert counts_of(mesh) == {"open_edges": 3}
    assert not diagnose(mesh).is_closed
    diagnose(mesh).require_usable(closed=False)
    with pytest.raises(ConfigError, match=r"the mesh cannot be used: 3 open edges \(the first at"):
        diagnose(mesh).require_usable()


def test_a_turned_triangle_disagrees_with_its_three_neighbors(sphere):
    vertices, triangles = sphere
    triangles = triangles.copy()
    triangles[7] = triangles[7, ::-1]
    assert counts_of((vertices, triangles)) == {"inconsistent": 3}


def test_a_surface_inside_out_is_told_once_for_each_part(sphere):
    vertices, triangles = sphere
    twice = (
        np.concatenate([vertices, vertices + 5]),
        np.concatenate([triangles, triangles[:, ::-1] + len(vertices)]),
    )
    found = diagnose(twice)
    assert counts_of(twice) == {"inside_out": 1}
    assert found.n_parts == 2
    assert found.errors[0].indices[0] == len(triangles)


def test_a_cavity_has_normals_that_point_into_it(sphere):
    vertices, triangles = sphere
    hollow = (
        np.concatenate([vertices, vertices / 2]),
        np.concatenate([triangles, triangles[:, ::-1] + len(vertices)]),
    )
    assert counts_of(hollow) == {}


def test_duplicates_make_edges_of_three_triangles_too(sphere):
    vertices, triangles = sphere
    mesh = vertices, np.concatenate([triangles, np.roll(triangles[3:4], 1, axis=1)])
    assert counts_of(mesh) == {"duplicate": 1, "non_manifold": 3}


def test_triangles_without_area_and_vertices_without_triangle_are_told(sphere):
    vertices, triangles = sphere
    mesh = np.concatenate([vertices, [[9, 9, 9.0]]]), np.concatenate([triangles, [[0, 0, 1]]])
    assert counts_of(mesh) == {"degenerate": 1, "unused": 1}
    assert diagnose(mesh).errors[-1].place == (9, 9, 9)


def test_slivers_and_unlike_neighbors_are_warned_of_but_usable(sphere):
    vertices, triangles = sphere
    flat = vertices * [1, 1, 1e-3]
    assert set(counts_of((flat, triangles))) == {"slivers", "close"}
    diagnose((flat, triangles)).require_usable()
    tip = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0.05, -0.05, 0], [0, 0, 300.0]])
    fan = np.array([[0, 1, 2], [0, 1, 4]])
    assert diagnose((tip, fan)).counts["unlike"] == 1


def test_sheets_that_nearly_touch_are_warned_of(sphere):
    vertices, triangles = sphere
    for gap, close in ((0.5, 0), (0.02, 2 * len(triangles))):
        hollow = (
            np.concatenate([vertices, (1 - gap) * vertices]),
            np.concatenate([triangles, triangles[:, ::-1] + len(vertices)]),
        )
        assert counts_of(hollow) == ({"close": close} if close else {})
        diagnose(hollow).require_usable()


def test_triangles_of_their_own_corners_are_merged(sphere):
    vertices, triangles = sphere
    soup = vertices[triangles].reshape(-1, 3), np.arange(3 * len(triangles)).reshape(-1, 3)
    assert diagnose(soup).counts["open_edges"] == 3 * len(triangles)
    assert diagnose(soup).counts["unmerged"] == 3 * len(triangles) - len(vertices)
    merged = merge_vertices(*soup)
    assert (len(merged.vertices), counts_of(merged)) == (len(vertices), {})
    shaken = soup[0] + 1e-9 * np.random.default_rng(0).standard_normal(soup[0].shape)
    shaken = np.where(np.abs(shaken) < 1e-6, 1e-6, shaken)  # no cell of the grid ends there
    assert len(merge_vertices(shaken, soup[1], within=1e-4).vertices) == len(vertices)


def test_corners_that_do_not_exist_and_nan_are_told_alone(sphere):
    vertices, triangles = sphere
    assert counts_of((vertices, triangles + 1)) == {"outside": 6}
    spoiled = vertices.copy()
    spoiled[5] = np.nan
    assert counts_of((spoiled, triangles)) == {"not_finite": 1}


def test_an_empty_mesh_is_no_closed_surface():
    found = diagnose((np.zeros((0, 3)), np.zeros((0, 3), int)))
    assert (found.n_parts, found.is_closed) == (0, False)
    with pytest.raises(ConfigError, match="it has no triangle"):
        found.require_usable(closed=False)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"triangles of a mesh must have the shape \(n, 3\), not \(4, 2\)"):
        diagnose((np.zeros((4, 3)), np.zeros((4, 2), int)))


def test_a_soup_with_flat_triangles_is_diagnosed_before_it_is_refused(sphere):
    """As files of real models are: each triangle with corners of its own, some of them without area."""
    vertices, triangles = sphere
    soup = vertices[triangles].reshape(-1, 3)
    soup[3 * 7 + 1] = soup[3 * 7]
    corners = np.arange(len(soup)).reshape(-1, 3)
    with pytest.raises(ValueError, match="triangle 8, counted from 1, has no area"):
        merge_vertices(soup, corners)
    found = diagnose(merged(soup, corners))
    assert (found.counts["degenerate"], found.errors[0].indices.tolist()) == (1, [7])
    assert found.counts["unmerged"] == 0


def test_real_terrain_is_a_screen_whose_slivers_and_unlike_triangles_are_told():
    """Elevations of a fault (matplotlib's sample data), meshed where they are, with dense rows beside coarse ones."""
    with np.load(Path(matplotlib.get_data_path()) / "sample_data/jacksboro_fault_dem.npz") as data:
        elevation = data["elevation"].astype(float)
    rows = np.concatenate([np.arange(41), np.arange(140, len(elevation), 100)])
    columns = np.arange(0, elevation.shape[1], 10)
    y, x = np.meshgrid(rows * 90.0, columns * 75.0, indexing="ij")
    vertices = np.stack([x, y, elevation[np.ix_(rows, columns)]], axis=-1).reshape(-1, 3)
    number = np.arange(len(vertices)).reshape(x.shape)
    a, b, c, d = number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]
    triangles = np.stack([a, b, d, a, d, c], axis=-1).reshape(-1, 3)
    found = diagnose(merged(vertices, triangles))
    # Its rim is all that keeps it from being a conductor.
    assert {finding.kind for finding in found.errors} == {"open_edges"}
    assert found.counts["open_edges"] == 2 * (len(rows) + len(columns) - 2)
    found.require_usable(closed=False)
    a, b, c = vertices[triangles].transpose(1, 0, 2)
    longest = np.max([np.linalg.norm(edge, axis=1) for edge in (b - a, c - b, a - c)], axis=0)
    height = np.linalg.norm(np.cross(b - a, c - a), axis=1) / longest
    assert found.counts["slivers"] == (longest > 20 * height).sum()
    # Between the last dense row and the first coarse one, a pair for each column.
    assert found.counts["unlike"] == len(columns) - 1


@pytest.mark.parametrize("kind", _WHAT)
def test_advice_for_one_defect_is_about_one(kind):
    """No pronoun of several, and none of one without a noun before it."""
    assert " them" not in _ADVICE_FOR_ONE[kind]
    assert "their triangles" not in _ADVICE_FOR_ONE[kind]
    assert "between it" not in _ADVICE_FOR_ONE[kind]


def test_one_part_inside_out_and_one_pair_unlike_are_told_in_the_singular(sphere):
    vertices, triangles = sphere
    found = str(diagnose((vertices, triangles[:, ::-1])))
    assert "1 closed part whose normals point inwards" in found
    assert found.endswith("turn its triangles over, so that normals point out")
    tip = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0.05, -0.05, 0], [0, 0, 300.0]])
    found = str(diagnose((tip, np.array([[0, 1, 2], [0, 1, 4]]))))
    assert "grade the mesh: integrals between the two are less accurate" in found
