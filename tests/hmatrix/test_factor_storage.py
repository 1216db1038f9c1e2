"""Factorizations that were written come back bit by bit, and damaged ones are refused."""

import json
import math
import os

import numpy as np
import pytest
import torch
from json_files import mean_the_same
from warm_starts import run_python

from pipeline.errors import ArtifactError
from pipeline.hmatrix import Factorization, H2Matrix, factor_storage, kernels
from pipeline.hmatrix.parts.substitution import StepsView

N = 331


@pytest.fixture(scope="module")
def points():
    return np.random.default_rng(0).random((N, 2))


@pytest.fixture(scope="module")
def A(points):
    return H2Matrix.from_kernel(
        points, kernels.Matern(length_scale=0.3), diagonal=1e-2, tolerance=1e-8, leaf_size=16
    )


@pytest.mark.parametrize(("kind", "parts"), [("cholesky", 1), ("ldlt", 2), ("lu", 3)])
def test_a_factorization_comes_back_as_it_was(A, kind, parts, tmp_path):
    F = A.factorize(1e-6, kind, parts=parts)
    F.save(tmp_path)
    G = Factorization.load(tmp_path)
    b = np.random.default_rng(1).standard_normal((N, 2))
    np.testing.assert_array_equal(G.solve(b), F.solve(b))
    np.testing.assert_array_equal(G.solve_transposed(b), F.solve_transposed(b))
    assert (G.slogdet(), G.trust, G.notes, G.kind) == (F.slogdet(), F.trust, F.notes, F.kind)
    assert (G.n_bytes, G.n_parts, G.level_table()) == (F.n_bytes, F.n_parts, F.level_table())


def test_a_complex_factorization_comes_back(points, tmp_path):
    A = H2Matrix.from_kernel(points, kernels.Helmholtz(3.0), diagonal=2.0 + 1j, leaf_size=16)
    F = A.factorize()
    F.save(tmp_path)
    b = np.random.default_rng(1).standard_normal(N)
    np.testing.assert_array_equal(Factorization.load(tmp_path).solve(b), F.solve(b))


def test_one_of_single_precision_still_draws_samples(A, tmp_path):
    F = A.factorize(1e-2)
    F.save(tmp_path)
    drawn = [f.sample(torch.Generator().manual_seed(0), 2) for f in (F, Factorization.load(tmp_path))]
    assert torch.equal(*drawn)


def test_another_process_reads_it(A, tmp_path):
    F = A.factorize()
    F.save(tmp_path / "F")
    np.save(tmp_path / "b.npy", np.random.default_rng(1).standard_normal(N))
    program = (
        "import sys, numpy as np; from pipeline.hmatrix import Factorization;"
        "d = sys.argv[1]; np.save(d + '/x.npy', Factorization.load(d + '/F').solve(np.load(d + '/b.npy')))"
    )
    (tmp_path / "program.py").write_text(program)
    done = run_python(["program.py", str(tmp_path)], folder=tmp_path, environment=os.environ)
    assert done.returncode == 0, done.stdout
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), F.solve(np.load(tmp_path / "b.npy")))


def test_a_folder_without_a_factorization_is_named(A, tmp_path):
    with pytest.raises(ArtifactError, match=r"holds no factorization: factorization\.json is missing"):
        Factorization.load(tmp_path)
    A.save(tmp_path)
    with pytest.raises(ArtifactError, match="holds no factorization"):
        Factorization.load(tmp_path)


def test_a_flipped_bit_anywhere_is_noticed(A, tmp_path):
    A.factorize(parts=2).save(tmp_path)
    generator = np.random.default_rng(0)
    for name in ("factorization.safetensors", "factorization.json"):
        whole = (tmp_path / name).read_bytes()
        for place in generator.integers(0, len(whole), 40):
            spoiled = bytearray(whole)
            spoiled[place] ^= 1 << int(generator.integers(0, 7))
            if mean_the_same(spoiled, whole):
                continue
            (tmp_path / name).write_bytes(spoiled)
            with pytest.raises(ArtifactError, match=r"damaged|version"):
                Factorization.load(tmp_path)
        (tmp_path / name).write_bytes(whole)
    Factorization.load(tmp_path)


@pytest.mark.parametrize("what", ["counts", "index", "values", "pivots"])
@pytest.mark.parametrize("value", [None, -1, 2**31 - 1])
def test_indices_that_lead_elsewhere_are_refused_even_with_the_right_checksum(
    A, what, value, tmp_path, monkeypatch
):
    F = A.factorize(kind="lu", parts=2)
    view = next(v for stage in F.steps._stages for views in stage.steps.values() for v in views)
    whole = getattr(view, what)
    spoiled = whole[:-1] if value is None else np.where(np.arange(len(whole)) == 1, value, whole)
    if what == "values" and value is not None:
        spoiled = np.append(whole, value)
    parts = {name: getattr(view, name) for name in ("stored", "counts", "index", "values", "pivots")}
    parts[what] = spoiled.astype(whole.dtype)
    broken = StepsView(**parts)
    encode = factor_storage._encode
    monkeypatch.setattr(
        factor_storage,
        "_encode",
        lambda item, arrays: encode(broken if item is view else item, arrays),
    )
    F.save(tmp_path)
    with pytest.raises(ArtifactError, match="damaged factorization"):
        Factorization.load(tmp_path)


def test_parts_that_do_not_divide_the_points_are_refused(A, tmp_path):
    F = A.factorize()
    F.steps._bounds = {0: (0, N - 1)}
    F.save(tmp_path)
    with pytest.raises(ArtifactError, match="parts do not divide the points"):
        Factorization.load(tmp_path)


def test_numbers_that_json_does_not_know_come_back():
    arrays = {}
    given = {"a": (math.inf, 1 + 2j), 3: [np.float32(0.5), np.arange(3), None]}
    found = factor_storage._decode(json.loads(json.dumps(factor_storage._encode(given, arrays))), arrays)
    assert found["a"] == given["a"]
    assert found[3][0] == 0.5
    np.testing.assert_array_equal(found[3][1], np.arange(3))
