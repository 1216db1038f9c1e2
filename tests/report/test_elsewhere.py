import pytest
from pages import Page

from pipeline.report import Metrics, render
from pipeline.report.elsewhere import claims_elsewhere, names_of
from pipeline.report.metrics import ModelMetrics
from pipeline.report.sections.elsewhere import elsewhere_section
from pipeline.report.standings import standings


def plain(cell):
    parts = (cell,) if isinstance(cell, str) else cell
    return "; ".join(str(part).replace("\N{NO-BREAK SPACE}", " ") for part in parts)


@pytest.fixture
def both(metrics):
    """A study, and beside it one of other images in which smoothed K-FAC is five points less accurate."""
    other = Metrics.model_validate(metrics).model_dump()
    other["study"] |= {"name": "other", "description": "Harder images."}
    other["study"]["dataset"]["name"] = "letters"
    for seed in other["training"]["kfac_smooth"]["seeds"].values():
        seed["test"]["accuracy"] -= 0.05
    prediction = {
        "run": "sgd_small", "batch_size": 64, "critical_batch": 200.0,
        "seeds": [{"seed": 0, "noise_scales": [], "critical_batch": 200.0}],
    }  # fmt: skip
    for study in (metrics, other):
        study["sweeps"] = {"SGD": ["sgd_small", "sgd_large"]}
        study["predictions"] = {"SGD": prediction}
    return Metrics.model_validate(metrics | {"beside": {"other": other}})


def table(study, caption):
    return next(
        block
        for block in elsewhere_section(study, {}).blocks
        if getattr(block, "caption", "").startswith(caption)
    )


def test_each_claim_stands_with_its_verdict_and_its_numbers_in_both_studies(both):
    claims = table(both, "The claims")
    here, there = (column.title for column in claims.columns[1:])
    assert (here, there) == ("fashion_mnist", "letters")
    restored = next(place for place, row in enumerate(claims.rows) if "smoothed objective brings" in row[0])
    assert claims.rows[restored][2] == "does not hold"
    assert claims.rows[restored][1] != "does not hold"
    assert [label for label, _ in claims.details[restored]] == [here, there]
    assert "below the small batch" in claims.details[restored][1][1]
    differ = sum(row[1] != row[2] for row in claims.rows)
    lead = plain(elsewhere_section(both, {}).lead)
    assert lead.startswith(
        f"Of {len(claims.rows)} claims, {len(claims.rows) - differ} get the same verdict on letters"
    )


def test_methods_of_both_studies_are_set_beside_the_reference_of_each(both):
    found = {plain(row[0]): row for row in table(both, "Points of test accuracy").rows}
    assert set(found) == {"SGD", "K-FAC", "K-FAC with mixup and weight noise"}
    for study, column in ((both, 2), (both.beside["other"], 3)):
        own = {row[0]: row for row in standings(study.training, study.claims_of).rows}
        points, verdict = found["K-FAC with mixup and weight noise"][column]
        assert (points, verdict) == own["K-FAC smoothed, batch 1024"][2:4]
    assert found["SGD"][1].replace(",", "") == "1024"


def test_the_best_at_each_batch_and_the_predictions_stand_in_both(both):
    ((batch, *best),) = table(both, "The best method").rows
    assert batch.replace(",", "") == "1024"
    assert len(best) == 2
    ((method, *cells),) = table(both, "The batch from which").rows
    assert method == "SGD"
    for cell in cells:
        assert plain(cell).startswith("200 predicted, ")
        assert plain(cell).endswith("; holds")


def test_what_one_study_lacks_is_a_dash_and_tables_of_nothing_are_left_out(both):
    other = both.beside["other"]
    without = other.model_copy(update={"claims_of": None, "sweeps": {}, "predictions": {}})
    found = both.model_copy(update={"beside": {"other": without}})
    assert {row[2] for row in table(found, "The claims").rows} == {"–"}
    assert elsewhere_section(found, {}).lead.startswith("No claim is judged both here and there.")
    captions = [getattr(block, "caption", "") for block in elsewhere_section(found, {}).blocks]
    assert not any(caption.startswith("Points") for caption in captions)
    nothing = found.model_copy(update={"claims_of": None, "sweeps": {}, "predictions": {}})
    assert not any(
        getattr(b, "caption", "").startswith("The claims") for b in elsewhere_section(nothing, {}).blocks
    )


def test_studies_of_one_data_set_and_network_are_called_by_their_own_names(both):
    other = both.beside["other"]
    same = other.model_copy(update={"study": other.study.model_copy(update={"dataset": both.study.dataset})})
    found = both.model_copy(update={"beside": {"other": same}})
    assert names_of(found) == {name: name for name in (both.study.name, "other")}
    vit = same.model_copy(
        update={"study": same.study.model_copy(update={"model": ModelMetrics(name="vit", n_parameters=9)})}
    )
    assert names_of(both.model_copy(update={"beside": {"other": vit}})) == {
        both.study.name: "fashion_mnist · cnn",
        "other": "fashion_mnist · vit",
    }
    assert list(claims_elsewhere(found)) == ["other"]


def test_a_study_alone_has_no_such_section(both):
    assert elsewhere_section(both.model_copy(update={"beside": {}}), {}) is None
    assert elsewhere_section(both.model_copy(update={"training": {}}), {}) is None


def test_the_page_says_it_in_the_first_screen_and_links_to_the_other(both, no_svg):
    text = render(both, {}).replace("\N{NO-BREAK SPACE}", " ")
    assert "Elsewhere: letters: does not hold." in text
    assert "letters: Harder images." in text
    assert "../../other/report/index.html" in Page(text).links
