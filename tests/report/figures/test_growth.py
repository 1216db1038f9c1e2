from pipeline.report.figures.growth import exponents, growth


def test_growth_prints_its_exponents():
    rows = [{"n": n, "operator_bytes": 100 * n**1.25, "product_seconds": 1e-6 * n} for n in (100, 200, 700)]
    assert {key: round(value, 6) for key, value in exponents(rows).items()} == {
        "operator_bytes": 1.25,
        "product_seconds": 1.0,
    }
    storage, time = growth(rows)
    assert "N¹·²⁵" in storage.svg
    assert "product grows as N to the power 1.00" in time.description
    assert growth(rows[:1]) == []
    assert growth([{"n": 5}, {"n": 6}]) == []


def test_two_sizes_are_drawn_without_a_power():
    rows = [{"n": n, "operator_bytes": 100 * n, "product_seconds": 1e-6 * n} for n in (100, 200)]
    assert exponents(rows) == {}
    for drawing in growth(rows):
        assert "too few sizes" in drawing.description
        assert "N¹" not in drawing.svg
