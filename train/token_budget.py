"""How long a run is: a fixed number of encoder tokens, whatever it trains on."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline_steps.errors import InvalidCut


@dataclass(frozen=True)
class TokenBudget:
    """Samples x input length, in encoder positions: how the paper counts (Sec. 4.1: 524B = 1M x 1024 x 512).

    A run ends on the exact sample: where the samples are not a whole number of batches, the last batch is smaller.

    Raises:
        InvalidCut: the total is not a whole number of samples; names the nearest that are.
    """

    total_tokens: int
    batch_size: int
    input_length: int

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.input_length < 1:
            raise InvalidCut(f"batches of {self.batch_size} x {self.input_length} tokens: both must be positive")
        if self.total_tokens % self.input_length or self.total_tokens < 1:
            below = max(self.total_tokens // self.input_length, 0) * self.input_length
            nearest = " or ".join(f"{total}" for total in (below, below + self.input_length) if total > 0)
            raise InvalidCut(
                f"{self.total_tokens} tokens are not a whole number of samples of {self.input_length} positions: ask "
                f"for {nearest}"
            )

    @property
    def samples(self) -> int:
        """Rows of the whole run."""
        return self.total_tokens // self.input_length

    @property
    def steps(self) -> int:
        """Optimizer steps; the last may have fewer samples than the others."""
        return -(-self.samples // self.batch_size)

    def samples_after(self, step: int) -> int:
        """Samples that the first `step` steps take."""
        return min(step * self.batch_size, self.samples)

    def grid(self, points: int) -> list[int]:
        """`points` steps at even distances, the last step among them; fewer if there are fewer steps."""
        return sorted({self.steps * point // points for point in range(1, points + 1)} - {0})
