"""Limits of an imaginary processor in round numbers, so that bounds can be computed in one's head."""

from pipeline.precision.roofline import Roofs

ROUND_ROOFS = Roofs(
    instruction_set="portable",
    gflops=100.0,
    conversions=50.0,
    bandwidth={"L1": 400.0, "L2": 200.0, "L3": 100.0, "DRAM": 25.0},
    cache_bytes={"L1": 32_000, "L2": 1_000_000, "L3": 16_000_000},
)
