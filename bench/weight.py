"""What an environment weighs: the size of every installed package, the largest first.

    python bench/weight.py [--top 10] [FOLDER of the environment]

The whole is measured as files on disk count, in blocks; a package counts what its own RECORD lists, and the
bytecode that Python wrote beside it.
"""

import argparse
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

MEGABYTE = 1e6


def on_disk(path: Path) -> int:
    """Bytes that a file takes from the disk, in its blocks; a link takes nothing."""
    return 0 if path.is_symlink() or not path.is_file() else path.stat().st_blocks * 512


def weight(package: Distribution) -> int:
    """Bytes of the files of one installed package, with their bytecode."""
    files = {Path(str(package.locate_file(file))) for file in package.files or ()}
    folders = {file.parent for file in files}
    files |= {cached for folder in folders for cached in (folder / "__pycache__").glob("*.pyc")}
    return sum(map(on_disk, files))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(sys.prefix))
    parser.add_argument("--top", type=int, default=10)
    options = parser.parse_args()
    places = [str(path) for path in options.folder.glob("lib/python3*/site-packages")]
    packages = sorted(((weight(p), p) for p in distributions(path=places)), key=lambda pair: -pair[0])
    whole = sum(map(on_disk, options.folder.rglob("*")))
    apparent = sum(p.stat().st_size for p in options.folder.rglob("*") if p.is_file() and not p.is_symlink())
    print("| package | version | MB |\n| --- | --- | ---: |")
    for size, package in packages[: options.top]:
        print(f"| {package.name} | {package.version} | {size / MEGABYTE:,.0f} |")
    others = sum(size for size, _ in packages[options.top :])
    print(f"| {max(0, len(packages) - options.top)} others | | {others / MEGABYTE:,.0f} |")
    print(f"| whole environment, on disk | | {whole / MEGABYTE:,.0f} |")
    print(f"| the same, bytes of the files | | {apparent / MEGABYTE:,.0f} |")


if __name__ == "__main__":
    main()
