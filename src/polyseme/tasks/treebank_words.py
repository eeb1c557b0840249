"""English words as the Penn Treebank cuts them, for scorers that count such words.

Marcus, Santorini and Marcinkiewicz 1993, "Building a Large Annotated Corpus of English"; the rules are those
of the treebank's tokenizer as NLTK's `word_tokenize` applies them, which the script of CMRC 2018 calls. That
looks for ends of sentences first, which needs a learned model; here the text is one sentence, so that only
the last full stop is a token of its own. In answers, which are short, the two differ where a stop stands in
the middle.
"""

import re

_RULES: tuple[tuple[str, str], ...] = (
    # Opening quotes: a plain one is opening at the front and behind a blank or a bracket.
    (r"([«“‘„]|`+)", r" \1 "),
    (r'^"', "``"),
    (r"(``)", r" \1 "),
    (r"""([ (\[{<])("|'{2})""", r"\1 `` "),
    (r"(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", "' "),
    # Signs: the last full stop, and commas and colons that no digit follows.
    (r"""(?<=[^.])\.([\])}>"'»”’ ]*+)\s*+$""", r" . \1 "),
    # Of two in a row only the first is cut off, since a match does not begin inside another.
    (r"([:,])(\D)", r" \1 \2"),
    (r"([:,])$", r" \1 "),
    (r"(\.{2,})", r" \1 "),
    (r"([;@#$%&?!*\u2012-\u2015])", r" \1 "),
    (r"([^'])' ", r"\1 ' "),
    (r"([\]\[(){}<>])", r" \1 "),
    (r"--", " -- "),
    # Closing quotes, and what hangs on a word.
    (r"^|$", " "),
    (r"([»”’])", r" \1 "),
    (r"""''|\"""", " '' "),
    (r"\s+", " "),
    (r"([^' ])('[smd]|') ", r"\1 \2 "),
    (r"([^' ])('ll|'re|'ve|n't) ", r"\1 \2 "),
    # Two words written as one.
    (r"\b(can)(not)\b", r" \1 \2 "),
    (r"\b(d)('ye)\b", r" \1 \2 "),
    (r"\b(gim|lem)(me)\b", r" \1 \2 "),
    (r"\b(gon)(na)\b", r" \1 \2 "),
    (r"\b(got)(ta)\b", r" \1 \2 "),
    (r"\b(more)('n)\b", r" \1 \2 "),
    (r"\b(wan)(na)(?=\s)", r" \1 \2 "),
    (r" ('t)(is|was)\b", r" \1 \2 "),
)
_COMPILED = tuple((re.compile(pattern, re.IGNORECASE), into) for pattern, into in _RULES)


def treebank_words(text: str) -> list[str]:
    """The words and signs of one sentence.

    >>> treebank_words("they don't pay $3.50, do they?")
    ['they', 'do', "n't", 'pay', '$', '3.50', ',', 'do', 'they', '?']
    """
    for pattern, into in _COMPILED:
        text = pattern.sub(into, text)
    return text.split()
