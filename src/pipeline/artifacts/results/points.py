"""Facts of the points of a matrix."""

from typing import ClassVar

from pipeline.artifacts.results.facts import Facts


class PointsFacts(Facts):
    """Where the rows of a matrix are, and what is known there.

    Attributes:
        name: The point set.
        n: Unknowns: points, or triangles of a mesh.
        dimension: Coordinates of a point.
        description: One phrase that says what the points are.
        unit: Unit of the values, where there are any.
        quantity: What the values are.
        reference: Known capacitance of a mesh, in units of 4 pi eps0.
        softmax_accuracy: Test accuracy of the head of the network that the points are features of.
    """

    KIND: ClassVar[str] = "points"

    name: str
    n: int
    dimension: int
    description: str
    unit: str | None = None
    quantity: str | None = None
    reference: float | None = None
    softmax_accuracy: float | None = None
