import datetime
import inspect
import json
import re
from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from pipeline.__main__ import _parser
from pipeline.config.choice import Choice, section_of_all
from pipeline.config.comments import commented
from pipeline.config.images import ImageData
from pipeline.config.loading import load_study, merge, validate
from pipeline.config.matrices import Compress, Matrix, Scaling
from pipeline.config.messages import mistakes
from pipeline.config.points import FilePoints
from pipeline.config.precision import OwnNetwork, Precision, Timing
from pipeline.config.section import Section
from pipeline.config.specs import artefacts_of, specs
from pipeline.config.study import RESERVED, Study, schema
from pipeline.config.training import Run, RunSpec, Training
from pipeline.data import IMAGES
from pipeline.errors import ConfigError
from pipeline.hmatrix import DistributedH2Matrix, H2Matrix
from pipeline.options import Share, type_hints
from pipeline.precision import Budget
from pipeline.training import METHODS, Recipe
from pipeline.training.schedule import Constant
from pipeline.training.smoothing import Mixup, Smoothing

ROOT = Path(__file__).resolve().parents[1]
# Names that would leave their folder or mean something to a shell.
HOSTILE = (
    "a b",
    "a\n",
    "$(touch x)",
    "`x`",
    "'",
    '"',
    "a;b",
    "../a",
    "a/b",
    "",
    "-rf",
    ".",
    "{x}",
    "a*",
    "ü",
    "a\0",
)
DEFAULT = ROOT / "config" / "default.yaml"
RUN = "training.runs.kfac_smoothed"


def of_the_run(change):
    """A change of a training run of the default study."""
    return {"training": {"runs": {"kfac_smoothed": change}}}


def refused(change):
    """The error line for a change of the default study."""
    with pytest.raises(ConfigError) as error:
        load_study(change, DEFAULT)
    line = str(error.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "config").glob("*.yaml")))
def test_every_committed_study_is_valid_and_named_like_its_file(name):
    assert load_study(yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text()), DEFAULT).study == name


def test_an_empty_config_is_the_default_study():
    assert load_study({}, DEFAULT) == validate(yaml.safe_load(DEFAULT.read_text()))


def test_a_study_brings_its_own_runs_and_matrices():
    run = {"optimizer": {"name": "sgd", "lr": 0.1}, "batch_size": 8, "epochs": 1}
    study = load_study({"study": "mine", "training": {"runs": {"only": run}}}, DEFAULT)
    assert list(study.training.runs) == ["only"]
    assert not study.matrices
    assert study.scaling is None
    assert study.dataset.train_samples == yaml.safe_load(DEFAULT.read_text())["dataset"]["train_samples"]


def test_a_nameless_config_changes_one_value_of_the_default_study():
    changed = load_study({"matrices": {"airports": {"compress": {"tolerance": "1e-4"}}}}, DEFAULT)
    before, after = specs(load_study({}, DEFAULT)), specs(changed)
    assert {name for name in after if after[name] != before[name]} == {"compress/airports"}


def test_another_kind_replaces_its_section_instead_of_mixing_with_it():
    merged = merge({"kernel": {"name": "matern", "nu": 0.5}}, {"kernel": {"name": "laplace_single_layer"}})
    assert merged == {"kernel": {"name": "laplace_single_layer"}}


