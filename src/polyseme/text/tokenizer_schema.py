"""What a `tokenizer.json` may hold: looked through before the `tokenizers` library gets it.

The library trusts its file: a special token that is not listed, an empty replaced text or a damaged table
panics in the middle of a text, and a chain of replacements may let a text grow until memory ends. So the
content is read through records here, and what they cannot express is checked one by one.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from polyseme.errors import CheckpointError
from polyseme.protobuf import Damaged
from polyseme.text.character_map import check_character_map
from polyseme.text.patterns import Unbounded, check_pattern

MAX_ID = (1 << 22) - 1
"""Above any published vocabulary; a list of all tokens up to the largest id is kept in memory."""

_MAX_STEPS = 32
_MAX_GROWTH = 100
"""How many times longer the steps of a pipeline may make a text, Unicode's own forms aside."""
_MAX_TOKEN, _MAX_WORD, _MAX_SPECIAL = 1024, 1000, 16
_MAX_SCORE = 1e9
_MAX_CHARSMAPS = 1

Id = Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)]
Segment = Annotated[int, msgspec.Meta(ge=0, le=255)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1000)]
Character = Annotated[str, msgspec.Meta(min_length=1, max_length=1)]
Behaviour = Literal["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the file."""


class _Step(_Part, frozen=True, tag_field="type", tag=True):
    """A part that its `type` names."""


class _Pattern(_Part, frozen=True):
    """One of the two."""

    String: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    Regex: str | None = None

    def __post_init__(self) -> None:
        if (self.String is None) == (self.Regex is None):
            raise ValueError("a pattern is a String or a Regex")


class BertNormalizer(_Step, frozen=True):
    clean_text: bool
    handle_chinese_chars: bool
    lowercase: bool
    strip_accents: bool | None = None


class Strip(_Step, frozen=True):
    strip_left: bool
    strip_right: bool


class StripAccents(_Step, frozen=True):
    pass


class NFC(_Step, frozen=True):
    pass


class NFD(_Step, frozen=True):
    pass


class NFKC(_Step, frozen=True):
    pass


class NFKD(_Step, frozen=True):
    pass


class Nmt(_Step, frozen=True):
    pass


class Lowercase(_Step, frozen=True):
    pass


class Replace(_Step, frozen=True):
    pattern: _Pattern
    content: str


class Prepend(_Step, frozen=True):
    # The library panics where nothing is put before a text.
    prepend: Annotated[str, msgspec.Meta(min_length=1)]


class Precompiled(_Step, frozen=True):
    precompiled_charsmap: str | None


class BytesNormalizer(_Step, frozen=True, tag="ByteLevel"):
    pass


class NormalizerSequence(_Step, frozen=True, tag="Sequence"):
    normalizers: list["Normalizer"]


Normalizer = (
    BertNormalizer
    | Strip
    | StripAccents
    | NFC
    | NFD
    | NFKC
    | NFKD
    | Nmt
    | Lowercase
    | Replace
    | Prepend
    | Precompiled
    | BytesNormalizer
    | NormalizerSequence
)


class BertPreTokenizer(_Step, frozen=True):
    pass


class ByteLevel(_Step, frozen=True):
    """Before a model, after it, and as a decoder."""

    add_prefix_space: bool
    trim_offsets: bool
    use_regex: bool = True


class CharDelimiterSplit(_Step, frozen=True):
    delimiter: Character


class Metaspace(_Step, frozen=True):
    """Before a model, and as a decoder."""

    replacement: Character
    add_prefix_space: bool | None = None
    prepend_scheme: Literal["first", "never", "always"] | None = None
    split: bool | None = None
    str_rep: str | None = None


class Whitespace(_Step, frozen=True):
    pass


class WhitespaceSplit(_Step, frozen=True):
    pass


class Split(_Step, frozen=True):
    pattern: _Pattern
    behavior: Behaviour
    invert: bool = False


class Punctuation(_Step, frozen=True):
    behavior: Behaviour = "Isolated"


class Digits(_Step, frozen=True):
    individual_digits: bool


class UnicodeScripts(_Step, frozen=True):
    pass


class FixedLength(_Step, frozen=True):
    length: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]


class PreTokenizerSequence(_Step, frozen=True, tag="Sequence"):
    pretokenizers: list["PreTokenizer"]


PreTokenizer = (
    BertPreTokenizer
    | ByteLevel
    | CharDelimiterSplit
    | Metaspace
    | Whitespace
    | WhitespaceSplit
    | Split
    | Punctuation
    | Digits
    | UnicodeScripts
    | FixedLength
    | PreTokenizerSequence
)


class _OfTemplate(_Part, frozen=True):
    id: str
    type_id: Segment


class _Sequence(_Part, frozen=True):
    id: Literal["A", "B"]
    type_id: Segment


class _Piece(_Part, frozen=True):
    SpecialToken: _OfTemplate | None = None
    Sequence: _Sequence | None = None

    def __post_init__(self) -> None:
        if (self.SpecialToken is None) == (self.Sequence is None):
            raise ValueError("a part of a template is a SpecialToken or a Sequence")


