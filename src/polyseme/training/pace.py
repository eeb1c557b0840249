"""How long a run is: a number of steps, or the steps that fit into so many minutes."""

from dataclasses import dataclass


@dataclass
class Pace:
    """A number of steps that is fixed, or follows from the speed seen so far.

    The estimate moves until the last phase of the schedule begins, then it is settled.
    """

    total_steps: int
    seconds: float | None
    stable: float
    """Share of the steps in which the schedule does not depend on the total."""
    settled: bool = False

    def update(self, done: int, elapsed: float) -> None:
        """After `done` steps in `elapsed` seconds, estimate the total anew."""
        if self.seconds is None or self.settled or done < 3:
            return
        self.total_steps = max(done + 1, round(done * self.seconds / max(elapsed, 1e-9)))
        self.settled = done >= self.stable * self.total_steps
