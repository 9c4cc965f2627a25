"""How long a run is: a fixed number of encoder tokens, whatever it trains on."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline_steps.errors import InvalidCut


@dataclass(frozen=True)
class TokenBudget:
    """Steps x batch x input length, in encoder positions: how the paper counts (Sec. 4.1: 524B = 1024 x 512 x 1M).

    Raises:
        InvalidCut: the total is not a whole number of batches; names the nearest that are.
    """

    total_tokens: int
    batch_size: int
    input_length: int

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.total_tokens % self._per_step or self.total_tokens < 1:
            below = max(self.total_tokens // max(self._per_step, 1), 0) * self._per_step
            nearest = " or ".join(f"{total}" for total in (below, below + self._per_step) if total > 0)
            raise InvalidCut(
                f"{self.total_tokens} tokens are not a whole number of batches of {self.batch_size} x "
                f"{self.input_length}: ask for {nearest or 'a positive batch'}"
            )

    @property
    def _per_step(self) -> int:
        return self.batch_size * self.input_length

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self.total_tokens // self._per_step

    def grid(self, points: int) -> list[int]:
        """`points` steps at even distances, the last step among them; fewer if there are fewer steps."""
        return sorted({self.steps * point // points for point in range(1, points + 1)} - {0})
