"""A Slurm that refuses jobs or does not answer: no study waits for ever, and what went wrong is one line."""

import shutil

import pytest
import yaml

from cluster import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(2400)]


def test_a_group_of_jobs_on_a_refused_account_ends_with_one_line(place):
    shutil.rmtree(place.results / "points")
    place.write_profile(rules={}, retries=0)
    path = place.folder / "profiles" / "own" / "config.yaml"
    profile = yaml.safe_load(path.read_text())
    profile["default-resources"]["slurm_account"] = "'nobody'"
    path.write_text(yaml.safe_dump(profile))
    said = place.start(place.manifest("points/airports")).end(code=2)
    errors = [line for line in said.splitlines() if "error: Slurm refused points" in line]
    assert len(errors) == 1, said
    assert "nobody" in errors[0]
    assert "set slurm_account in the profile" in errors[0]
    assert "Traceback" not in said
    assert not place.slurm.queue()
    assert not list((place.folder / ".snakemake").glob("*.lock"))


def test_a_study_goes_on_while_slurms_database_is_away(place, slurm, ends_like_the_undisturbed):
    target = place.manifest("train/short/seed0")
    (place.folder / target).unlink()
    main = place.start(target)
    wait_until(lambda: slurm.queue() or main.process.poll() is not None, "a job")
    slurm.tell("kill slurmdbd")
    try:
        said = main.end()
    finally:
        slurm.tell("start slurmdbd")
    assert "Slurm's database does not answer" in said
    assert "1 of 1 job done" in said
    ends_like_the_undisturbed(place, target)
