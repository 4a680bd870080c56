"""What timings were taken on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

CPU_INFO = Path("/proc/cpuinfo")


def describe() -> dict[str, str]:
    """Return names and versions to write beside timings: `cpu`, `cores`, `system`, `python`, `torch`, `gpu` if any."""
    description = {
        "cpu": _cpu_name(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    return description | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def _cpu_name() -> str:
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
