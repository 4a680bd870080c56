"""How much memory this process has, as Linux counts it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class Resident:
    """Bytes of a process in memory.

    Attributes:
        anonymous: its own, which can only be swapped out.
        mapped: of files, which the system writes back and drops when memory is short.
        peak: the most that both together have been since `reset_peak`.
    """

    anonymous: int
    mapped: int
    peak: int

    @property
    def total(self) -> int:
        """Both kinds together."""
        return self.anonymous + self.mapped

    @classmethod
    def now(cls) -> Resident:
        """Read what this process has."""
        return cls.parse((PROCESS / "status").read_text(encoding="utf-8"))

    @classmethod
    def parse(cls, status: str) -> Resident:
        """Read the text of `/proc/self/status`; a file system in memory counts as files."""
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        anonymous, files, shared, peak = (
            1024 * int(fields[name].split()[0]) for name in ("RssAnon", "RssFile", "RssShmem", "VmHWM")
        )
        return cls(anonymous, files + shared, peak)


def give_back() -> None:
    """Give back what is free but kept for later, where the C library knows how: it would hide what comes next."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def reset_peak() -> None:
    """Let `Resident.peak` begin anew."""
    give_back()
    (PROCESS / "clear_refs").write_text("5", encoding="utf-8")
