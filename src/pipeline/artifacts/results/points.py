"""Facts of the points of a matrix."""

from pipeline.artifacts.results import Facts


class PointsFacts(Facts):
    """The positions of a matrix's rows, and the values known there.

    Attributes:
        n: Number of unknowns: points, or triangles of a mesh.
        unit: Unit of the values, where there are any; of the first values where there are several.
        quantity: Name of the values, or of the first ones.
        quantities, units: Those of all values of a file.
        coordinates: Columns that hold a file's coordinates.
        crs: Coordinate system of a file: "plane", "lonlat", or a code.
        reference: Known capacitance of a mesh, in units of 4 pi eps0.
        softmax_accuracy: Test accuracy of the network whose features are the points, by its own head.
    """

    name: str
    n: int
    dimension: int
    description: str
    unit: str | None = None
    quantity: str | None = None
    quantities: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    coordinates: tuple[str, ...] = ()
    crs: str = "plane"
    reference: float | None = None
    softmax_accuracy: float | None = None
