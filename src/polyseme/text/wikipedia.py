"""Articles of Wikipedia's XML dumps: one page in memory at a time, without markup.

What remains is running text: templates, tables, references, files, formulas and comments go; links,
emphasis, headings and list items leave their words. Redirects and pages outside the article namespace
are skipped.
"""

import html
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from xml.parsers import expat

from polyseme.errors import DataError

_ROUNDS = 50
MAX_PAGE = 1 << 24
"""Characters of a page, which MediaWiki limits to two million bytes; and bytes of a tag."""

# Elements that go with all that they hold.
_DROPPED = (
    "ref|math|chem|gallery|timeline|score|syntaxhighlight|source|graph|mapframe|imagemap|hiero|table|style"
)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_EMPTY_ELEMENT = re.compile(rf"<(?:{_DROPPED})\b[^<>]*/>", re.IGNORECASE)
_CLOSING = re.compile(rf"</({_DROPPED})\s*>", re.IGNORECASE)
_ELEMENTS = {
    name: re.compile(rf"<{name}\b[^<>]*>.*?</{name}\s*>", re.IGNORECASE | re.DOTALL)
    for name in _DROPPED.split("|")
}
_LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")

# Innermost first: what is inside has already lost its own braces and brackets.
_VARIANT = re.compile(r"-\{([^{}]*)\}-")
_TEMPLATE = re.compile(r"\{\{([^{}]*)\}\}|\{\{\{([^{}]*)\}\}\}")
_TABLE = re.compile(r"\{\|(?:(?!\{\|)[^\0])*?\|\}")
_LINK = re.compile(r"\[\[([^\[\]]*)\]\]")
# Possessive: what was taken is never given back, so a link that stays open is read once.
_EXTERNAL = re.compile(r"\[(?:https?:|ftp:|mailto:)?//[^\s\[\]]*+[^\S\n]*+([^\[\]\n]*+)\]")

_LONG_REFERENCE = re.compile(r"&#([0-9]{8,});?")
_EMPHASIS = re.compile(r"'{2,5}")
_MAGIC = re.compile(r"__[A-Z]+__")
_ITEM = re.compile(r"^[*#:;]+[^\S\n]*", re.MULTILINE)
_RULE = re.compile(r"^-{4,}", re.MULTILINE)
_HEADING = re.compile(r"(={2,6})\s*(.*?)\s*\1\s*")
_EMPTY_BRACKETS = re.compile(r"[（(][\s，,、；;：:]*[）)]")
_BLANKS = re.compile(r"[^\S\n]+")
_REDIRECT = re.compile(r"\s*#(?:redirect|重定向)", re.IGNORECASE)

_HIDDEN_LINKS = frozenset(
    ("file", "image", "media", "category", "文件", "档案", "檔案", "图像", "圖像", "分类", "分類")
)
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z-]+)?")
# Of these templates one argument is running text; of all others nothing is.
_KEPT_TEMPLATES = {"lang": 2, "link-en": 1, "le": 1, "tsl": 3, "link": 1, "nowrap": 1, "nihongo": 1}
# The sides of -{zh-hans:…;zh-hant:…}- in the order of choice.
_VARIANTS = ("zh-cn", "zh-hans", "zh-sg", "zh-my", "zh")


def articles(blocks: Iterable[bytes], *, name: str) -> Iterator[list[str]]:
    """The lines of each article, its title first; `name` stands for the dump in errors."""
    for title, text in _pages(blocks, name):
        yield [title, *plain_lines(text)]


def plain_lines(wikitext: str) -> list[str]:
    """The running text of wiki markup as lines without blank ones; a heading stays only above some text."""
    text = _without_elements(wikitext)
    text = _repeatedly(_VARIANT, _variant, text)
    text = _repeatedly(_TEMPLATE, _template, text)
    text = _repeatedly(_TABLE, lambda _: "", text)
    text = _EXTERNAL.sub(r"\1", text)
    text = _repeatedly(_LINK, _link, text)
    text = html.unescape(_LONG_REFERENCE.sub(_shortened, _TAG.sub("", text)))
    for pattern in (_EMPHASIS, _MAGIC, _ITEM, _RULE, _EMPTY_BRACKETS):
        text = pattern.sub("", text)
    return _with_used_headings(_BLANKS.sub(" ", text).split("\n"))


def _without_elements(text: str) -> str:
    text = _COMMENT.sub("", text)
    text = _EMPTY_ELEMENT.sub("", text)
    for name in dict.fromkeys(closing[1].lower() for closing in _CLOSING.finditer(text)):
        # Nothing is looked for behind the last closing tag: an element that stays open would be searched
        # to the end of the page, each time.
        last = max(c.end() for c in _CLOSING.finditer(text) if c[1].lower() == name)
        text = _ELEMENTS[name].sub("", text[:last]) + text[last:]
    return _LINE_BREAK.sub("\n", text)


