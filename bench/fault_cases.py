"""What is tried: the tables of fault_cases.toml as records."""

from pathlib import Path

import msgspec

SMALL = (
    "--size tiny --threads 1 --change model.hidden_size=32 model.num_heads=2 model.num_layers=1 "
    "model.intermediate_size=32 training.batch_size=4 training.length=32"
)
FINETUNE = (
    "finetune classification --train labelled/train.tsv --dev labelled/dev.tsv --model bert --epochs 2 "
    "--batch-size 8 --threads 1"
)


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A command that writes something: the subject of kills, failing calls and full disks."""

    name: str
    command: str
    out: str
    needs: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        return self.command.replace("{small}", SMALL).replace("{finetune}", FINETUNE).split()


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kind of file that is read, and the command that reads it."""

    name: str
    folder: str
    files: tuple[str, ...]
    command: str
    ours: bool = False
    accept: str = ""
    out: str = ""
    also: tuple[str, ...] = ()
    every: int = 1

    @property
    def words(self) -> list[str]:
        return self.command.replace("{small}", SMALL).replace("{finetune}", FINETUNE).split()

    @property
    def slug(self) -> str:
        """Its name in the names of files."""
        return self.name.replace(" ", "_").replace(":", "").replace(",", "")


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Damaged files of other campaigns: those whose names begin so stand in the place of `file` of the cases.

    Files `without` are taken away before.
    """

    begins: str
    file: str
    cases: tuple[str, ...]
    without: tuple[str, ...] = ()


class _Tables(msgspec.Struct, forbid_unknown_fields=True):
    command: tuple[Command, ...]
    case: tuple[Case, ...]
    kept: tuple[Kept, ...]


_tables = msgspec.toml.decode(Path(__file__).with_suffix(".toml").read_bytes(), type=_Tables)
COMMANDS, CASES, KEPT = _tables.command, _tables.case, _tables.kept
