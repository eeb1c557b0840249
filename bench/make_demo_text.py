"""Make the text that ships with the demo from the project's data folder.

    python bench/make_demo_text.py ../shared/data src/polyseme/demo/text

The same data give the same bytes. Three corpora to learn from; sentences for the words of `AMBIGUOUS`
and `CONTROLS`, from documents that the corpora do not hold; and the sentiment task, of whose dev and
test lines no poem of the corpus holds one.
"""

import lzma
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from polyseme.demo.words import AMBIGUOUS, CONTROLS
from polyseme.files import write_whole
from polyseme.seeding import generator
from polyseme.tasks.subsets import subset
from polyseme.text.sentences import sentences
from polyseme.text.words import word_cutter

MEGABYTES = {"tech": 8.0, "law": 7.0, "poetry": 5.0}
CONTEXTS = 60
SHORTEST, LONGEST = 12, 90
NUMBER = re.compile(
    r"^(第[零一二三四五六七八九十百千]+条(之[一二三四五])? *|[（(][一二三四五六七八九十]+[)）] *)"
)
"""Of an article or a clause, at the start of a sentence: it would give the law away at once."""
LINES = 4000
"""Of the task's 16,000 to train on, each label with its share; of dev and test all 2,000 are taken."""
TASK = "tasks_zh/cclue_poem_sentiment"


def main(data: Path, out: Path) -> None:
    known = task_lines(data)
    contexts = ["domain\tword\tsentence"]
    for domain, megabytes in MEGABYTES.items():
        documents = [d for d in read_documents(data, domain) if domain != "poetry" or not holds(d, known)]
        order = generator(0, "demo text", domain).permutation(len(documents)).tolist()
        kept, rest = divided(documents, order, megabytes * 1e6)
        write(out / f"{domain}.txt.xz", "\n\n".join(kept) + "\n")
        if domain != "poetry":
            contexts += [f"{domain}\t{word}\t{sentence}" for word, sentence in with_words(rest)]
    write(out / "contexts.tsv.xz", "\n".join(contexts) + "\n")
    for part in ("train", "dev", "test"):
        lines = (data / TASK / f"{part}.tsv").read_text(encoding="utf-8").splitlines()
        labels = [line.split("\t")[1] for line in lines[1:]]
        kept = subset(lines[1:], labels, share=None, limit=LINES, seed=0)
        write(out / f"poems_{part}.tsv.xz", "\n".join([lines[0], *kept]) + "\n")


def read_documents(data: Path, domain: str) -> list[str]:
    path = data / "corpus_zh" / domain / f"{domain}.txt.xz"
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return [document.strip("\n") for document in file.read().split("\n\n") if document.strip()]


def task_lines(data: Path) -> set[str]:
    """The lines on which the demo's classifiers are chosen and measured."""
    return {
        row.split("\t")[0]
        for part in ("dev", "test")
        for row in (data / TASK / f"{part}.tsv").read_text(encoding="utf-8").splitlines()[1:]
    }


def holds(document: str, known: set[str]) -> bool:
    return not known.isdisjoint(re.split(r"[^\w]+", document))


def divided(documents: list[str], order: list[int], size: float) -> tuple[list[str], list[str]]:
    """The first documents in `order` up to `size` bytes, in the order of the corpus, and the rest."""
    total, count = 0, 0
    for count, number in enumerate(order):  # noqa: B007
        total += len(documents[number].encode()) + 2
        if total > size:
            break
    kept, rest = sorted(order[:count]), order[count:]
    return [documents[n] for n in kept], [documents[n] for n in rest]


def with_words(documents: Iterable[str]) -> Iterator[tuple[str, str]]:
    """For each word up to `CONTEXTS` sentences, at first one of a document, then whatever there is."""
    cut = word_cutter("rjieba")
    found: dict[str, list[list[str]]] = {word: [] for word in (*AMBIGUOUS, *CONTROLS)}
    for document in documents:
        wanted = [word for word in found if word in document]
        here: dict[str, list[str]] = {word: [] for word in wanted}
        for line in document.split("\n"):
            for begin, end in sentences(line):
                sentence = NUMBER.sub("", " ".join(line[begin:end].split()))
                if not SHORTEST <= len(sentence) <= LONGEST:
                    continue
                if present := [word for word in wanted if word in sentence]:
                    words = cut(sentence)
                    for word in present:
                        # The first place is the one that is drawn, so it must be the word and no part of one.
                        if words.count(word) == 1 == sentence.count(word):
                            here[word].append(sentence)
        for word, of_document in here.items():
            if of_document:
                found[word].append(of_document)
    for word, of_documents in found.items():
        yield from ((word, sentence) for sentence in taken_in_turn(of_documents)[:CONTEXTS])


def taken_in_turn(lists: list[list[str]]) -> list[str]:
    """The first of each list, then the second of each …; what is there twice once."""
    longest = max(map(len, lists), default=0)
    return list(dict.fromkeys(one[n] for n in range(longest) for one in lists if n < len(one)))


def write(path: Path, text: str) -> None:
    write_whole(path, lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{path}: {len(text.encode()) / 1e6:.2f} MB, {path.stat().st_size / 1e6:.2f} MB in xz")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
