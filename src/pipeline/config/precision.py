"""Half-precision inference: which networks, at what cost, timed how."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.section import Name, Section

Mode = Literal["warm", "cold", "network"]


class Timing(Section):
    """How converted networks are timed: the spec of the stage `time_layers`."""

    budget_points: Annotated[float, Field(ge=0, le=100)] = Field(
        0.1,
        description="Accuracy on validation images that half precision may cost, in percentage "
        "points; beyond it layers "
        "go back to float32.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="Where layers are timed besides the CPU: auto (a GPU where there is one), cpu "
        "(nowhere), cuda.",
    )
    batch_sizes: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = Field(
        (1, 64), min_length=1, description="Batch sizes at which layers are timed."
    )
    modes: tuple[Mode, ...] = Field(
        ("network", "warm", "cold"),
        min_length=1,
        description="What ran before a timed layer: network (the other layers), warm (the layer "
        "itself), cold (a sweep of "
        "the caches). The report's bars are those of the first.",
    )
    min_samples: Annotated[int, Field(ge=5, le=10**6)] = Field(
        60,
        description="Samples of each layer's time, at least; disturbed ones count where undisturbed "
        "ones are too few "
        "after 50 ms each.",
    )


class NetworkBudget(Section):
    """What half precision may cost a network of one's own."""

    relative_error: Annotated[float, Field(gt=0, lt=1)] = Field(
        2e-2, description="Relative error of the network's output, in the Frobenius norm over the samples."
    )
    points: Annotated[float, Field(ge=0, le=100)] = Field(
        0.1, description="Accuracy in percentage points, where labels are given."
    )


class OwnNetwork(Section):
    """A trained network of your own: the spec of the stage `convert` for it."""

    path: str = Field(min_length=1, description="The network, an ONNX file.")
    inputs: str = Field(
        min_length=1,
        description="Samples like those to come, a .npy file of shape (n, ...): the first half calibrates, the other "
        "tests.",
    )
    labels: str | None = Field(
        None, min_length=1, description="Their classes, a .npy file of shape (n,); null where there are none."
    )
    budget: NetworkBudget = Field(
        default=NetworkBudget(),
        description="What half precision may cost; beyond it layers go back to float32.",
    )

    def files(self) -> dict[str, str]:
        """The files that it is made from, by the key that names each."""
        found = {"path": self.path, "inputs": self.inputs}
        return found if self.labels is None else found | {"labels": self.labels}


class Precision(Timing):
    """Half-precision inference."""

    runs: tuple[Name, ...] = Field(
        (),
        description="Training runs whose network, that of the first seed, is converted to half "
        "precision and timed.",
    )
    networks: dict[Name, OwnNetwork] = Field(
        {},
        description="Trained networks of your own, which are converted and timed too; no training is needed.",
    )
