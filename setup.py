"""What pyproject.toml cannot say: how the kernels are compiled that come with a wheel."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
PLATFORM = "manylinux_2_17_x86_64.manylinux2014_x86_64"


class BuildWithKernels(build_py):
    """The Python files, and a library for each level of instructions."""

    def run(self) -> None:
        super().run()
        sys.path.insert(0, str(HERE / "src"))
        from polyseme.runtime.native.building import SOURCE
        from polyseme.runtime.native.prebuilt import LEVELS

        folder = Path(self.build_lib, "polyseme", "runtime", "native", "prebuilt")
        folder.mkdir(parents=True, exist_ok=True)
        cache = Path(self.get_finalized_command("build").build_temp, "zig").absolute()
        environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(cache), "ZIG_LOCAL_CACHE_DIR": str(cache)}
        for level in LEVELS:
            words = [sys.executable, "-m", "ziglang", "cc", *level.flags, "-fno-sanitize=all", "-s"]
            target = folder / level.file.name
            subprocess.run([*words, "-o", str(target), str(SOURCE), "-lm"], env=environment, check=True)


class HasLibraries(Distribution):
    """What is installed differs between platforms."""

    def has_ext_modules(self) -> bool:
        return True


class PlatformWheel(bdist_wheel):
    """For Linux on x86-64 and any Python 3: nothing is linked with Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", PLATFORM


with_kernels: dict[str, Any] = {
    "cmdclass": {"build_py": BuildWithKernels, "bdist_wheel": PlatformWheel},
    "distclass": HasLibraries,
}
setup(**(with_kernels if os.environ.get("POLYSEME_BUILD_KERNELS") else {}))
