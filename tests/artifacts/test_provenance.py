"""The provenance in a manifest: as written, by another version, or not there."""

import json

import pytest

from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.store import Artifact, create
from pipeline.errors import ArtifactError


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "thing" / "manifest.json"
    with create(path, kind="thing", spec={}, provenance=Provenance(commit="a" * 40, cores=2)) as draft:
        draft.provenance = draft.provenance.model_copy(update={"cost": {"seconds": 1.5}})
    return path


def test_it_is_read_as_it_was_written(manifest):
    found = Artifact.open(manifest).provenance
    assert (found.short_commit, found.cores, found.cost) == ("aaaaaaaa", 2, {"seconds": 1.5})
    assert (found.dirty, found.host, found.inputs) == (None, "", {})


def test_other_versions_wrote_null_for_what_they_did_not_know_and_keys_of_their_own(manifest):
    content = json.loads(manifest.read_text())
    content["provenance"] |= {"slurm": None, "gpus": None, "moon": "full"}
    manifest.write_text(json.dumps(content))
    found = Artifact.open(manifest).provenance
    assert (found.slurm, found.gpus, found.cores) == ({}, [], 2)


@pytest.mark.parametrize("content", [None, "text", {"cores": "many"}, {"cost": {"seconds": "long"}}])
def test_what_is_no_provenance_is_refused_with_the_manifests_path(manifest, content):
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"provenance": content}))
    with pytest.raises(
        ArtifactError, match=r"manifest\.json: provenance: .*delete the manifest and run snakemake"
    ):
        _ = Artifact.open(manifest).provenance


def test_a_manifest_without_provenance_is_refused_alike(manifest):
    content = json.loads(manifest.read_text())
    del content["provenance"]
    manifest.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"manifest\.json: provenance: "):
        _ = Artifact.open(manifest).provenance