def test_numbers_that_yaml_reads_as_text_are_numbers():
    assert (
        load_study({"matrices": {"airports": {"nugget": "1e-3"}}}, DEFAULT).matrices["airports"].nugget
        == 1e-3
    )


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        ({"seedz": [1]}, "seedz", "did you mean 'seeds'?"),
        ({"dataset": {"train_sample": 3}}, "dataset.train_sample", "did you mean 'train_samples'?"),
        ({"training": {"runs": {"kfac_smoothed": {"optimizer": {"dampening": 1}}}}},
         "training.runs.kfac_smoothed.optimizer.dampening", "did you mean 'damping'?"),
        ({"training": {"runs": {"kfac_smoothed": {"optimizer": {"learning_rate": 1}}}}},
         "training.runs.kfac_smoothed.optimizer.learning_rate", "did you mean 'lr'?"),
        ({"matrices": {"airports": {"kernel": {"name": "gaussian"}}}},
         "matrices.airports.kernel", "did you mean 'squared_exponential'?"),
        ({"dataset": {"train_samples": "many"}}, "dataset.train_samples", "found 'many'"),
        ({"dataset": {"train_samples": 60_000}}, "dataset.train_samples", "60000 and 4096 validation_samples are"),
        ({"dataset": {"name": "digits", "train_samples": 1437, "validation_samples": 1}},
         "dataset.train_samples", "more than the 1437 images that digits has"),
        ({"dataset": {"name": "digits"}},
         "dataset.train_samples", "write for example train_samples: 1078, validation_samples: 359"),
        ({"model": {"name": "imported", "path": "torch.nn.Linear"}},
         "model.path", "must be a module and a name in it, such as torchvision.models:resnet18, found 'torch.nn.L"),
        ({"dataset": {"train_samples": 2.5}}, "dataset.train_samples", "found 2.5"),
        ({"matrices": {"airports": {"compress": {"tolerance": 4}}}}, "airports.compress.tolerance", "less than"),
        ({"matrices": {"airports": {"nugget": -1}}}, "matrices.airports.nugget", "greater than or equal to 0"),
        ({"training": {"runs": {"new": {"epochs": 1}}}}, "training.runs.new.optimizer", "name its method"),
        ({"training": {"runs": {"new": {"optimizer": {"lr": 1}}}}},
         "training.runs.new.optimizer", "name its method"),
        ({"matrices": {"new": {"kernel": {"name": "laplace_single_layer"}, "task": "capacitance"}}},
         "matrices.new.points", "missing"),
        ({"matrices": {"airports": {"task": "capacitance"}}}, "matrices.airports", "needs points sphere or cube"),
        ({"precision": {"runs": ["gone"]}}, "precision.runs.0", "no training run 'gone'"),
        ({"model": {"name": "vit"}}, "model.name", "cannot be converted to half precision; choose another model"),
        ({"seeds": [1, 1]}, "seeds", "must differ"),
        ({"precision": {"runs": ["kfac_smoothed", "kfac_smoothed"]}}, "precision.runs", "must differ"),
        ({"training": {"runs": {"kfac_smoothed": {"batch_size": 9000}}}},
         "training.runs.kfac_smoothed.batch_size", "more than dataset.train_samples"),
        ({"scaling": {"sizes": [4096, 512]}}, "scaling.sizes", "increase"),
        ({"training": {"runs": {"kfac_smoothed": {"smoothing": [{"name": "mixxup", "alpha": 1}]}}}},
         "training.runs.kfac_smoothed.smoothing.0", "did you mean 'mixup'?"),
        ({"kind": "network", "schema_version": 1}, "--configfile", "put targets before it"),
        ({"seeds": []}, "seeds", "at least one"),
        (of_the_run({"seeds": [3, 3]}), f"{RUN}.seeds", "must differ, found [3, 3]"),
        (of_the_run({"seeds": []}), f"{RUN}.seeds", "at least one"),
        (of_the_run({"seeds": 5}), f"{RUN}.seeds", "must be a list, written [first, second], found 5"),
        ({"training": None}, "training", "found null"),
        ({"study": "../escape"}, "study", "letters, digits, - and _"),
        ({"training": {"runs": {"odd name": {}}}}, "training.runs.odd name: its name", "letters, digits, - and _"),
        *(({"study": name}, "study", "letters, digits, - and _") for name in HOSTILE),
        *(({"study": name}, "study", "choose another name") for name in RESERVED),
        ({"study": "a" * 20}, "study", "repeats a part 20 times; choose another"),
        ({"matrices": {"ab" * 25: {}}}, "matrices", "repeats a part 20 times; choose another"),
        ({"training": {"runs": {"kfac_smoothed": {"epochs": 10**400}}}}, "kfac_smoothed.epochs", "more than 30 digits"),
        ({"seeds": [2**63]}, "seeds.0", "less than"),
        ({"dataset": {"split_seed": 2**64}}, "dataset.split_seed", "less than"),
        ({"matrices": {"airports": {"kernel": {"length_scale": 1e-300}}}}, "kernel.length_scale", "greater than"),
        ({"matrices": {"airports": {"nugget": 1e300}}}, "matrices.airports.nugget", "less than"),
        ({"matrices": {"airports": {"nugget": float("nan")}}}, "matrices.airports.nugget", "nan"),
        ({"precision": {"batch_sizes": [10**9]}}, "precision.batch_sizes.0", "less than"),
        ({"scaling": {"sizes": [10**8, 10**12]}}, "scaling.sizes.1", "less than"),
        (of_the_run({"batch_size": True}), f"{RUN}.batch_size", "must be a number, found True"),
        (of_the_run({"optimizer": {"lr": True}}), f"{RUN}.optimizer.lr", "must be a number, found"),
        ({"seeds": [0, True]}, "seeds", "must be a number, found"),
        (of_the_run({"optimizer": {"lr": -1}}), f"{RUN}.optimizer.lr", "lr: must be positive, found -1"),
        (of_the_run({"optimizer": {"lr": "-1e-3"}}), f"{RUN}.optimizer.lr", "lr: must be positive, found '-1e-3'"),
        (of_the_run({"optimizer": {"lr": float("nan")}}), f"{RUN}.optimizer.lr", "must be a finite number, found nan"),
        (of_the_run({"optimizer": {"lr": float("inf")}}), f"{RUN}.optimizer.lr", "must be a finite number, found inf"),
        (of_the_run({"optimizer": "adamw"}), f"{RUN}.optimizer", "such as {name: adamw, ...}, found 'adamw'"),
        (of_the_run({"smoothing": "mixup"}), f"{RUN}.smoothing", "must be a list, written [first, second]"),
        ({"seeds": "zero"}, "seeds", "must be a list, written [first, second], found 'zero'"),
        ({"training": {"runs": []}}, "training.runs", "must be a section of keys"),
        ({"training": {"runs": {2: {}}}}, "training.runs.2: its name", "put it in quotes"),
        ({"study": False}, "study", "put it in quotes, found False"),
        ({"study": 2024}, "study", "put it in quotes, found 2024"),
        ({"study": datetime.date(2026, 1, 1)}, "study", "put it in quotes"),
        ({"training": {"runs": {"new": {"optimizer": {"name": "sgd", "lr": 1}, "epochs": 1}}}},
         "training.runs.new.batch_size", "missing; give it (config/default.yaml explains every key)"),
        ({"dataset": {"name": "folder"}}, "dataset.directory", "missing; data set folder needs it"),
        ({"dataset": {"name": "idx", "directory": "d", "path": "a.npz"}}, "dataset.path",
         "belongs to data set arrays"),
        ({"dataset": {"image_size": 8}}, "dataset.image_size", "belongs to data set folder"),
        ({"dataset": {"name": "digits", "directory": "d"}}, "dataset.directory",
         "belongs to data set fashion_mnist"),
        ({"model": {"name": "vit", "width": 66}}, "model.width", "not a multiple of 4 heads"),
        ({"matrices": {"airport": {"compress": {"tolerance": 1e-4}}}},
         "matrices: 'airport' is new; did you mean 'airports'? If not: ", "matrices.airport.points: missing"),
        ({"training": {"runs": {"kfac_smooth": {"epochs": 3}}}}, "training.runs", "did you mean 'kfac_smoothed'?"),
        ({"dataset": {"channels": True}}, "dataset.channels", "must be a number, found True"),
        ({"matrices": {"airports": {"kernel": {"length_scale": "far"}}}},
         "matrices.airports.kernel.length_scale", "must be a number, found 'far'"),
        ({"matrices": {"airports": {"kernel": {"nu": 51}}}}, "airports.kernel.nu", "must be less than or equal to 50"),
        (of_the_run({"optimizer": {"placement": "all"}}), f"{RUN}.optimizer.placement", "'memory' or 'hybrid', found"),
        ({"study": "empty"}, "training.runs", "the study holds nothing; give it runs, matrices, a scaling series or"),
        ({"training": {"runs": {"a": {"optimizer": {"name": "schedule_free", "lr": 1}, "batch_size": 8, "epochs": 1}}}},
         "training.runs.a.optimizer: schedule_free", "found schedule 'cosine' and coupled_momentum False; set"),
        ({"device": "gpu"}, "device", "must be 'auto', 'cpu' or 'cuda', found 'gpu'"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_its_full_path(change, path, words):
    line = refused(change)
    assert path in line
    assert words in line


def test_a_list_with_a_wrong_entry_is_one_mistake():
    assert refused({"seeds": [1.5]}) == "seeds.0: must be a whole number, found 1.5"


def test_an_unreadable_default_is_one_line(tmp_path):
    path = tmp_path / "default.yaml"
    path.write_text("a: [1,\n b: }")
    with pytest.raises(ConfigError, match=r"not a readable YAML file \(line 2: .*found '}'\)"):
        load_study({}, path)


def test_studies_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_study({}, DEFAULT).study = "other"


@pytest.mark.parametrize("make", [H2Matrix.from_kernel, DistributedH2Matrix.from_kernel])
def test_a_compression_has_the_same_tolerance_in_a_study_and_in_the_library(make):
    assert Compress().tolerance == inspect.signature(make).parameters["tolerance"].default


def test_conversion_on_the_command_line_has_the_budget_of_a_study():
    converted = _parser().parse_args(["convert", "--weights", "w", "--dataset", "d", "--output", "o"])
    assert converted.budget_points == Timing().budget_points == Budget().points


def test_every_change_of_the_default_study_changes_some_spec():
    """No value is without effect: whatever a user changes, some rule reads it."""
    before = specs(load_study({}, DEFAULT))
    changes = [
        {"seeds": [7]},
        {"device": "cpu"},
        {"dataset": {"split_seed": 7}},
        {"model": {"batch_norm": True}},
        {"training": {"runs": {"kfac_smoothed": {"optimizer": {"damping": 0.5}}}}},
        {"training": {"runs": {"kfac_smoothed": {"micro_batch": 7}}}},
        {"precision": {"min_samples": 7}},
        {"matrices": {"airports": {"points": {"held_out": 0.2}}}},
        {"matrices": {"airports": {"kernel": {"nu": 1.5}}}},
        {"matrices": {"airports": {"fit": None}}},
        {"matrices": {"airports": {"factor": {"kind": "ldlt"}}}},
        {"matrices": {"airports": {"solve": {"max_iterations": 7}}}},
        {"scaling": {"tolerance": 1e-3}},
        {"training": {"claims": None}},
    ]
    for change in changes:
        after = specs(load_study(change, DEFAULT))
        assert sum(after[name] != before[name] for name in after) >= 1, change


def test_the_committed_schema_is_the_current_one():
    assert json.loads((ROOT / "config" / "schema.json").read_text()) == schema()


def test_the_comments_of_the_default_study_are_the_descriptions_of_its_keys():
    assert commented(DEFAULT.read_text()) == DEFAULT.read_text(), "run: make schema"


def test_comments_change_no_value_and_explain_keys_on_one_line_once():
    factor = "factor: {tolerance: 1.0e-3}"
    text = f"study: mine\nmatrices:\n  a:\n    {factor}\n  b:\n    {factor}  # kept\n"
    explained = commented(text)
    assert yaml.safe_load(explained) == yaml.safe_load(text)
    assert explained.count("#   tolerance: Tolerance of the factorization") == 1
    assert f"{factor}  # kept" in explained


def test_every_key_of_the_schema_is_described():
    for name, model in schema()["$defs"].items():
        for key, value in model["properties"].items():
            assert "description" in value or key == "name", f"{name}.{key} has no description"


@dataclass(frozen=True)
class Dimming(Smoothing):
    """Darken the images.

    Attributes:
        amount: The part of the light
            that is lost.
    """

    name: ClassVar[str] = "dimming"

    amount: Share


def test_a_new_smoothing_is_a_class_and_a_row_and_nothing_in_the_configuration():
    choice = TypeAdapter(Annotated[Smoothing, Choice({"dimming": Dimming, "mixup": Mixup})])
    section = {"name": "dimming", "amount": "1e-1", "full_steps": 3}
    read = choice.validate_python(section)
    assert read == Dimming(0.1, full_steps=3)
    assert choice.dump_python(read, mode="json") == section | {"amount": 0.1}
    described = choice.json_schema()["$defs"]["Dimming"]["properties"]["amount"]
    assert described["description"] == "The part of the light that is lost."
    assert described["maximum"] == 1
    with pytest.raises(ValidationError) as error:
        choice.validate_python({"name": "dimming", "amont": 1})
    assert mistakes(error.value, {}).endswith("unknown key 'amont'; did you mean 'amount'?")
    with pytest.raises(ValueError, match=r"Dimming: amount must lie in \(0, 1\], not 2"):
        Dimming(2)


@pytest.mark.parametrize("name", METHODS)
def test_a_run_without_options_trains_with_those_that_the_optimizer_has_in_python(name):
    optimizer = METHODS[name](lr=0.1)
    run = {
        "optimizer": {"name": name, "lr": 0.1},
        "batch_size": 8,
        "epochs": 2,
        "schedule": {"name": "constant"},
    }
    recipe = RunSpec.model_validate(run).recipe()
    assert recipe == Recipe(optimizer, batch_size=8, epochs=2, schedule=Constant())
    # An option that is said twice can have two defaults.
    assert not vars(optimizer).keys() & vars(recipe).keys()


def test_a_run_has_the_attributes_of_a_recipe_as_mypy_is_told():
    assert {field.name for field in fields(Recipe)} - RunSpec.model_fields.keys() == {"n_measured"}


@dataclass(frozen=True)
class Blots:
    """Blots of ink.

    Attributes:
        path: The blots.
        n: How many.
    """

    path: Path
    n: Share | None = None


@dataclass(frozen=True)
class Dots:
    """Dots.

    Attributes:
        n: Part that is drawn.
    """

    n: Share = 0.5


def test_the_options_of_all_entries_of_a_registry_are_keys_of_one_section():
    section = section_of_all(Section, {"dots": Dots, "blots": Blots}, "Drawn", "What is drawn.")
    assert list(section.model_fields) == ["name", "path", "n"]
    assert section().model_dump() == {"name": "dots", "path": None, "n": None}
    assert section.model_validate({"n": "1e-1", "path": "./a//b"}).model_dump(mode="json")["path"] == "./a//b"
    told = {key: field.description for key, field in section.model_fields.items()}
    assert told["name"] == "What is drawn.\n  dots {n}: Dots.\n  blots {path, n}: Blots of ink."
    assert told["n"] == "dots: Part that is drawn. Null takes 0.5. blots: How many."
    for wrong in ({"n": 0}, {"path": ""}, {"name": "lines"}, {"m": 1}):
        with pytest.raises(ValidationError):
            section.model_validate(wrong)


def test_an_option_of_two_entries_has_one_type():
    with pytest.raises(TypeError, match="Dimming: amount has another type in another entry; rename it"):
        section_of_all(
            Section, {"dots": make_dataclass("Lines", [("amount", int)]), "dimming": Dimming}, "A", "B."
        )


def test_every_key_stands_in_the_default_study():
    default = yaml.safe_load(DEFAULT.read_text())
    training, precision = default["training"], default["precision"]
    for section, data in (
        (Study, default),
        (Training, training),
        (Run, training["runs"]["sgd_small_batch"]),
        (Precision, precision),
        (OwnNetwork, next(iter(precision["networks"].values()))),
        (Matrix, default["matrices"]["airports"]),
        (Scaling, default["scaling"]),
    ):
        assert set(data) == set(section.model_fields), section
    # Options of image data sets may be told in the comment on their name only.
    options = {key for kind in IMAGES.values() for key in type_hints(kind)}
    assert set(default["dataset"]) | options == set(ImageData.model_fields)


def test_label_and_seeds_of_a_run_stay_out_of_its_spec():
    study = load_study({}, DEFAULT)
    change = {"label": "another", "seeds": [4]}
    before, after = specs(study), specs(load_study(of_the_run(change), DEFAULT))
    assert {name for name in after if after[name] != before[name]} == {"report"}


def test_the_spec_of_the_report_names_every_artefact():
    study = load_study({}, DEFAULT)
    named = artefacts_of(specs(study)["report"])
    assert len(named) == len(set(named))
    assert {path.split("/")[0] for path in named} == {
        "dataset", "train", "convert", "time_layers", "points", "compress", "solve", "scaling",
    }  # fmt: skip
    assert sum(path.startswith("train/") for path in named) == len(study.training.runs) * len(study.seeds)


def test_a_run_with_seeds_of_its_own_is_trained_with_them_and_the_others_with_those_of_the_study():
    study = load_study(of_the_run({"seeds": [9, 4]}), DEFAULT)
    trained = [path for path in artefacts_of(specs(study)["report"]) if path.startswith("train/")]
    expected = {run: (9, 4) if run == "kfac_smoothed" else (0, 1, 2) for run in study.training.runs}
    assert trained == [f"train/{run}/seed{seed}" for run, seeds in expected.items() for seed in seeds]


FILE = {"name": "file", "path": "a.csv"}
OWN = {"points": FILE, "kernel": {"name": "matern", "length_scale": 1.0}, "task": "solve"}
NETWORK = {"path": "a.onnx", "inputs": "x.npy"}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"seeds": [0, 0]}, "seeds: entries must differ, found [0, 0]"),
        ({"seeds": []}, "seeds: must have at least one entry, found []"),
        ({"study": None}, "study: must be text: write it after the colon (config/default.yaml explains every key), "
         "found null"),
        ({"matrices": {None: OWN}}, "matrices.null: its name must be text: put it in quotes, found null"),
        ({"description": ["a"]}, "description: must be one text, found ['a']"),
        ({"points": {"path": None}}, "matrices.own.points.path: must be text: write it after the colon"),
        ({"points": {"path": ""}}, "matrices.own.points.path: must be a text that is not empty, found ''"),
        ({"points": {"path": ["a"]}}, "matrices.own.points.path: must be one text, found ['a']"),
        ({"points": {"value": ["mm", "mm"]}}, "matrices.own.points.value: entries must differ"),
        ({"points": {"value": ["0", 0]}}, "matrices.own.points.value: entries must differ"),
        ({"points": {"value": []}}, "matrices.own.points.value: must have at least one entry, found []"),
        ({"points": {"value": ""}}, "matrices.own.points.value: must be a text that is not empty"),
        ({"points": {"value": "x", "coordinates": ["x", "y"]}}, "matrices.own.points.value: column 'x' is one of "
         "points.coordinates too"),
        ({"points": {"coordinates": ["x", "x"]}}, "matrices.own.points.coordinates: entries must differ"),
        ({"points": {"coordinates": [""]}}, "matrices.own.points.coordinates.0: must be a text that is not empty"),
        ({"points": {"value": "mm", "unit": "m\nm"}}, "matrices.own.points.unit: must be on one line"),
        ({"points": {"value": "mm", "unit": "m\u2028m"}}, "matrices.own.points.unit: must be on one line"),
        ({"points": {"value": "mm", "unit": "m" * 31}}, "matrices.own.points.unit: must have at most 30 letters"),
        ({"points": {"value": "mm", "unit": ["mm", "m"]}}, "matrices.own.points.unit: 2 units for 1 value; "),
        ({"kernel": {"name": None}}, "matrices.own.kernel.name: must be text, found null; known: matern"),
        ({"kernel": {"name": "matern", "length_scale": []}}, "matrices.own.kernel: length_scale must be a number, or "
         "one for each coordinate"),
        ({"network": {"path": None}}, "precision.networks.own.path: must be text: write it after the colon"),
        ({"network": {"batch_sizes": [1, 1]}}, "precision.networks.own.batch_sizes: entries must differ"),
        ({"network": {"modes": ["warm", "warm"]}}, "precision.networks.own.modes: entries must differ"),
        ({"dataset": {"name": "folder", "directory": "", "image_size": 3, "channels": 1}},
         "dataset.directory: must be a text that is not empty"),
    ],
)  # fmt: skip
def test_what_is_empty_null_or_said_twice_is_told_once_and_in_plain_words(change, line):
    change = dict(change)
    own = OWN | {key: OWN[key] | change.pop(key) for key in ("points", "kernel") if key in change}
    if "kernel" in own and "name" in own["kernel"] and own["kernel"]["name"] is None:
        own["kernel"] = {"name": None}
    study = {"study": "s", "matrices": {"own": own}}
    if "network" in change:
        study["precision"] = {"networks": {"own": NETWORK | change.pop("network")}}
    with pytest.raises(ConfigError) as told:
        load_study(study | change, ROOT / "config/default.yaml")
    assert str(told.value).startswith(line)
    assert str(told.value).count("found") <= 1


def test_the_folders_of_all_studies_together_are_no_names_of_studies():
    texts = [path.read_text() for folder in ("workflow", "profiles") for path in (ROOT / folder).rglob("*")
             if path.is_file()]  # fmt: skip
    written = set(re.findall(r"\bresults/([a-z]+)\b", "\n".join(texts)))
    assert written <= set(RESERVED)
    for name in RESERVED:
        with pytest.raises(ConfigError, match="is a folder of all studies together"):
            validate({"study": name, "matrices": {"own": OWN}})
    # Nothing but a study of that name writes there.
    for name in ("state", "cache", "logs", "report", "digests"):
        assert name not in written
        assert validate({"study": name, "matrices": {"own": OWN}}).study == name


@pytest.mark.parametrize("unit", ["m\u00a0s", "m\u202fs\u207b\u00b9", "\u00b5g/m\u00b3"])
def test_a_unit_may_have_any_blank_that_stays_on_its_line(unit):
    points = FilePoints(path="a.csv", value="v", unit=unit)
    assert points.units == (unit,)
