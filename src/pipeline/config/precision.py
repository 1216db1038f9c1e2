"""Half-precision inference: the networks, the errors allowed, and the timing."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.config.section import ALL_DIFFERENT, Name, Section, misfit
from pipeline.models.packaged import PACKAGED
from pipeline.precision import Budget
from pipeline.precision.roofline import Mode

BatchSize = Annotated[int, Field(ge=1, le=65536)]

#: Prefix of the name of a network in an installed package.
PACKAGE = "package:"
PHOTOGRAPHS = "package:photographs"


class Timing(Section):
    """How converted networks are timed: the spec of the stage `time_layers`."""

    budget_points: Annotated[float, Field(ge=0, le=100)] = Field(
        Budget.points,
        description="Accuracy on validation images that half precision may cost, in percentage points. If it costs "
        "more, layers go back to float32.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="Where layers are timed besides the CPU: auto (a GPU where there is one), cpu (nowhere), cuda.",
    )
    batch_sizes: Annotated[tuple[BatchSize, ...], ALL_DIFFERENT] = Field(
        (1, 64), min_length=1, description="Batch sizes at which layers are timed."
    )
    modes: Annotated[tuple[Mode, ...], ALL_DIFFERENT] = Field(
        ("network", "warm", "cold"),
        min_length=1,
        description="What ran before a timed layer: network (the other layers), warm (the layer itself), cold (a sweep "
        "of the caches). The report's bars are those of the first.",
    )
    min_samples: Annotated[int, Field(ge=5, le=10**6)] = Field(
        60,
        description="Smallest number of timings of each layer. Disturbed timings count only where undisturbed ones "
        "are too few after 50 ms each.",
    )


class NetworkBudget(Section):
    """What half precision may cost a network of one's own."""

    relative_error: Annotated[float, Field(gt=0, lt=1)] = Field(
        Budget.output_error,
        description="Relative error of the network's output, in the Frobenius norm over the samples.",
    )
    points: Annotated[float, Field(ge=0, le=100)] = Field(
        Budget.points, description="Accuracy in percentage points, where labels are given."
    )


class OwnNetwork(Section):
    """A trained network of your own, or of a package: the spec of the stage `convert` for it."""

    LATER: ClassVar[frozenset[str]] = frozenset({"batch_sizes", "modes"})

    path: str = Field(
        min_length=1,
        description="The network: an ONNX file, or package:NAME for a trained one that an installed package carries: "
        f"{', '.join(PACKAGED)}.",
    )
    inputs: str = Field(
        min_length=1,
        description="Samples like those to come, a .npy file of shape (n, ...): the first half calibrates, the other "
        f"tests. With a package's network also {PHOTOGRAPHS}, crops of photographs that packages carry.",
    )
    labels: str | None = Field(
        None,
        min_length=1,
        description="Classes of the samples, a .npy file of shape (n,); null if there are none.",
    )
    budget: NetworkBudget = Field(
        default=NetworkBudget(),
        description="What half precision may cost. If it costs more, layers go back to float32.",
    )
    batch_sizes: Annotated[tuple[BatchSize, ...] | None, ALL_DIFFERENT] = Field(
        None,
        min_length=1,
        description="Batch sizes at which its layers are timed; null takes precision.batch_sizes.",
    )
    modes: Annotated[tuple[Mode, ...] | None, ALL_DIFFERENT] = Field(
        None, min_length=1, description="What runs before a timed layer; null takes precision.modes."
    )

    @property
    def package(self) -> str | None:
        """The name of the network in a package; None for a file."""
        return self.path.removeprefix(PACKAGE) if self.path.startswith(PACKAGE) else None

    def files(self) -> dict[str, str]:
        """The files that the network is made from, by the key that names each."""
        found = {"path": self.path, "inputs": self.inputs, "labels": self.labels}
        return {key: name for key, name in found.items() if name and not name.startswith(PACKAGE)}

    @model_validator(mode="after")
    def _packages_have_them(self) -> "OwnNetwork":
        if self.package is not None and self.package not in PACKAGED:
            raise misfit(f"path: no package has a network '{self.package}'; known: {', '.join(PACKAGED)}")
        if self.inputs.startswith(PACKAGE) and (self.package is None or self.inputs != PHOTOGRAPHS):
            raise misfit(
                f"inputs: must be a .npy file, or {PHOTOGRAPHS} for a package's network, found '{self.inputs}'"
            )
        if self.inputs == PHOTOGRAPHS and self.labels is not None:
            raise misfit("labels: photographs have none; leave labels null")
        return self


class Precision(Timing):
    """Half-precision inference."""

    runs: Annotated[tuple[Name, ...], ALL_DIFFERENT] = Field(
        (),
        description="Training runs whose network is converted to half precision and timed. It is the network of the "
        "first seed.",
    )
    networks: dict[Name, OwnNetwork] = Field(
        {}, description="Trained networks of your own or of packages, converted and timed without a training."
    )