class _SpecialToken(_Part, frozen=True):
    id: str
    ids: list[Id]
    tokens: list[str]


class TemplateProcessing(_Step, frozen=True):
    single: list[_Piece]
    pair: list[_Piece]
    special_tokens: dict[str, _SpecialToken]

    def __post_init__(self) -> None:
        for name, parts, texts in (("single", self.single, ["A"]), ("pair", self.pair, ["A", "B"])):
            if [part.Sequence.id for part in parts if part.Sequence] != texts:
                raise ValueError(f"the template {name} must hold the text {' and then '.join(texts)} once")
            named = [part.SpecialToken.id for part in parts if part.SpecialToken]
            for token in named:
                if token not in self.special_tokens:
                    raise ValueError(f"the template {name} names {token!r}, which special_tokens lacks")
            count = sum(len(self.special_tokens[token].ids) for token in named)
            if count > _MAX_SPECIAL:
                raise ValueError(
                    f"the template {name} puts {count} special tokens around a text, more than {_MAX_SPECIAL}"
                )


class BertProcessing(_Step, frozen=True):
    sep: tuple[str, Id]
    cls: tuple[str, Id]


class RobertaProcessing(_Step, frozen=True):
    sep: tuple[str, Id]
    cls: tuple[str, Id]
    trim_offsets: bool = True
    add_prefix_space: bool = True


class ProcessorSequence(_Step, frozen=True, tag="Sequence"):
    processors: list["Processor"]


Processor = ByteLevel | TemplateProcessing | BertProcessing | RobertaProcessing | ProcessorSequence


class WordPieceDecoder(_Step, frozen=True, tag="WordPiece"):
    prefix: str = "##"
    cleanup: bool = True


class BPEDecoder(_Step, frozen=True):
    suffix: str = "</w>"


class CTC(_Step, frozen=True):
    pad_token: str
    word_delimiter_token: str
    cleanup: bool


class Fuse(_Step, frozen=True):
    pass


class ByteFallback(_Step, frozen=True):
    pass


class StripDecoder(_Step, frozen=True, tag="Strip"):
    content: Character
    start: Count
    stop: Count


class DecoderSequence(_Step, frozen=True, tag="Sequence"):
    decoders: list["Decoder"]


Decoder = (
    ByteLevel
    | WordPieceDecoder
    | Metaspace
    | BPEDecoder
    | CTC
    | Fuse
    | ByteFallback
    | StripDecoder
    | Replace
    | DecoderSequence
)


class WordPiece(_Part, frozen=True):
    unk_token: str
    vocab: dict[str, Id]
    continuing_subword_prefix: str = "##"
    max_input_chars_per_word: Annotated[int, msgspec.Meta(ge=0, le=_MAX_WORD)] = 100
    type: Literal["WordPiece"] = "WordPiece"


class BPE(_Part, frozen=True):
    vocab: dict[str, Id]
    merges: list[str | tuple[str, str]]
    dropout: None = None
    """Drawing among cuts at random would give another vector at each reading."""
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    fuse_unk: bool = False
    byte_fallback: bool = False
    ignore_merges: bool = False
    type: Literal["BPE"] = "BPE"

    def __post_init__(self) -> None:
        prefix = self.continuing_subword_prefix
        if prefix and not all(_second(merge).startswith(prefix) for merge in self.merges):
            raise ValueError(f"a merge continues a word without the prefix {prefix!r}")


class Unigram(_Part, frozen=True):
    vocab: Annotated[list[tuple[str, float]], msgspec.Meta(min_length=1, max_length=MAX_ID + 1)]
    unk_id: Id | None = None
    byte_fallback: bool = False
    type: Literal["Unigram"] = "Unigram"

    def __post_init__(self) -> None:
        if self.unk_id is not None and self.unk_id >= len(self.vocab):
            raise ValueError(f"unk_id is {self.unk_id}, and the vocabulary has {len(self.vocab)} tokens")
        for token, score in self.vocab:
            if not -_MAX_SCORE <= score <= _MAX_SCORE:
                raise ValueError(f"the token {token[:20]!r} has the score {score}")


class WordLevel(_Part, frozen=True):
    vocab: dict[str, Id]
    unk_token: str
    type: Literal["WordLevel"] = "WordLevel"


MODELS: dict[str, type[WordPiece | BPE | Unigram | WordLevel]] = {
    "WordPiece": WordPiece,
    "BPE": BPE,
    "Unigram": Unigram,
    "WordLevel": WordLevel,
}


class AddedToken(_Part, frozen=True):
    """A token that is looked for before the pipeline cuts."""

    id: Id
    content: Annotated[str, msgspec.Meta(min_length=1, max_length=_MAX_TOKEN)]
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


class _File(_Part, frozen=True):
    model: dict[str, Any]
    version: Literal["1.0"] | None = None
    truncation: Any = None
    """How transformers cut rows when it wrote the file; rows are made elsewhere here."""
    padding: Any = None
    added_tokens: list[AddedToken] = []
    normalizer: Normalizer | None = None
    pre_tokenizer: PreTokenizer | None = None
    post_processor: Processor | None = None
    decoder: Decoder | None = None


