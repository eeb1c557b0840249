"""Which implementation of the runtime computes on the CPU, where the environment names one."""

import os
from typing import Literal, get_args

from polyseme.errors import SettingsError

KernelChoice = Literal["auto", "native", "onednn", "torch"]
VARIABLE = "POLYSEME_KERNELS"


def kernel_choice() -> KernelChoice:
    """What POLYSEME_KERNELS names.

    `native`: our compiled kernels, or an error where there are none. `onednn`: none of ours, but oneDNN's
    prepared products. `torch`: torch's public calls only. `auto`, or nothing: the first of these that works.
    """
    named = os.environ.get(VARIABLE) or "auto"
    for choice in get_args(KernelChoice):
        if named == choice:
            return choice  # type: ignore[no-any-return]
    raise SettingsError(f"{VARIABLE} is {named!r}; it may be {', '.join(get_args(KernelChoice))} or not set")
