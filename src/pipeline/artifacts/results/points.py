"""Facts of the points of a matrix."""

from pipeline.artifacts.results.facts import Facts


class PointsFacts(Facts):
    """Where the rows of a matrix are, and what is known there.

    Attributes:
        name: The point set.
        n: Unknowns: points, or triangles of a mesh.
        dimension: Coordinates of a point.
        description: One phrase that says what the points are.
        unit: Unit of the values, where there are any; of the first ones where there are several.
        quantity: What the values are, or the first ones.
        quantities: Names of all values of a file.
        units: Their units.
        coordinates: Columns of a file's coordinates.
        crs: What a file's coordinates are: "plane", "lonlat", or a code.
        reference: Known capacitance of a mesh, in units of 4 pi eps0.
        softmax_accuracy: Test accuracy of the head of the network that the points are features of.
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
