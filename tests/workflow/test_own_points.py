"""A file of stations, by the commands that the documents name, to the page with its map."""

import numpy as np
import pytest

from pipeline.data.tables import read_columns

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(900)]


def test_a_csv_file_of_stations_becomes_a_page_with_a_map_and_a_file_of_predictions(workplace):
    rng = np.random.default_rng(0)
    longitude, latitude = rng.uniform(5, 10, 211), rng.uniform(45, 48, 211)
    rain = 100 + 30 * np.sin(longitude) * np.cos(latitude)
    rows = "\n".join(f"{a},{b},{c}" for a, b, c in zip(longitude, latitude, rain, strict=True))
    (workplace.folder / "stations.csv").write_text(f"lon,lat,mm\n{rows}\n")
    workplace.pipeline("new", "rain", "--from", "stations.csv")
    workplace.snakemake(study="config/rain.yaml")
    results = workplace.folder / "results/rain"
    (matrix,) = (results / "solve").iterdir()
    (predictions,) = matrix.glob("predictions.*")
    found = read_columns(predictions, ["lon", "lat", "mm", "mm_std"])
    inside = (found["lon"] > 5.2) & (found["lon"] < 9.8) & (found["lat"] > 45.2) & (found["lat"] < 47.8)
    truth = 100 + 30 * np.sin(found["lon"]) * np.cos(found["lat"])
    assert np.sqrt(np.mean((found["mm"] - truth)[inside] ** 2)) < 0.05 * truth[inside].std()
    page = (results / "report/index.html").read_text()
    assert "Map of the predicted mm" in page
    assert "standard deviation" in page
    assert predictions.name in page
