"""`polyseme convert`: a model folder of any known kind to one of ours, or to TensorFlow's."""

from typing import Literal

from tyro.conf import Positional

from polyseme.records import Record


class Options(Record, frozen=True, kw_only=True):
    """Read a model with all its heads and write it in safetensors, under the names of today.

    Reads folders of transformers, TensorFlow checkpoints (BERT, ALBERT, ELECTRA, XLNet, GPT-2, T5,
    Transformer-XL), UER-py and TencentPretrain, Paddle's ERNIE and OpenAI's GPT, without those frameworks.
    Every tensor is accounted for: what is missing, left over or cannot be said is an error.
    """

    source: Positional[str]
    """A model folder, or a name on a hub: owner/name, owner/name@revision or modelscope:owner/name."""
    target: Positional[str]
    """The folder to write; it must not exist yet."""
    to: Literal["transformers", "tensorflow"] = "transformers"
    """Whose folder to write; TensorFlow's for BERT only."""
    layout: str | None = None
    """Whose folder to read, where several fit: tensorflow-electra-generator is the generator of ELECTRA."""
    settings: str | None = None
    """The settings file of a foreign folder, where it lies elsewhere."""
    ignore_tensors: tuple[str, ...] = ()
    """Patterns of names of tensors to leave out, as the source spells them: 'crf.*' 'lstm.*' for a tagger of
    which only the encoder is wanted."""
    check: bool = False
    """Compare the outputs with transformers, if it is installed, or read TensorFlow's folder back."""


def run(options: Options) -> None:
    """Convert and print the receipt."""
    from polyseme.checkpoints.convert import convert

    print(
        convert(
            options.source,
            options.target,
            to=options.to,
            layout=options.layout,
            settings=options.settings,
            ignore=options.ignore_tensors,
            check=options.check,
        )
    )
