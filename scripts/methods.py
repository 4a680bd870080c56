"""A method of training, as it is written on the command line, such as `lstm:1:upper-bound+gate`: see `FORM`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from configuration import OBSERVATIONS, WITHOUT_SAMPLER, Config

FORM = "predictor[:k[:observe]][@rate][+gain][+gate][+reducible][+annealed]"
NUMBER = r"-?\d*\.?\d+"
WRITTEN = re.compile(
    rf"(?P<predictor>[^:@+]+)(:(?P<k>{NUMBER})(:(?P<observe>{'|'.join(OBSERVATIONS)}))?)?"
    rf"(@(?P<lr>{NUMBER}(e-?\d+)?))?(?P<gain>\+gain)?(?P<gate>\+gate)?(?P<reducible>\+reducible)?"
    r"(?P<annealed>\+annealed)?"
)
OF_SAMPLERS = ("k", "gain", "gate", "reducible", "annealed")


@dataclass(frozen=True)
class Method:
    """How samples are drawn and weighed, and what that does to the learning rate.

    Attributes:
        predictor: as in `Config`.
        k: as in `Config`.
        observe: as in `Config`.
        lr: learning rate; None for that of the comparison.
        gain: as in `Config`.
        gated: whether its gate is `auto`.
        reducible: as in `Config`.
        annealed: as in `Config`.
    """

    predictor: str
    k: float = Config.k
    observe: str = Config.observe
    lr: float | None = None
    gain: bool = False
    gated: bool = False
    reducible: bool = False
    annealed: bool = False

    @classmethod
    def parse(cls, text: str) -> Method:
        """Return the method that is written so.

        Raises:
            ValueError: it is written otherwise, or with a gate though k is not 1.

        Example:
            >>> Method.parse("lstm:0.5") == Method("lstm", k=0.5)
            True
        """
        match = WRITTEN.fullmatch(text)
        if match is None or (match["predictor"] in WITHOUT_SAMPLER and any(match[part] for part in OF_SAMPLERS)):
            raise ValueError(f"A method must be written {FORM}, such as lstm:1:upper-bound, or uniform; got {text!r}.")
        k = float(match["k"] or Config.k)
        if match["gate"] and k != 1:
            raise ValueError(f"`+gate` must be with k = 1, where alone it works; got {text!r}. Leave one of them out.")
        return cls(
            match["predictor"],
            k,
            match["observe"] or Config.observe,
            float(match["lr"]) if match["lr"] else None,
            gain=bool(match["gain"]),
            gated=bool(match["gate"]),
            reducible=bool(match["reducible"]),
            annealed=bool(match["annealed"]),
        )

    @classmethod
    def of(cls, config: Config) -> Method:
        """Return the method of a run, at the rate of that run."""
        return cls(
            *(config.predictor, config.k, config.observe),
            gain=config.gain,
            gated=config.has_sampler and config.k == 1 and config.gate == "auto",
            reducible=config.reducible,
            annealed=config.annealed,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What it decides on, as fields of `Config`."""
        own_rate = {} if self.lr is None else {"lr": self.lr}
        return {
            "predictor": self.predictor,
            "k": self.k,
            "observe": self.observe,
            "gain": self.gain,
            "gate": "auto" if self.gated else "none",
            "reducible": self.reducible,
            "annealed": self.annealed,
            **own_rate,
        }

    @property
    def label(self) -> str:
        """Its name in tables and figures."""
        k = "" if self.predictor in WITHOUT_SAMPLER else f", k = {self.k:g}"
        observed = ", upper bound" if self.observe == "upper-bound" else ""
        rate = "" if self.lr is None else f", rate {self.lr:g}"
        return f"{self.predictor}{k}{observed}{rate}{self._flags(', ')}"

    def __str__(self) -> str:
        """Return how it is written."""
        observe = f":{self.observe}" if self.observe != Config.observe else ""
        k = f":{self.k:g}" if observe or self.k != Config.k else ""
        rate = "" if self.lr is None else f"@{self.lr:g}"
        return f"{self.predictor}{k}{observe}{rate}{self._flags('+')}"

    def _flags(self, separator: str) -> str:
        flags = {"gain": self.gain, "gate": self.gated, "reducible": self.reducible, "annealed": self.annealed}
        return "".join(f"{separator}{name}" for name, is_set in flags.items() if is_set)
