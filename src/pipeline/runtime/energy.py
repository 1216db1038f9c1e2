"""Energy from the machine's counters: processor packages by RAPL, GPUs by NVML.

Both count the whole node, including other jobs; only a job alone on its node may attribute the difference to itself.
Reading RAPL needs a permission that many systems give only to root: counters that can't be read are left out.
"""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Counters:
    """Energy counters at one moment, in joules, and the value at which each starts again from zero."""

    joules: Mapping[str, float] = field(default_factory=dict)
    wrap: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def now(cls, powercap: Path = POWERCAP) -> "Counters":
        joules, wrap = {}, {}
        for zone in sorted(powercap.glob("intel-rapl:*")):
            if zone.name.count(":") != 1:
                continue  # a part of a package, already counted with it
            with contextlib.suppress(OSError, ValueError):
                joules[zone.name] = int((zone / "energy_uj").read_text()) / 1e6
                wrap[zone.name] = int((zone / "max_energy_range_uj").read_text()) / 1e6
        return cls(joules | _gpus(), wrap)

    def since(self, earlier: "Counters") -> dict[str, float]:
        """Joules spent since `earlier`, by kind: "package_joules", "gpu_joules"; uncounted kinds are left out."""
        spent: dict[str, float] = {}
        for name in (name for name in self.joules if name in earlier.joules):
            difference = self.joules[name] - earlier.joules[name]
            if difference < 0:
                difference += self.wrap.get(name, 0.0)
            kind = "gpu_joules" if name.startswith("gpu") else "package_joules"
            spent[kind] = spent.get(kind, 0.0) + max(difference, 0.0)
        return spent


def _gpus() -> dict[str, float]:
    """Joules of each GPU that this process may see, since the GPU's driver was loaded."""
    if not Path("/dev/nvidiactl").exists():
        return {}
    try:
        import pynvml
    except ImportError:
        return {}
    found = {}
    try:
        pynvml.nvmlInit()
        for uuid in _visible_gpus(pynvml):
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            found[f"gpu {uuid}"] = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
    except pynvml.NVMLError:
        pass
    return found


def _visible_gpus(nvml: Any) -> list[str]:
    """Return the identifiers of the GPUs that `CUDA_VISIBLE_DEVICES` names, or of all GPUs if it is not set.

    It names GPUs by number, by the beginning of an identifier, or by that of a MIG part, whose GPU counts as a whole.
    """
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    uuids = [str(nvml.nvmlDeviceGetUUID(handle)) for handle in handles]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return uuids
    words = [word.strip() for word in named.split(",")]
    wholes = [
        str(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part)))
        for part in (nvml.nvmlDeviceGetHandleByUUID(word) for word in words if word.startswith("MIG-"))
    ]
    return [
        uuid
        for index, uuid in enumerate(uuids)
        if str(index) in words
        or uuid in wholes
        or any(word.startswith("GPU-") and uuid.startswith(word) for word in words)
    ]
