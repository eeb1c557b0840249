"""Bytes to lines of text, and the likely encoding of bytes where none or a wrong one was named."""

import codecs
import io
import itertools
from collections.abc import Iterable, Iterator

from polyseme.errors import DataError

_SAMPLE = 1 << 16
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # Before UTF-16, whose mark is this one's beginning.
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_EAST_ASIAN = ("gb18030", "big5", "shift_jis", "euc-kr")

# Bytes read in a wrong encoding give rare characters; a text in the right one has every fifth of these.
_COMMON = frozenset(
    "，。、：；！？（）《》“”「」『』…—·　"
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里"
    "用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实"
    "這個們來為國說時會對於著過發後裡種經麼學現當沒動還進樣實間問無將與點見長書東車門開關"
    "のにをはがでとたしてれさいすまあるもかっなきくこりらんイスルンート"
    "이다는의가에을고하지한로도사서기를은인어리자해대과일그시정나라수보"
)
_LEAST_COMMON = 0.15
_PLAIN = frozenset(" \r\n\t,.;:!?'\"()-，。、：；！？（）《》“”「」『』…—·　")


def decoded(
    blocks: Iterable[bytes], *, name: str, encoding: str = "utf-8", errors: str = "strict"
) -> Iterator[str]:
    """The text of the blocks, without byte-order mark, every line end (CRLF, CR) as a newline.

    With `encoding` "auto" the first block decides. What is not in the encoding is a `DataError` with its
    offset and the likely encoding, unless `errors` is "replace".
    """
    decoder: io.IncrementalNewlineDecoder | None = None
    offset = 0
    for block in itertools.chain(blocks, [b""]):
        if decoder is None:
            if encoding == "auto":
                encoding = likely_encoding(block) or "utf-8"
            bare = codecs.getincrementaldecoder(encoding)(errors)
            decoder = io.IncrementalNewlineDecoder(bare, translate=True)
            wide = "\0".encode(encoding) != b"\0"
        if b"\0" in block and not wide and errors == "strict":
            raise DataError(_not_text(name, offset + block.index(0), block))
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            position = offset + len(block) - len(error.object) + error.start
            raise DataError(_not_encoded(name, position, encoding, error.object, error.start)) from error
        if offset == 0:
            text = text.removeprefix("\ufeff")
        offset += len(block)
        yield text.replace("\0", "�") if "\0" in text else text


def _not_text(name: str, offset: int, block: bytes) -> str:
    encoding = likely_encoding(block)
    if encoding is not None:
        return f"{name} looks like {encoding} (byte {offset} is zero): try --encoding {encoding}"
    return (
        f"{name} is not text: byte {offset} is zero; leave the file out, or put � in place of such bytes "
        "with --errors replace"
    )


def _not_encoded(name: str, offset: int, encoding: str, data: bytes, start: int) -> str:
    begin = data.rfind(b"\n", 0, start) + 1
    likely = likely_encoding(data[begin:])
    rule = f"{name}: byte {offset} ({data[start]:#04x}) is not {encoding}"
    if likely is None or codecs.lookup(likely) == codecs.lookup(encoding):
        return f"{rule}; give the right --encoding, try --encoding auto, or --errors replace to put � there"
    return (
        f"{rule}, the text looks like {likely}: try --encoding {likely}, --encoding auto or --errors replace"
    )


def split_lines(texts: Iterable[str], *, longest: int) -> Iterator[list[str]]:
    """The lines without their ends, in batches; a line over `longest` characters comes in several parts.

    Where it is cut depends on the line alone: behind the last end of a sentence, or blank, in the second half
    of what is allowed, else at its end.
    """
    parts: list[str] = []
    held = 0
    for text in texts:
        lines = text.split("\n")
        parts.append(lines[0])
        held += len(lines[0])
        if len(lines) == 1 and held <= longest:
            continue
        lines[0] = "".join(parts)
        rest = lines.pop()
        if max(map(len, lines), default=0) > longest:
            lines = list(itertools.chain.from_iterable(_cut(line, longest) for line in lines))
        *cut, rest = _cut(rest, longest)
        parts, held = [rest], len(rest)
        if lines or cut:
            yield lines + cut
    if held:
        yield ["".join(parts)]


def _cut(line: str, longest: int) -> list[str]:
    pieces, start = [], 0
    while len(line) - start > longest:
        middle, stop = start + longest // 2, start + longest
        end = max(line.rfind(mark, middle, stop) for mark in "。！？!? ") + 1 or stop
        pieces.append(line[start:end])
        start = end
    return [*pieces, line[start:]]


def whole_lines(texts: Iterable[str], *, name: str, longest: int) -> Iterator[list[str]]:
    """The lines without their ends, in batches; one over `longest` characters is a `DataError`.

    `name` stands for the source in the error.
    """
    parts: list[str] = []
    held = number = 0
    for text in texts:
        lines = text.split("\n")
        parts.append(lines[0])
        held += len(lines[0])
        if held > longest or (len(text) > longest and max(map(len, lines)) > longest):
            first = next((n for n, line in enumerate(lines) if len(line) > longest), 0)
            line = number + 1 + (0 if held > longest else first)
            raise DataError(f"{name}, line {line} is longer than {longest:,} characters; divide it")
        if len(lines) > 1:
            lines[0] = "".join(parts)
            parts = [lines.pop()]
            held = len(parts[0])
            number += len(lines)
            yield lines
    if held:
        yield ["".join(parts)]


def whole_text(texts: Iterable[str], *, name: str, longest: int = 1 << 28) -> str:
    """All of the text at once; a `DataError` where it has more than `longest` characters."""
    parts: list[str] = []
    held = 0
    for text in texts:
        parts.append(text)
        held += len(text)
        if held > longest:
            raise DataError(
                f"{name} has more than {longest:,} characters, and a file of this kind is read as a whole; "
                "divide it into several"
            )
    return "".join(parts)


def likely_encoding(data: bytes) -> str | None:
    """The encoding that `data`, the beginning of some text, is most likely in; None where nothing fits."""
    sample = data[:_SAMPLE]
    for mark, encoding in _MARKS:
        if sample.startswith(mark):
            return encoding
    if b"\0" in sample:
        return _likely_wide(sample)
    if _sample_text(sample, "utf-8") is not None:
        return "utf-8"
    share, encoding = max((_common_share(sample, encoding), encoding) for encoding in _EAST_ASIAN)
    if share >= _LEAST_COMMON:
        return encoding
    western = _sample_text(sample, "cp1252")
    return "cp1252" if western and _letters_share(western) > 0.9 else None


def _likely_wide(sample: bytes) -> str | None:
    """UTF-16 without a mark: read in the right order it is letters and common characters."""
    for encoding in ("utf-16-le", "utf-16-be"):
        text = _sample_text(sample, encoding)
        if text and _letters_share(text) > 0.9 and _usual_share(text) > _LEAST_COMMON:
            return encoding
    return None


def _common_share(sample: bytes, encoding: str) -> float:
    text = _sample_text(sample, encoding)
    foreign = [character for character in text or "" if character > "\x7f"]
    return sum(character in _COMMON for character in foreign) / max(len(foreign), 1)


def _usual_share(text: str) -> float:
    return sum(character in _COMMON or character.isascii() for character in text) / len(text)


def _letters_share(text: str) -> float:
    return sum(character.isalnum() or character in _PLAIN for character in text) / len(text)


def _sample_text(sample: bytes, encoding: str) -> str | None:
    """The sample as text, a character cut off at its end left out; None where it is in another encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return None
