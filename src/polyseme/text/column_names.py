"""The names by which columns and keys of tables are known, for all readers: one table, English and Chinese.

Of several names that a file has, the first in this order counts. Names are compared without case.
"""

import re
from collections.abc import Collection, Sequence

NAMES: dict[str, tuple[str, ...]] = {
    "text": (
        *("text_a", "text", "sentence", "sentence1", "sentence_a", "premise", "question1", "query"),
        *("content", "review", "comment", "review_text", "comment_text", "abst", "#1 string", "document"),
        *("article", "body", "message", "utterance", "tweet", "data", "abstract", "title", "question"),
        *("正文", "内容", "文本", "文本内容", "评论内容", "评论", "评论文本", "评价内容", "评价", "点评"),
        *("点评内容", "微博内容", "微博中文内容", "新闻内容", "文章", "文章内容", "句子", "句子1", "文本1"),
        *("语句", "语料", "前提", "问题1", "问题", "问句", "提问", "留言", "留言内容", "留言详情", "反馈"),
        *("反馈内容", "描述", "摘要", "标题"),
    ),
    "pair": (
        *("text_b", "sentence2", "sentence_b", "hypothesis", "question2", "#2 string"),
        *("句子2", "文本2", "问题2", "假设"),
    ),
    "label": (
        *("label", "labels", "标签", "class", "category", "target", "quality", "entailment_judgment"),
        *("sentiment", "polarity", "emotion", "tag", "类别", "类别标签", "分类", "分类标签", "情感"),
        *("情感标签", "情感倾向", "情感类别", "情感极性", "情绪", "极性", "标注", "标注结果", "一级标签"),
        *("一级分类",),
    ),
    "score": (
        *("score", "similarity", "relatedness_score", "label", "labels", "rating", "stars"),
        *("分数", "得分", "评分", "打分", "相似度", "星级", "标签"),
    ),
    "query": (
        *("query", "question", "text_a", "sentence1", "premise", "text", "sentence"),
        *("查询", "查询词", "检索词", "问题", "问句", "句子1", "文本1"),
    ),
    "candidate": (
        *("candidate", "document", "passage", "answer", "text_b", "sentence2", "hypothesis"),
        *("候选", "候选答案", "文档", "段落", "答案", "回答", "回复", "句子2", "文本2"),
    ),
    "relevance": (
        *("label", "relevance", "grade", "score", "target"),
        *("标签", "相关性", "相关度", "是否相关", "分数", "得分"),
    ),
    "id": ("id", "idx", "index", "guid", "编号", "序号", "标识"),
    "tokens": ("tokens", "words", "text", "content", "sentence", "data", "文本", "内容", "句子", "正文"),
    "tags": (
        *("tags", "ner_tags", "label", "labels", "entities", "spans", "annotations"),
        *("标签", "标注", "实体"),
    ),
    "utterance": (
        *("tokens", "words", "text", "utterance", "query", "sentence"),
        *("文本", "内容", "句子", "问句"),
    ),
    "slots": ("slots", "tags", "entities", "labels", "槽位", "实体"),
    "intent": ("intent", "intents", "label", "意图", "标签"),
    "passage": ("passage", "context", "article", "text", "sentence", "段落", "文章", "篇章", "原文"),
    "question": ("question", "问题", "提问"),
    "choices": ("choices", "options", "choice", "选项"),
    "answer": ("answer", "label", "answerKey", "答案"),
    "answers": ("answers", "答案"),
}  # fmt: skip
"""By what stands in the column."""

_NAME = re.compile(r"[^\W\d][\w #./()（）-]*")
_LONGEST_NAME, _LONGEST_WIDE_NAME = 30, 10


def known_as(role: str, columns: Sequence[str]) -> str | None:
    """The column that is known to hold `role`, as the file spells it; None where there is none.

    >>> known_as("text", ["ID", "内容", "Title"])
    '内容'
    """
    return next(iter(all_known_as(role, columns)), None)


def all_known_as(role: str, columns: Sequence[str]) -> list[str]:
    """Every column that is known to hold `role`, the likeliest first."""
    spelt = {column.strip().casefold(): column for column in reversed(columns)}
    return [spelt[name.casefold()] for name in NAMES[role] if name.casefold() in spelt]


def is_known(cell: str, roles: Collection[str]) -> bool:
    """Whether a cell is the name of a column that holds one of `roles`."""
    name = cell.strip().casefold()
    return any(name == known.casefold() for role in roles for known in NAMES[role])


def looks_like_a_name(cell: str) -> bool:
    """Whether a cell could be the name of a column: short, without marks of a sentence, no number."""
    cell = cell.strip()
    longest = _LONGEST_NAME if cell.isascii() else _LONGEST_WIDE_NAME
    return len(cell) <= longest and _NAME.fullmatch(cell) is not None
