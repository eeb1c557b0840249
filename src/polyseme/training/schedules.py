"""How the learning rate goes: a factor from 0 to 1 as a pure function of the steps done."""

import math
from collections.abc import Callable
from dataclasses import dataclass


def linear(step: int, *, warmup_steps: int, total_steps: int, cooldown: float) -> float:
    """A straight line from 1 at step 0 to 0 at the end; warm-up cuts its beginning off.

    So the highest factor is 1 − warmup/total, as in BERT's published code.
    """
    return step / warmup_steps if step < warmup_steps else max(0.0, 1 - step / total_steps)


def cosine(step: int, *, warmup_steps: int, total_steps: int, cooldown: float) -> float:
    """Half a cosine from 1 after the warm-up to 0 at the end."""
    if step < warmup_steps:
        return step / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def warmup_stable_decay(step: int, *, warmup_steps: int, total_steps: int, cooldown: float) -> float:
    """1 until the last `cooldown` of the steps, then 1 − √ of the way through them.

    Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations".
    """
    if step < warmup_steps:
        return step / warmup_steps
    first = (1 - cooldown) * total_steps
    if step <= first:
        return 1.0
    return max(0.0, 1 - math.sqrt((step - first) / (total_steps - first)))


def warmup_times_linear(step: int, *, warmup_steps: int, total_steps: int, cooldown: float) -> float:
    """A straight line from 1 at step 0 to 0 at the end, times the warm-up, which only bends its beginning.

    ELECTRA's, and that of GPT's fine-tuning. The highest factor is 1 − warmup/total, as in `linear`.
    """
    return constant(step, warmup_steps=warmup_steps, total_steps=total_steps, cooldown=cooldown) * max(
        0.0, 1 - step / total_steps
    )


def slanted_triangular(step: int, *, warmup_steps: int, total_steps: int, cooldown: float) -> float:
    """Up from 1/32 to 1 over the warm-up, and back to 1/32 at the end, in straight lines.

    Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text Classification", equation 3, with
    their ratio of 32; `warmup_steps` is its cut, which they set at a tenth of all steps.
    """
    if step < warmup_steps:
        share = step / warmup_steps
    else:
        share = 1 - (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return (1 + max(0.0, share) * (_SLANT - 1)) / _SLANT


def noam(step: int, *, warmup_steps: int, total_steps: int, cooldown: float) -> float:
    """A straight warm-up to 1, from where the factor falls with the root of the steps.

    Vaswani et al. 2017, equation 3, which counts steps from 1; its learning rate at the highest is
    1 / √(hidden_size · warmup), which is 6.99e-4 for the base model.
    """
    number, peak = step + 1, max(1, warmup_steps)
    return min(number / peak, math.sqrt(peak / number))


def inverse_root(step: int, *, warmup_steps: int, total_steps: int, cooldown: float) -> float:
    """1 through the warm-up, from where the factor falls with the root of the steps.

    Raffel et al. 2020 (T5), section 3.1.2: 1/√max(step, warmup); the learning rate at its highest is
    1/√warmup, 0.01 for 10,000 steps. Adafactor's relative step size (Shazeer and Stern 2018, algorithm 5)
    is the same.
    """
    peak = max(1, warmup_steps)
    return math.sqrt(peak / max(step, peak))


def constant(step: int, *, warmup_steps: int, total_steps: int, cooldown: float) -> float:
    """1 after the warm-up."""
    return min(1.0, step / warmup_steps) if warmup_steps else 1.0


_SLANT = 32
"""How much higher a slanted triangle is at its highest than at its ends."""

SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "cosine": cosine,
    "inverse-root": inverse_root,
    "linear": linear,
    "noam": noam,
    "slanted-triangular": slanted_triangular,
    "warmup-stable-decay": warmup_stable_decay,
    "warmup-times-linear": warmup_times_linear,
}


@dataclass(frozen=True)
class Schedule:
    """A schedule with its numbers; `warmup` below 1 is a share of all steps, else their number."""

    name: str
    total_steps: int
    warmup: float = 0.0
    cooldown: float = 0.4

    @property
    def warmup_steps(self) -> int:
        steps = self.warmup * self.total_steps if self.warmup < 1 else self.warmup
        return min(int(steps), self.total_steps)

    def __call__(self, step: int) -> float:
        """The factor for the step after `step` steps are done."""
        return SCHEDULES[self.name](
            step, warmup_steps=self.warmup_steps, total_steps=self.total_steps, cooldown=self.cooldown
        )
