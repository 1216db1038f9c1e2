import itertools

import numpy as np
import pytest

from pipeline.hmatrix import _native

# The functions of native/loops.hpp, of the distance r, with two parameters.
FUNCTIONS = {
    0: lambda r, a, b: a * np.exp(-b * r),
    1: lambda r, a, b: a * (1 + b * r) * np.exp(-b * r),
    2: lambda r, a, b: a * (1 + b * r + (b * r) ** 2 / 3) * np.exp(-b * r),
    3: lambda r, a, b: a * np.exp(-b * r**2),
    4: lambda r, a, b: a * (1 + b * r**2) ** -0.7,
    5: lambda r, a, b: np.divide(a, r, out=np.zeros_like(r), where=r > 0),
    6: lambda r, a, b: np.where(r > 0, 2 * a * np.log(np.where(r > 0, r, 1)), 0),
    7: lambda r, a, b: np.divide(a * np.exp(-b * r), r, out=np.zeros_like(r), where=r > 0),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("number", range(len(_native.instruction_sets())))
def test_every_instruction_set_agrees_with_numpy_at_every_length(kind, number):
    generator = np.random.default_rng(kind)
    for d, m in itertools.product((1, 2, 3, 5), (0, 1, 7, 8, 9, 15, 16, 17, 31, 33)):
        n = 11
        x, y = generator.random((d, m)), generator.random((d, n))
        if m:
            y[:, 0] = x[:, 0]
        v, u = generator.standard_normal(n), generator.standard_normal(m)
        block, products = _native.run_loops(number, kind, [1.5, 2.0, 0.7], x, y, v, u)
        r = np.sqrt(((x[:, :, None] - y[:, None, :]) ** 2).sum(axis=0))
        wanted = FUNCTIONS[kind](r, 1.5, 2.0)
        np.testing.assert_allclose(np.asarray(block).reshape(n, m).T, wanted, rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(
            products, np.concatenate([wanted @ v, wanted.T @ u]), rtol=1e-11, atol=1e-11
        )


def test_the_portable_set_is_always_there():
    assert _native.instruction_sets()[-1] == "portable"


@pytest.mark.parametrize("number", range(len(_native.instruction_sets())))
def test_edges_of_triangles_are_their_formula(number):
    generator = np.random.default_rng(3)
    length, height = generator.uniform(0.5, 2, 41), np.abs(generator.standard_normal(41))
    lower, t = generator.standard_normal((2, 41))
    height[::4] = 0
    t[::6] = 0
    upper, square = lower + length, t**2 + height**2
    far, near = np.sqrt(upper**2 + square), np.sqrt(lower**2 + square)
    with np.errstate(all="ignore"):
        beside = np.where(t == 0, 0, t * np.log((far + upper) / (near + lower)))
    angle = np.arctan2(t * upper, square + height * far) - np.arctan2(t * lower, square + height * near)
    found = _native.run_edges(number, length, lower, t, height)
    np.testing.assert_allclose(found, beside - height * angle, rtol=1e-11, atol=1e-13)
