"""Images of one's own, from their files to the page of a training."""

import html
import re

import numpy as np
import pytest
from PIL import Image
from striped_images import CLASSES, striped

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(900)]


def test_a_folder_of_images_becomes_a_trained_network_and_its_page_in_two_commands(workplace):
    rng = np.random.default_rng(0)
    for part, n in (("train", 33), ("test", 7)):
        for label, name in enumerate(CLASSES):
            folder = workplace.folder / "my images" / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                Image.fromarray(striped(rng, label)).save(folder / f"{i}.png")
    told = workplace.pipeline("new", "photos", "--from", "my images")
    assert "my images: 66 images of 2 classes, 33 of each, to train on, and 14 to test on." in told
    workplace.snakemake(study="config/photos.yaml")
    page = (workplace.folder / "results/photos/report/index.html").read_text(encoding="utf-8")
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())
    assert "100.00 % test accuracy" in text
    assert "images below my images" in text
    assert "2 classes (bars, rows)" in text
