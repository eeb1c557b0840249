"""How answers to questions on a passage are counted: exact match and F1 by the rules of each data set.

SQuAD 1.1 (Rajpurkar et al. 2016) and 2.0 (Rajpurkar et al. 2018), CMRC 2018 (Cui et al. 2019) and CJRC (Duan
et al. 2019), each as its official script counts.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyseme.tasks.treebank_words import treebank_words

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_CMRC_SIGNS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_IDEOGRAPH = re.compile("[\u4e00-\u9fa5]")


class Count(NamedTuple):
    """What one answer is worth."""

    exact: float
    f1: float


def squad_normal(text: str) -> str:
    """The text in small letters, without punctuation and articles, single blanks between words."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def squad1(given: str, gold: Sequence[str]) -> Count:
    """The best over the gold answers; F1 counts words, whatever their order."""
    words = squad_normal(given).split()
    return Count(
        max(float(squad_normal(given) == squad_normal(one)) for one in gold),
        max(_overlap(words, squad_normal(one).split()) for one in gold),
    )


def squad2(given: str, gold: Sequence[str]) -> Count:
    """As SQuAD 1.1; a question without an answer has the empty one, which is right or wrong as a whole."""
    gold = [one for one in gold if squad_normal(one)] or [""]
    exact = max(float(squad_normal(given) == squad_normal(one)) for one in gold)
    words = squad_normal(given).split()
    return Count(exact, max(_overlap(words, squad_normal(one).split(), none=1.0) for one in gold))


def cmrc_units(text: str) -> list[str]:
    """Ideographs one by one and words of what stands between them, without the signs that do not count."""
    units: list[str] = []
    between = ""
    for character in text.lower().strip():
        if character in _CMRC_SIGNS:
            continue
        if _IDEOGRAPH.match(character):
            units += [*treebank_words(between), character]
            between = ""
        else:
            between += character
    return units + treebank_words(between)


def cmrc_normal(text: str) -> str:
    """The text in small letters without the signs that do not count."""
    return "".join(character for character in text.lower().strip() if character not in _CMRC_SIGNS)


def cmrc(given: str, gold: Sequence[str]) -> Count:
    """The best over the gold answers; F1 counts the longest stretch of units that both share.

    The script knows no question without an answer; here nothing is the right answer to one.
    """
    units, normal = cmrc_units(given), cmrc_normal(given)
    counts = [
        Count(1.0, 1.0)
        if given == one == ""
        else Count(float(normal == cmrc_normal(one)), _stretch_f1(units, cmrc_units(one)))
        for one in gold or [""]
    ]
    return Count(max(count.exact for count in counts), max(count.f1 for count in counts))


def cjrc_normal(text: str) -> str:
    """The letters and digits of the text, in small letters."""
    return "".join(character for character in text.lower() if character.isdigit() or character.isalpha())


def cjrc(given: str, gold: Sequence[str]) -> Count:
    """F1 counts characters; of several gold answers each is left out once, and the bests are averaged.

    So a person, who is compared with all the others, and a model are measured alike.
    """
    normal, normals = cjrc_normal(given), [cjrc_normal(one) for one in gold or [""]]
    exacts = [float(normal == one) for one in normals]
    f1s = [_overlap(normal, one, none=1.0) for one in normals]
    return Count(_left_out(exacts), _left_out(f1s))


RULES: dict[str, Callable[[str, Sequence[str]], Count]] = {
    "squad1": squad1,
    "squad2": squad2,
    "cmrc": cmrc,
    "cjrc": cjrc,
}
"""By the data set whose script counts so: an answer (empty for none) and the gold ones to its worth."""


def suited_rule(passages: Iterator[str], gold: Sequence[Sequence[str]]) -> str:
    """The rule of the data set that these look like: by the script, and by whether all have an answer."""
    seen = "".join(passages)
    chinese = 2 * len(_IDEOGRAPH.findall(seen)) > sum(character.isalpha() for character in seen)
    open_ended = any(not of_one or any(text in ("", "YES", "NO") for text in of_one) for of_one in gold)
    return {(True, True): "cjrc", (True, False): "cmrc", (False, True): "squad2", (False, False): "squad1"}[
        chinese, open_ended
    ]


def best_threshold(
    lead: NDArray[np.float64], answered: NDArray[np.float64], unanswered: NDArray[np.float64]
) -> float:
    """The number above which a question's `lead` of no answer over the best answer should count.

    `answered` is what each question is worth with its answer, `unanswered` without. Of equal choices the one
    that leaves the most questions unanswered is taken; between two questions the middle.
    """
    order = np.argsort(lead, kind="stable")
    lead = lead[order]
    gains = np.concatenate([[0.0], np.cumsum((answered - unanswered)[order])])
    # Questions with the same lead are answered together or not at all.
    possible = [n for n in range(len(lead) + 1) if n in (0, len(lead)) or lead[n - 1] < lead[n]]
    best = max(possible, key=lambda n: (round(float(gains[n]), 9), -n))
    if len(lead) == 0:
        return 0.0
    if best == 0:
        return float(lead[0]) - 1.0
    if best == len(lead):
        return float(lead[-1]) + 1.0
    return float(lead[best - 1] + lead[best]) / 2


def _overlap(given: Sequence[str], gold: Sequence[str], *, none: float = 0.0) -> float:
    """F1 of two bags; `none` where both are empty."""
    if not given and not gold:
        return none
    same = sum((Counter(given) & Counter(gold)).values())
    return 2 * same / (len(given) + len(gold))


def _stretch_f1(given: Sequence[str], gold: Sequence[str]) -> float:
    longest = _longest_stretch(given, gold)
    return 2 * longest / (len(given) + len(gold)) if longest else 0.0


def _longest_stretch(first: Sequence[str], second: Sequence[str]) -> int:
    """How many neighbouring units the longest stretch has that stands in both."""
    longest = 0
    before = [0] * (len(second) + 1)
    for unit in first:
        row = [0]
        for place, other in enumerate(second):
            row.append(before[place] + 1 if unit == other else 0)
        longest = max(longest, *row)
        before = row
    return longest


def _left_out(values: Sequence[float]) -> float:
    """The mean, over the values, of the best of all the others; of a single value itself."""
    if len(values) == 1:
        return values[0]
    return sum(max(*values[:n], *values[n + 1 :], -1.0) for n in range(len(values))) / len(values)
