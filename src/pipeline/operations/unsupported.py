"""Options of Snakemake that make no sense for this workflow: each is refused, and the error names a replacement."""

from collections.abc import Sequence

from pipeline.errors import ConfigError

INSTEAD = {
    "--containerize": (
        "writes down rules' conda environments, and all rules here run in one environment, which constraints.txt pins; "
        "build an image with that: docker build -t parsimony . (or apptainer build parsimony.sif parsimony.def)"
    ),
    "--generate-unit-tests": (
        "writes tests that compare outputs byte by byte, and results here hold dates and wall times; "
        "make results again elsewhere and compare them with: python -m pipeline verify FOLDER --against RESULTS"
    ),
}


def refuse_unsupported(arguments: Sequence[str]) -> None:
    """Raise ConfigError if an unsupported option is on Snakemake's command line."""
    for word in arguments:
        option = word.partition("=")[0]
        if option in INSTEAD:
            raise ConfigError(f"{option} {INSTEAD[option]}")
