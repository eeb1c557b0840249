"""The build backend: setuptools', and a C compiler where a wheel with compiled kernels is asked for.

`python -m build --config-setting kernels=prebuilt` and `pip wheel . --config-settings kernels=prebuilt` make
a wheel for x86-64 Linux that has the kernels compiled; every other build is for any machine and compiles them
where they are first used.
"""

import os
from collections.abc import Mapping
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403

COMPILER = "ziglang==0.17.1"
SWITCH = "POLYSEME_BUILD_KERNELS"
"""How `setup.py` learns that kernels are asked for."""


def _ask(config_settings: Mapping[str, Any] | None) -> bool:
    kernels = (config_settings or {}).get("kernels", "")
    if kernels not in ("", "prebuilt"):
        raise SystemExit(f"kernels is {kernels!r}; it is prebuilt, or left out")
    if kernels:
        os.environ[SWITCH] = "1"
    return bool(kernels)


def get_requires_for_build_wheel(config_settings: Mapping[str, Any] | None = None) -> list[str]:
    return [*build_meta.get_requires_for_build_wheel(), *([COMPILER] if _ask(config_settings) else [])]


def prepare_metadata_for_build_wheel(
    metadata_directory: str, config_settings: Mapping[str, Any] | None = None
) -> str:
    return build_meta.prepare_metadata_for_build_wheel(metadata_directory)


def build_wheel(
    wheel_directory: str,
    config_settings: Mapping[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    _ask(config_settings)
    return build_meta.build_wheel(wheel_directory, metadata_directory=metadata_directory)
