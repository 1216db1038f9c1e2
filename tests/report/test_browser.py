"""The page in a real browser: headless Chromium, at the widths of a desktop, a tablet and a phone."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
SECONDS = 240

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium in a headless mode (Debian: apt-get install chromium)"
)


@pytest.fixture(scope="module")
def found(full, tmp_path_factory) -> dict[str, dict]:
    """What browser.js found at each width."""
    folder = tmp_path_factory.mktemp("browser")
    script = (Path(__file__).parent / "browser.js").read_text()
    data = json.dumps(full).replace("<", "\\u003c")
    page = folder / "page.html"
    page.write_text(
        '<!DOCTYPE html><meta charset="utf-8"><body>'
        f'<script type="application/json" id="report">{data}</script><script>{script}</script>',
        encoding="utf-8",
    )
    options = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=30000",
        "--window-size=1400,1000",
    )
    profile = f"--user-data-dir={folder / 'profile'}"
    done = subprocess.run(
        [CHROMIUM, *options, profile, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    answer = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert answer, done.stderr[-2000:]
    looked_at = json.loads(unescape(answer[1]))
    assert not any("error" in width for width in looked_at.values()), looked_at
    return looked_at


@pytest.mark.parametrize("width", ["1280", "820", "390"])
def test_nothing_is_cut_and_no_labels_collide(found, width):
    assert found[width]["overflow"] <= 0
    assert found[width]["cut"] == []
    assert found[width]["collisions"] == []
    assert found[width]["torn"] == []


@pytest.mark.parametrize("width", ["1280", "820", "390"])
def test_every_figure_answers_to_a_pointer_at_its_middle(found, width):
    assert found[width]["silent"] == []


def test_letters_of_figures_can_be_read_on_a_phone(found):
    assert found["390"]["smallest"] >= 6.5


def test_answers_and_pictures_fit_the_first_screen_of_a_desktop(found):
    assert found["1280"]["firstScreen"] <= 900


def test_tables_are_sorted_by_value_and_compared_with_a_baseline(found):
    desktop = found["1280"]
    assert desktop["ascending"] == sorted(desktop["ascending"])
    assert desktop["descending"] == sorted(desktop["descending"], reverse=True)
    assert len(set(desktop["descending"])) > 1
    assert desktop["sorted"] == "descending"
    # Three of four runs against SGD with batch 64: steps, training and test accuracy, loss, gap, time.
    assert len(desktop["compared"]) == 3 * 6
    assert {"0.0625×", "1.00×", "−2.0"} <= set(desktop["compared"]), desktop["compared"]


def test_tables_of_paper_are_unfolded_and_fold_again(found):
    folds, while_printing, afterwards = found["1280"]["printed"]
    assert folds == while_printing > 0
    assert afterwards == 0


def test_every_table_and_list_of_values_can_be_copied(found):
    assert found["1280"]["copiers"] == 0


def test_a_browser_without_scripts_shows_all_tables_and_figures(found):
    plain = found["plain"]
    assert plain["buttons"] == 0
    assert plain["hidden"] == 0 < plain["shown"]
    assert plain["folded"] > 0


def test_arrow_keys_read_out_the_values_of_a_figure(found):
    desktop = found["1280"]
    assert desktop["said"].startswith(
        "run SGD, batch 64, seed 0, epoch 1, steps 128, seconds 1.7, quantity validation accuracy"
    )
    assert desktop["tip"].startswith("run SGD, batch 64seed 0")
    assert desktop["inside"]
    assert desktop["tools"] == ["SVG", "CSV"]


def test_figures_and_tables_are_saved_whole(found, metrics):
    desktop = found["1280"]
    name, has_variables, has_pointer, n_texts = desktop["svg"]
    assert (name, has_variables, has_pointer) == ("svg", False, False)
    assert n_texts > 10
    accuracy = metrics["training"]["sgd_small"]["seeds"]["0"]["history"][0]["validation_accuracy"]
    assert desktop["csv"] == [
        "run,seed,epoch,steps,seconds,quantity,value",
        f'"SGD, batch 64",0,1,128,1.7,validation accuracy,{accuracy:.6g}',
    ]
    head, first = desktop["table"]
    assert head.startswith("Run,Method,Batch,Steps")
    assert first.startswith('"SGD, batch 64",SGD,64,2560,')
