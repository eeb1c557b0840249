"""`polyseme verify`: whether files are as they were written."""

from tyro.conf import Positional

from polyseme.cli.parsing import by_name
from polyseme.cli.reporter import amount
from polyseme.cli.tables import print_json, print_table
from polyseme.records import Record


class Options(Record, frozen=True, kw_only=True):
    """Compare all files of a folder with the checksums that were written with them.

    The exit status is 0 where all are as they were written, and 2 where one has changed, is missing or was
    added. Folders of other libraries have no checksums; that is said, and is no error.
    """

    folder: Positional[str]
    """A model, tokenizer, token store or run, an unfinished fine-tuning (OUT.partial) or job of embed
    (.NAME.embedding)."""
    accept: bool = False
    """Record new checksums of the files as they are now, after an intended change."""
    json: bool = False
    """What was found as JSON."""


def run(options: Options) -> None:
    """Print the damaged files, or one line; damage is an error."""
    from polyseme.errors import CheckpointError
    from polyseme.inspection.verifying import verify

    found = verify(**by_name(options, leave="json"))
    if options.json:
        print_json(
            {
                "folder": str(found.folder),
                "files": found.files,
                "bytes": found.bytes,
                "damaged": found.damaged,
                "unlisted": list(found.unlisted),
            }
        )
    elif found.damaged:
        print_table(["file", "what is wrong"], list(found.damaged.items()))
    elif not found.files:
        print(f"{found.folder}: no checksums, since polyseme did not write it; nothing was compared")
    else:
        print(f"{found.folder}: {found.files:,} files, {amount(found.bytes, 'B')}, all as they were written")
    if found.damaged:
        raise CheckpointError(
            f"{found.folder}: {', '.join(found.damaged)} not as written; fetch or write the folder again, "
            "or accept an intended change with --accept"
        )
