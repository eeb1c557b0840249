"""Which layers a vector is made of: one, several joined, or the mean of several."""

import re
from collections.abc import Sequence
from typing import Literal

from polyseme.errors import SettingsError
from polyseme.records import Record

_NUMBER = re.compile(r"-?\d+")
_RANGE = re.compile(r"(-?\d+):(-?\d+)")


class Layers(Record, frozen=True):
    """A choice of layers, written `-1`, `0,6,12`, `-4:-1` (both ends count) or `mean:-4:-1`.

    Layer 0 is the embeddings' output, layer 1 the first layer's; -1 is the last layer's.

    >>> Layers.of("mean:-2:-1")
    Layers(written='-2:-1', how='mean')
    >>> Layers.of("mean:-2:-1").numbers(12)
    (11, 12)
    """

    written: str = "-1"
    how: Literal["join", "mean"] = "join"

    def __post_init__(self) -> None:
        for part in self.written.split(","):
            if not (_NUMBER.fullmatch(part.strip()) or _RANGE.fullmatch(part.strip())):
                raise SettingsError(
                    f"{part.strip()!r} names no layer; write one (-1), several (0,6,12), a range (-4:-1) "
                    "or their mean (mean:-4:-1)"
                )

    @classmethod
    def of(cls, choice: "str | int | Sequence[int] | Layers") -> "Layers":
        """The choice that a user wrote; a `SettingsError` says how one is written."""
        if isinstance(choice, Layers):
            return choice
        if isinstance(choice, int):
            return cls(written=str(choice))
        if not isinstance(choice, str):
            return cls(written=",".join(map(str, choice)))
        if choice.startswith("mean:"):
            return cls(written=choice.removeprefix("mean:"), how="mean")
        return cls(written=choice)

    def numbers(self, num_layers: int) -> tuple[int, ...]:
        """The chosen layers of a model with `num_layers`, counted from 0 (the embeddings), in order."""
        numbers: list[int] = []
        for part in self.written.split(","):
            if ends := _RANGE.fullmatch(part.strip()):
                first, last = (_counted(int(end), num_layers) for end in ends.groups())
                if first > last:
                    raise SettingsError(
                        f"the range of layers {part.strip()} runs backwards; write {last}:{first}"
                    )
                numbers.extend(range(first, last + 1))
            else:
                numbers.append(_counted(int(part), num_layers))
        return tuple(numbers)

    def width(self, num_layers: int) -> int:
        """How many states one vector joins."""
        return 1 if self.how == "mean" else len(self.numbers(num_layers))


def _counted(number: int, num_layers: int) -> int:
    counted = number + num_layers + 1 if number < 0 else number
    if not 0 <= counted <= num_layers:
        raise SettingsError(
            f"layer {number} does not exist: this model has the layers 0 (its embeddings) to {num_layers}, "
            f"or -{num_layers + 1} to -1 counted from the end"
        )
    return counted