def _repeatedly(pattern: re.Pattern[str], replacement: Callable[[re.Match[str]], str], text: str) -> str:
    """Replace from the inside out; unbalanced markup ends it after some rounds at most."""
    for _ in range(_ROUNDS):
        text, count = pattern.subn(replacement, text)
        if not count:
            break
    return text


def _shortened(match: re.Match[str]) -> str:
    """A numeric reference of many digits: without its zeros, or � as HTML has it for what is no character."""
    digits = match[1].lstrip("0")
    return f"&#{digits};" if len(digits) < 8 else "�"


def _variant(match: re.Match[str]) -> str:
    """-{text}- is its text; of -{zh-hans:甲;zh-hant:乙}- one side stays; -{T|…}- shows nothing."""
    body: str = match[1]
    flags, bar, rule = body.rpartition("|")
    if bar and flags.strip().upper() in ("T", "H", "D", "-", "N"):
        return ""
    sides = {
        key.strip().lower(): value.strip()
        for key, colon, value in (side.partition(":") for side in rule.split(";"))
        if colon
    }
    for variant in _VARIANTS:
        if variant in sides:
            return sides[variant]
    return rule


def _template(match: re.Match[str]) -> str:
    title, *arguments = (match[1] or "").split("|")
    positional = [argument.strip() for argument in arguments if "=" not in argument]
    kept = _KEPT_TEMPLATES.get(title.strip().lower(), 0)
    return positional[kept - 1] if 0 < kept <= len(positional) else ""


def _link(match: re.Match[str]) -> str:
    target, bar, label = match[1].partition("|")
    shown = target.removeprefix(":")
    space, colon, _ = target.partition(":")
    if colon and (space.strip().lower() in _HIDDEN_LINKS or (not bar and _LANGUAGE.fullmatch(space))):
        return ""
    return label.rpartition("|")[2] or shown.partition("#")[0]


def _with_used_headings(lines: Iterable[str]) -> list[str]:
    kept: list[str] = []
    pending = ""
    for line in map(str.strip, lines):
        if heading := _HEADING.fullmatch(line):
            pending = heading[2]
        elif line:
            if pending:
                kept.append(pending)
            kept.append(line)
            pending = ""
    return kept


class _PageHandler:
    """Collects the pages that expat reports; a page with several revisions counts with its last."""

    def __init__(self) -> None:
        self.pages: list[tuple[str, str]] = []
        self.root = ""
        self._fields: dict[str, str] = {}
        self._characters: list[str] = []
        self._held = 0

    def start(self, element: str, attributes: dict[str, str]) -> None:
        self.root = self.root or element
        if element == "page":
            self._fields = {}
        elif element == "redirect":
            self._fields["redirect"] = "yes"
        self._characters, self._held = [], 0

    def characters(self, data: str) -> None:
        self._held += len(data)
        if self._held > MAX_PAGE:
            title = self._fields.get("title", "")
            raise DataError(f"the page {title[:80]!r} is longer than {MAX_PAGE:,} characters")
        self._characters.append(data)

    def end(self, element: str) -> None:
        if element in ("title", "ns", "model", "text"):
            self._fields[element] = "".join(self._characters)
        elif element == "page" and self._is_article():
            self.pages.append((self._fields.get("title", ""), self._fields["text"]))
        self._characters, self._held = [], 0

    def _is_article(self) -> bool:
        fields = self._fields
        return (
            fields.get("ns", "0") == "0"
            and fields.get("model", "wikitext") == "wikitext"
            and "redirect" not in fields
            and bool(fields.get("text"))
            and not _REDIRECT.match(fields["text"])
        )


def _pages(blocks: Iterable[bytes], name: str) -> Iterator[tuple[str, str]]:
    """Title and markup of every article."""
    handler = _PageHandler()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = handler.start
    parser.EndElementHandler = handler.end
    parser.CharacterDataHandler = handler.characters
    read = 0
    for block in itertools.chain(blocks, [b""]):
        read += len(block)
        try:
            parser.Parse(block, not block)
            if block and read - parser.CurrentByteIndex > MAX_PAGE:
                raise DataError(f"a tag is longer than {MAX_PAGE:,} bytes")
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        except expat.ExpatError as error:
            raise DataError(f"{name} is cut off or not an XML dump of Wikipedia: {error}") from error
        if handler.root not in ("", "mediawiki"):
            raise DataError(
                f"{name} is XML of <{handler.root}>, not a dump of Wikipedia, which is <mediawiki>"
            )
        yield from handler.pages
        handler.pages.clear()
