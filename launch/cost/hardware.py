"""The accelerators that a plan is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from pipeline_steps.errors import InvalidCut


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The flags that say what a plan is for.

    Attributes:
        accelerator: its name.
        accelerators: how many.
        mfu: share of the peak that is reached.
    """

    accelerator: Annotated[str, Parameter(metavar="NAME")] = "H100"
    accelerators: int = 1
    mfu: float = 0.3  # follows from speeds in nanoT5's README (T5-Base, A100: 31 %) and NVIDIA NeMo's (220M: 27 %)

    def speed(self) -> float:
        """Return the operations per second of one accelerator, as reached.

        Raises:
            InvalidCut: the accelerator is not known, or a number makes no sense.
        """
        from train.costs import PEAK_TFLOPS, peak_flops

        peak = peak_flops(self.accelerator)
        if peak is None:
            raise InvalidCut(
                f"nothing is known of the accelerator {self.accelerator!r}: choose one of {', '.join(PEAK_TFLOPS)}"
            )
        if self.accelerators < 1 or not 0 < self.mfu <= 1:
            raise InvalidCut(
                f"{self.accelerators} accelerators at {self.mfu:g} of their peak: at least one is needed, at 0 to 1"
            )
        return self.mfu * peak


USUAL_HARDWARE = Hardware()
