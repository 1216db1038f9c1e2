import pytest

from pipeline.artifacts.results.scaling import ScalingRow
from pipeline.report.figures.growth import exponents, growth


def row(n, **known):
    blank = dict.fromkeys(ScalingRow.model_fields, 1.0) | {"operator_bytes": 1, "factor_bytes": 1}
    return ScalingRow.model_validate(blank | {"n": n} | known)


def test_growth_prints_its_exponents():
    rows = [
        row(n, operator_bytes=round(100 * n**1.25), product_seconds=1e-6 * n)
        for n in (1000, 2000, 8000, 16000)
    ]
    powers = {key: round(power.exponent, 4) for key, power in exponents(rows).items()}
    assert (powers["operator_bytes"], powers["product_seconds"]) == (1.25, 1.0)
    assert powers["solve_seconds"] == 0.0
    storage, time = growth(rows)
    assert "N¹·²⁵" in storage.svg
    assert "product grows as N to the power 1.00 (1.00 to 1.00)" in time.description
    assert growth(rows[:1]) == []


def test_two_sizes_are_drawn_without_a_power():
    rows = [row(n, operator_bytes=100 * n, product_seconds=1e-6 * n) for n in (100, 200)]
    assert exponents(rows) == {}
    for drawing in growth(rows):
        assert "sizes too few or too small" in drawing.description
        assert "N¹" not in drawing.svg


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ((4096, 16384, 65536), False),  # three sizes leave no doubt to measure
        ((4096, 8192, 16384, 65536), True),
        ((1024, 1500, 2048, 4096), False),  # near to each other, and small
        ((256, 512, 1024, 9999), False),  # small
        ((10_000, 20_000, 80_000, 159_999), False),  # near to each other
        ((10_000, 20_000, 80_000, 160_000), True),
    ],
)
def test_powers_are_told_only_where_the_sizes_tell_them(sizes, told):
    rows = [row(n, operator_bytes=100 * n) for n in sizes]
    assert (exponents(rows) != {}) is told
    assert ("grows as N" in growth(rows)[0].description) is told
