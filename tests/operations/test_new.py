"""Studies that `new` writes after a look at a file."""

import json
from pathlib import Path

import meshio
import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from pipeline.__main__ import main
from pipeline.data.meshes import sphere_mesh
from pipeline.operations.studies import read_study


def new(name, source):
    return main(["new", name, "--from", str(source)])


def test_stations_become_a_study_of_kriging_with_what_was_seen(checkout, capsys):
    rng = np.random.default_rng(0)
    places = np.round(rng.uniform((5, 45), (10, 48), (50, 2)), 3)
    places[7] = places[3]
    rows = "\n".join(f"S{i},{lat},{lon},{i}.5,{i}" for i, (lon, lat) in enumerate(places.tolist()))
    (checkout / "stations.csv").write_text(f"name,lat,lon,mm,year\n{rows}\n")
    assert new("rain", "stations.csv") == 0
    matrix = read_study("rain").study.matrices["values_mm"]
    assert matrix.points.coordinates == ("lon", "lat")
    assert (matrix.points.crs, matrix.points.value, matrix.task) == ("lonlat", "mm", "kriging")
    assert matrix.fit is not None
    assert matrix.predict.grid.spacing == pytest.approx(0.05)
    assert matrix.points.unit == "mm"
    told = capsys.readouterr().out
    for words in (
        "stations.csv: 50 rows", "Column mm, the value: 0.5 to 49.5", "Other columns of numbers: year",
        "Columns that hold something else: name", "1 row is at the place of another one", "Estimated memory: ",
        "make run STUDY=rain",
    ):  # fmt: skip
        assert words in told


@pytest.mark.parametrize(
    "names", ["Longitude [deg],Latitude [deg],mm", "lon (degrees),lat (degrees),mm", "lon,lat,mm"]
)
@pytest.mark.parametrize(
    "change", [str, lambda text: text.replace("\n", "\r\n"), lambda text: "\ufeff" + text]
)
def test_names_with_units_and_the_marks_of_other_systems_are_understood(checkout, names, change):
    rows = "\n".join(f"{5 + i / 50},{45 + i % 7},{i}.5" for i in range(30))
    (checkout / "stations.csv").write_bytes(change(f"{names}\n{rows}\n").encode())
    assert new("rain", "stations.csv") == 0
    (matrix,) = read_study("rain").study.matrices.values()
    assert (list(matrix.points.coordinates), matrix.points.crs) == (names.split(",")[:2], "lonlat")
    assert matrix.points.value == "mm"


def test_the_number_of_a_row_is_neither_a_coordinate_nor_a_value(checkout):
    rows = "\n".join(f"{i},{i / 7},{i % 5}" for i in range(20))
    (checkout / "cloud.csv").write_text(f",a,b\n{rows}\n")
    assert new("cloud", "cloud.csv") == 0
    (matrix,) = read_study("cloud").study.matrices.values()
    assert (matrix.points.coordinates, matrix.points.value) == (("a",), "b")


@pytest.mark.parametrize(
    ("names", "coordinates", "value"),
    [
        ("elevation,lon,lat,mm", ("lon", "lat"), "mm"),
        ("station,lat,lon,elevation [m],mm", ("lon", "lat"), "mm"),
        ("elevation,lon,lat", ("lon", "lat"), "elevation"),
        ("elevation,east_km,north_km,mm", ("east_km", "north_km"), "mm"),
        ("elevation,a,b,mm", ("a", "b"), "mm"),
        ("id,a,b,elevation", ("a", "b"), "elevation"),
        ("year,a,mm", ("a",), "mm"),
    ],
)
def test_a_height_or_a_label_is_mapped_only_where_nothing_else_is(checkout, names, coordinates, value):
    columns = names.count(",") + 1
    rows = "\n".join(",".join(str(i / 7 + i % (2 + j)) for j in range(columns)) for i in range(20))
    (checkout / "stations.csv").write_text(f"{names}\n{rows}\n")
    assert new("rain", "stations.csv") == 0
    (matrix,) = read_study("rain").study.matrices.values()
    assert (matrix.points.coordinates, matrix.points.value) == (coordinates, value)


def test_points_without_values_become_a_system(checkout):
    np.savez("cloud.npz", x=np.arange(20.0), y=np.arange(20.0) ** 2)
    assert new("cloud", "cloud.npz") == 0
    (matrix,) = read_study("cloud").study.matrices.values()
    assert (matrix.points.coordinates, matrix.points.value, matrix.task) == (("x", "y"), None, "solve")


