"""`polyseme generate`: prompts continued, or rewritten, by a model that writes."""

from pathlib import Path

from tyro.conf import Positional

from polyseme.cli.parsing import by_name
from polyseme.generation.settings import GenerateSettings
from polyseme.text.reading import TextSettings


class Options(GenerateSettings, frozen=True, kw_only=True):
    """Continue each line of a file, or rewrite it with an encoder-decoder; what comes of it is printed, or
    written as JSON lines."""

    prompts: Positional[str]
    """A file with one prompt a line, or - for standard input."""
    model: str
    """A model folder, of ours or transformers, or a name on a hub: owner/name, owner/name@revision or
    modelscope:owner/name."""
    out: str | None = None
    """Where the texts go as JSON lines, with their scores; None: they are printed."""
    text: TextSettings = TextSettings()
    """How the prompts are read."""


def run(options: Options) -> None:
    """Read the prompts, continue them, and print or write what came of it."""
    import msgspec

    from polyseme.files import whole_file
    from polyseme.generation.generating import generate
    from polyseme.text.reading import read_lines

    prompts = list(read_lines(options.prompts, options.text))
    words = by_name(options)
    settings = {name: words[name] for name in GenerateSettings.__struct_fields__}
    found = generate(prompts, model=options.model, **settings)
    if options.out is None:
        for one in found:
            for answer in one.answers:
                print(one.prompt + answer.text if one.continued else answer.text)
        return
    with whole_file(Path(options.out)) as target:
        for one in found:
            target.write(msgspec.json.encode(one) + b"\n")
    print(f"{options.out}: {len(found):,} texts")