P = TypeVar("P")


def check_definition(content: dict[str, Any], *, model: str, where: str) -> None:
    """Raises `CheckpointError` for a `tokenizer.json` not usable within bounds; `model` is its kind."""
    file = _converted(content, _File, place="", where=where)
    of_model = _converted(content["model"], MODELS[model], place="model", where=where)
    try:
        _check_tokens(file, of_model)
        steps = [*_steps(file.normalizer), *_steps(file.pre_tokenizer)]
        _check_steps([*steps, *_steps(file.post_processor)])
        _check_steps(_steps(file.decoder))
    except (Damaged, Unbounded, ValueError) as error:
        raise CheckpointError(f"{where}: {error}") from error


def _converted(value: Any, kind: type[P], *, place: str, where: str) -> P:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        found = re.match(r"[.\w\[\]]*", path.removeprefix(".").rstrip("`"))
        at = ".".join(part for part in (place, found.group() if found else "") if part)
        raise CheckpointError(
            f"{where} is no tokenizer.json that polyseme reads: {at or 'the file'}: {message[:200]}"
        ) from error
    except RecursionError as error:
        raise CheckpointError(f"{where} is nested too deeply for a tokenizer.json") from error


def _check_tokens(file: _File, model: WordPiece | BPE | Unigram | WordLevel) -> None:
    """Ids that stand for nothing, and tokens of absurd length."""
    if isinstance(model, Unigram):
        ids: dict[str, int] = {token: index for index, (token, _) in enumerate(model.vocab)}
    else:
        ids = model.vocab
    longest = max(map(len, ids), default=0)
    if longest > _MAX_TOKEN:
        raise ValueError(f"its vocabulary has a token of {longest} characters, more than {_MAX_TOKEN}")
    known = ids | {token.content: token.id for token in file.added_tokens}
    for token, index in _framing(file.post_processor):
        if known.get(token, index) != index or index not in known.values():
            raise ValueError(
                f"its post-processor adds the token {token[:40]!r} with the id {index}, "
                "which is not its id in the vocabulary"
            )


def _framing(processor: Processor | None) -> Iterator[tuple[str, int]]:
    """The special tokens that stand around texts, with their ids."""
    for step in _steps(processor):
        if isinstance(step, BertProcessing | RobertaProcessing):
            yield from (step.sep, step.cls)
        elif isinstance(step, TemplateProcessing):
            for special in step.special_tokens.values():
                if len(special.ids) != len(special.tokens):
                    raise ValueError(f"the special token {special.id[:40]!r} has not as many ids as tokens")
                yield from zip(special.tokens, special.ids, strict=True)


def _check_steps(steps: list[Any]) -> None:
    """Patterns of linear time, sound tables, and no growth without measure."""
    if len(steps) > _MAX_STEPS:
        raise ValueError(f"its pipeline has {len(steps)} steps, more than {_MAX_STEPS}")
    if sum(isinstance(step, Precompiled) for step in steps) > _MAX_CHARSMAPS:
        raise ValueError("its pipeline has more than one step of the type Precompiled")
    growth = 1.0
    for step in steps:
        if isinstance(step, Replace | Split) and step.pattern.Regex is not None:
            try:
                check_pattern(step.pattern.Regex)
            except Unbounded as error:
                raise Unbounded(
                    f"the pattern {step.pattern.Regex[:60]!r} of its {type(step).__name__} may take time "
                    f"without bound ({error}); polyseme runs the patterns of published models, and those "
                    "whose repetitions stand at the end of a branch"
                ) from error
        if isinstance(step, Precompiled) and step.precompiled_charsmap:
            _check_charsmap(step.precompiled_charsmap)
        growth *= _growth(step)
    if growth > _MAX_GROWTH:
        raise ValueError(
            f"its steps may make a text {growth:.0f} times as long, more than {_MAX_GROWTH} times"
        )


def _growth(step: Any) -> float:
    """How many times longer a step may make a text; Unicode's forms are left out, as they do not add up."""
    if isinstance(step, Prepend):
        return 1 + len(step.prepend)
    if isinstance(step, Replace):
        if step.pattern.String is not None:
            return max(1.0, len(step.content) / len(step.pattern.String))
        return 1 + len(step.content)  # The pattern may match where nothing stands.
    return 2 if isinstance(step, ByteLevel | BytesNormalizer) else 1


def _check_charsmap(encoded: str) -> None:
    try:
        table = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Damaged("its precompiled_charsmap is not base64") from error
    check_character_map(table)


def _steps(part: Any) -> list[Any]:
    """The steps of a part, those of sequences within sequences too."""
    if part is None:
        return []
    inner = next((getattr(part, name) for name in _INNER if hasattr(part, name)), None)
    return [part] if inner is None else [step for one in inner for step in _steps(one)]


_INNER = ("normalizers", "pretokenizers", "processors", "decoders")


def _second(merge: str | tuple[str, str]) -> str:
    return merge.partition(" ")[2] if isinstance(merge, str) else merge[1]