def network(path, shape=("n", 2, 8, 8)):
    weights = numpy_helper.from_array(np.ones((4, 2, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 4, 6, 6))],
        [weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_a_network_becomes_a_study_with_samples_of_its_shape(checkout, capsys):
    network("detector.onnx")
    assert new("detector", "detector.onnx") == 0
    own = read_study("detector").study.precision.networks["detector"]
    assert np.load(own.inputs).shape == (32, 2, 8, 8)
    told = capsys.readouterr().out
    assert "1 node (1 Conv), 72 parameters" in told
    assert "holds noise of that shape" in told


@pytest.mark.parametrize(
    ("column", "unit"),
    [("mm", "mm"), ("m/s", "m/s"), ("%", "%"), ("rain [mm]", "mm"), ("rain", ""), ("M", ""), ("Mm", "")],
)
def test_a_column_that_is_called_as_a_unit_has_that_unit(checkout, column, unit):
    rows = "\n".join(f"{5 + i / 50},{45 + i % 7},{i}.5" for i in range(30))
    (checkout / "stations.csv").write_text(f"lon,lat,{column}\n{rows}\n")
    assert new("rain", "stations.csv") == 0
    (matrix,) = read_study("rain").study.matrices.values()
    assert (matrix.points.value, matrix.points.unit) == (column, unit)


def test_the_documents_show_what_is_told_of_a_folder_of_images(checkout, capsys):
    page = (Path(__file__).parents[2] / "docs/how-to/own_data.md").read_text()
    block = page.split("--from data/photos\n")[1].split("$ make")[0]
    for part, each in (("train", 400), ("test", 100)):
        for kind in ("disk", "square", "stripes"):
            folder = checkout / "data/photos" / part / kind
            folder.mkdir(parents=True)
            for i in range(each):
                Image.new("RGB", (32, 32)).save(folder / f"{i:05d}.bmp")
    assert new("photos", "data/photos") == 0
    assert capsys.readouterr().out == block


@pytest.fixture
def pets(checkout):
    """A folder of images of two classes, with what file managers leave in folders."""
    for part, count in (("train", 12), ("test", 3)):
        for kind in ("cat", "dog"):
            (checkout / "pets" / part / kind).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (40, 36 + i), (i, 0, 0)).save(checkout / "pets" / part / kind / f"{i}.png")
            for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
                (checkout / "pets" / part / kind / name).write_text("of a file manager")
    return checkout / "pets"


def test_a_folder_of_images_becomes_a_study_of_training(pets, capsys):
    (pets / "README.md").write_text("beside the parts")
    (pets / "train/README.md").write_text("beside the classes")
    assert new("pets", "pets") == 0
    told = capsys.readouterr().out
    assert "pets: 24 images of 2 classes, 12 of each, to train on, and 6 to test on." in told
    assert "Classes: cat, dog." in told
    assert "Each: 40 x 36 to 40 x 47 pixels, color." in told
    study = read_study("pets").study
    assert (study.dataset.image_size, study.dataset.channels) == (32, 3)
    assert (study.dataset.train_samples, study.dataset.validation_samples) == (22, 2)
    assert study.training.runs["sgd"].batch_size == 22


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("train/cat/README.md", "pets/train/cat/README.md: not a readable image (cannot identify image file"),
        ("test/dog/notes.txt", "pets/test/dog/notes.txt: not a readable image"),
        ("train/cat/more/x.png", "pets/train/cat/more: is a folder; name a file in it"),
        (
            "train/x.PNG",
            "pets/train/x.PNG lies beside the folders of the classes; move it into one, or remove it",
        ),
    ],
)
def test_a_stray_file_in_a_folder_of_images_is_one_line(pets, capsys, place, words):
    (pets / place).parent.mkdir(exist_ok=True)
    (pets / place).write_text("no image")
    assert new("pets", "pets") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_arrays_of_images_become_a_study_of_training(checkout, capsys):
    arrays = {
        f"{part}_{what}": values
        for part, n in (("train", 21), ("test", 4))
        for what, values in (("images", np.zeros((n, 9, 7), np.uint8)), ("labels", np.arange(n) % 3))
    }
    np.savez("pets.npz", **arrays)
    assert new("pets", "pets.npz") == 0
    study = read_study("pets").study
    assert (study.dataset.name, study.dataset.path) == ("arrays", "pets.npz")
    assert (study.dataset.train_samples, study.dataset.validation_samples) == (19, 2)
    told = capsys.readouterr().out
    assert "pets.npz: 21 images of 3 classes, 7 of each, to train on, and 4 to test on." in told
    assert "Classes: 0, 1, 2." in told
    assert "7 x 9 pixels, gray" in told


@pytest.mark.parametrize("scale", [1.0, 1e-4, 37.0])
def test_a_mesh_becomes_a_study_of_a_wave_that_its_triangles_resolve(checkout, capsys, scale):
    vertices, triangles = sphere_mesh(2)
    meshio.Mesh(scale * vertices, [("triangle", triangles)]).write("ball.obj")
    assert new("ball", "ball.obj") == 0
    (matrix,) = read_study("ball").study.matrices.values()
    assert (matrix.points.path, matrix.task) == ("ball.obj", "scattering")
    corners = scale * vertices[triangles]
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max()
    # Ten triangles for each wavelength; the wavenumber has two digits, rounded down by less than a tenth.
    per_wavelength = 2 * np.pi / (complex(matrix.kernel.wavenumber).real * longest)
    assert per_wavelength * (1 + 1e-6) >= 10
    assert per_wavelength < 10 * 1.1 * (1 + 1e-6)
    told = capsys.readouterr().out
    for words in (
        "ball.obj: 320 triangles, 162 vertices, 1 connected part, closed, which makes it a body",
        "Its box is ", "the wavelength is ", "Estimated memory: ", "make run STUDY=ball",
    ):  # fmt: skip
        assert words in told


