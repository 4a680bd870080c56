"""A method of training: how samples are drawn and weighed. Written `predictor[:k[:observe]]` on the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass

from configuration import BASELINE, OBSERVATIONS, Config

NUMBER = r"-?\d*\.?\d+"
WRITTEN = re.compile(rf"(?P<predictor>[^:]+)(:(?P<k>{NUMBER})(:(?P<observe>{'|'.join(OBSERVATIONS)}))?)?")


@dataclass(frozen=True)
class Method:
    """How samples are drawn and weighed.

    Attributes:
        predictor: as in `Config`.
        k: as in `Config`.
        observe: as in `Config`.
    """

    predictor: str
    k: float = Config.k
    observe: str = Config.observe

    @classmethod
    def parse(cls, text: str) -> Method:
        """Return the method written as `predictor[:k[:observe]]`.

        Raises:
            ValueError: it is written otherwise.

        Example:
            >>> Method.parse("lstm:0.5")
            Method(predictor='lstm', k=0.5, observe='loss')
        """
        match = WRITTEN.fullmatch(text)
        if match is None or (match["predictor"] == BASELINE and match["k"]):
            form = "predictor[:k[:observe]], such as lstm:1:upper-bound, or uniform"
            raise ValueError(f"A method must be written {form}; got {text!r}.")
        return cls(match["predictor"], float(match["k"] or Config.k), match["observe"] or Config.observe)

    @classmethod
    def of(cls, config: Config) -> Method:
        """Return the method of a run."""
        return cls(BASELINE) if config.predictor == BASELINE else cls(config.predictor, config.k, config.observe)

    @property
    def label(self) -> str:
        """Its name in tables and figures."""
        if self.predictor == BASELINE:
            return BASELINE
        return f"{self.predictor}, k = {self.k:g}" + (", upper bound" if self.observe == "upper-bound" else "")

    @property
    def folder(self) -> str:
        """Its name as a folder."""
        return BASELINE if self.predictor == BASELINE else f"{self.predictor}-k{self.k:g}-{self.observe}"
