"""What a fit takes of the machine: numbers for the run's record, which no result and no digest depend on."""

from __future__ import annotations

import resource
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

NAMES = ("cpu_utilization_percentage", "memory_usage_megabytes", "gpu_memory_usage_megabytes")
"""What a fit may tell of its use."""


class Usage:
    """Measures from its making on, for this process. It costs microseconds."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def so_far(self, device: torch.device) -> dict[str, float]:
        """The use of the processor and the memory.

        Returns:
            ``cpu_utilization_percentage`` since the making (100 is one core), ``memory_usage_megabytes``: the largest
            resident memory of the process, and on a GPU ``gpu_memory_usage_megabytes``: the largest that torch held.
        """
        seconds = max(time.perf_counter() - self._wall, 1e-9)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        found = {
            "cpu_utilization_percentage": 100 * (time.process_time() - self._cpu) / seconds,
            "memory_usage_megabytes": peak / 1e6,
        }
        if device.type == "cuda":
            import torch

            found["gpu_memory_usage_megabytes"] = torch.cuda.max_memory_allocated(device) / 1e6
        return found