def test_the_capacitance_that_a_study_of_a_mesh_holds_as_a_comment_is_a_study_too(checkout):
    vertices, triangles = sphere_mesh(0)
    meshio.Mesh(vertices, [("triangle", triangles)]).write("ball.ply", binary=False)
    assert new("ball", "ball.ply") == 0
    path = checkout / "config/ball.yaml"
    path.write_text(path.read_text().replace("  #charge:", "  charge:").replace("  #  ", "    "))
    assert read_study("ball").study.matrices["charge"].task == "capacitance"


def test_every_written_study_explains_itself_in_comments(checkout):
    np.savez("cloud.npz", x=np.arange(20.0), y=np.arange(20.0) ** 2, v=np.sin(np.arange(20.0)))
    assert new("cloud", "cloud.npz") == 0
    text = (checkout / "config/cloud.yaml").read_text()
    assert sum(line.lstrip().startswith("#") for line in text.splitlines()) >= 6
    assert yaml.safe_load(text)["study"] == "cloud"


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("a b", "a.csv", "a b: not a valid name for a study"),
        ("history", "a.csv", "history: not a valid name for a study"),
        ("tiny", "a.csv", "config/tiny.yaml: is there already"),
        (
            "own",
            "a\udcff.csv",
            r"a\udcff.csv: cannot be opened, because its name is not written in the encoding",
        ),
        ("own", "gone.csv", "gone.csv: there is no such file or folder"),
        ("own", "a.txt", "a.txt: wanted a folder of images or a file that ends in .csv"),
        ("own", "a.csv", "a.csv: row 2 (line 3), column v: wanted a finite number, found 'none'"),
        (
            "own",
            "words.csv",
            "words.csv: has no column of numbers alone: row 1 (line 2), column a: wanted a finite number, found 'x'",
        ),
        ("own", "swapped.csv", "swapped.csv: column lat: wanted degrees from -90 to 90, found 45 to 170"),
        ("own", "half.npz", "half.npz: has no array 'train_labels', found train_images"),
        ("own", "bad.h5", "bad.h5: not a readable .h5 file"),
        ("own", "bad.onnx", "bad.onnx: no ONNX network"),
        ("own", "open.onnx", "open.onnx: its input x has the shape"),
        ("own", "flat.obj", "flat.obj: the mesh cannot be used: 1 triangle without area"),
        ("own", "junk.stl", "junk.stl: wanted text that begins with 'solid', or a binary STL file"),
        ("own", "damaged", "damaged/train/a/1.png: not a readable image"),
        ("own", "empty", "empty: wanted train/CLASS/* of two classes or more"),
    ],
)
def test_what_cannot_become_a_study_is_one_line_and_leaves_nothing(checkout, capsys, name, source, words):
    (checkout / "a.txt").write_text("1 2 3\n")
    (checkout / "a.csv").write_text("x,y,v\n" + "1,2,3\n" + "3,4,none\n" + "1,2,3\n" * 5)
    (checkout / "words.csv").write_text("a,b\nx,y\n")
    (checkout / "swapped.csv").write_text("lon,lat,v\n45,170,1\n46,45,2\n")
    (checkout / "flat.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 2\n")
    (checkout / "junk.stl").write_bytes(b"\xff" * 90)
    np.savez("half.npz", train_images=np.zeros((2, 3, 3), np.uint8))
    (checkout / "bad.h5").write_bytes(b"PK")
    (checkout / "bad.onnx").write_bytes(b"PK")
    network("open.onnx", ("n", 2, "h", "w"))
    (checkout / "empty").mkdir()
    for place in ("train/a", "train/b", "test/a"):
        (checkout / "damaged" / place).mkdir(parents=True)
        (checkout / "damaged" / place / "1.png").write_bytes(b"\x89PNG")
    before = sorted((checkout / "config").iterdir())
    assert new(name, source) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {words}"), line
    assert sorted((checkout / "config").iterdir()) == before
    assert json.dumps(line)


def test_a_unit_behind_the_name_of_a_column_is_written_down(checkout, capsys):
    rows = "".join(f"{i % 7},{i % 5},{i}\n" for i in range(30))
    for name, unit in (
        ("rain [mm/day]", "mm/day"),
        ("rain (mm)", "mm"),
        ("Regen (µm)", "µm"),
        ("rain []", ""),
        ("rain ( )", ""),
        ("rain (in a gauge that nobody had emptied)", ""),
        ("mm", "mm"),
        ("rain", ""),
    ):
        Path("own.csv").write_text(f"x,y,{name}\n{rows}")
        Path("config/own.yaml").unlink(missing_ok=True)
        assert main(["new", "own", "--from", "own.csv"]) == 0
        (matrix,) = yaml.safe_load(Path("config/own.yaml").read_text())["matrices"].values()
        assert matrix["points"].get("unit", "") == unit
