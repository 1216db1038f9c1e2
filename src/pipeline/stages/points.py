"""Stage `points`: where the rows of a matrix are, and what is known there."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.store import Artifact, Draft, create
from pipeline.data import hold_out, load_points
from pipeline.data.meshes import cube_mesh, sphere_mesh
from pipeline.precision import HalfNetwork
from pipeline.runtime.provenance import provenance
from pipeline.stages.shared import read_samples, read_spec


def run(options: Namespace) -> None:
    """Write points with values and a held-out part, or a mesh, or the features of a converted network."""
    spec = read_spec(options.spec)
    points = spec["points"]
    with create(options.output, kind="points", spec=spec, provenance=provenance(options.code)) as draft:
        draft.facts["name"] = points["name"]
        if points["name"] in ("airports", "cities"):
            _places(draft, points)
        elif points["name"] == "embeddings":
            _embeddings(draft, points, options.network, options.dataset)
        else:
            _mesh(draft, points)
    print(f"points {points['name']}: {draft.facts['n']} in {draft.facts['dimension']} dimensions")


def _places(draft: Draft, spec: Mapping[str, Any]) -> None:
    """Places on the globe: elevation of airports, or the logarithm of the population of cities."""
    places = load_points(spec["name"], n_points=spec["n"], seed=spec["seed"])
    if spec["name"] == "airports":
        values, unit = places.values["elevation"], "m"
    else:
        # An unrecorded population is 0; one inhabitant keeps it finite.
        values, unit = np.log10(np.maximum(places.values["population"], 1.0)), "log10 of people"
    n = len(places.points)
    kept, held_out = hold_out(n, n_held_out=round(spec["held_out"] * n), seed=spec["seed"])
    draft.save_array("points", places.points[kept], unit="Earth radii")
    draft.save_array("values", values[kept], unit=unit)
    draft.save_array("held_out_points", places.points[held_out], unit="Earth radii")
    draft.save_array("held_out_values", values[held_out], unit=unit)
    for name in ("longitude", "latitude"):
        draft.save_array(f"held_out_{name}", places.values[name][held_out], unit="degrees")
    draft.facts |= {"n": len(kept), "dimension": 3, "unit": unit, "description": places.description}


def _mesh(draft: Draft, spec: Mapping[str, Any]) -> None:
    if spec["name"] == "sphere":
        vertices, triangles = sphere_mesh(spec["refinements"])
        reference, what = 1.0, "the unit sphere, whose capacitance is 1 exactly"
    else:
        vertices, triangles = cube_mesh(spec["divisions"], grading=spec["grading"])
        # Hwang and Won, "Electrical capacitance of a unit cube", Journal of Applied Physics 2010.
        reference, what = 0.66067817, "the unit cube"
    draft.save_array("vertices", vertices)
    draft.save_array("triangles", triangles)
    draft.facts |= {"n": len(triangles), "dimension": 3, "reference": reference, "description": what}


def _embeddings(
    draft: Draft, spec: Mapping[str, Any], network_manifest: Path, dataset_manifest: Path
) -> None:
    """Features of training and test images by the half-precision network, and its own test accuracy."""
    converted = Artifact.open(network_manifest, "half_network")
    dataset = Artifact.open(dataset_manifest, "dataset")
    network = HalfNetwork.from_plan(converted.json("plan"), converted.tensors("weights"))
    train, test = read_samples(dataset, "train"), read_samples(dataset, "test")
    features = network.features(train.images[: spec["samples"]]).double().numpy()
    draft.save_array("points", features)
    draft.save_array("labels", train.labels[: spec["samples"]].numpy(), unit="class")
    draft.save_array("held_out_points", network.features(test.images).double().numpy())
    draft.save_array("held_out_labels", test.labels.numpy(), unit="class")
    draft.facts |= {
        "n": len(features),
        "dimension": features.shape[1],
        "softmax_accuracy": converted.facts["accuracy"]["fp16"],
        "description": f"features of the half-precision network of {spec['run']}",
    }
