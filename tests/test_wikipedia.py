import bz2
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyseme.errors import DataError
from polyseme.text.reading import Document, TextSettings, read_documents
from polyseme.text.wikipedia import articles, plain_lines

HEAD = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="zh">\n'
SITE = "<siteinfo><sitename>Wikipedia</sitename><namespaces><namespace key='0'/></namespaces></siteinfo>\n"


def page(title: str, text: str, *, ns: int = 0, model: str = "wikitext", redirect: bool = False) -> str:
    hint = '<redirect title="别处" />' if redirect else ""
    return (
        f"<page><title>{escape(title)}</title><ns>{ns}</ns><id>7</id>"
        f"{hint}<revision><id>8</id>"
        f"<contributor><username>某人</username></contributor><model>{model}</model>"
        f'<text bytes="9" xml:space="preserve">{escape(text)}</text></revision></page>\n'
    )


def dump(*pages: str) -> bytes:
    return (HEAD + SITE + "".join(pages) + "</mediawiki>\n").encode()


ARTICLE = """{{Infobox 城市
| 名称 = {{lang|zh|北京}}
| 图像 = [[File:Beijing.jpg|250px]]
}}
<!-- 注释 -->'''北京'''（{{lang-en|Beijing}}），是[[中华人民共和国|中国]]的<!--
-->[[首都]]<ref name="a">来源{{cite web|url=x}}</ref>。<ref name="b" />
[[File:A.jpg|thumb|一张[[照片]]，[http://x.org 来源]]]
== 历史 ==
{| class="wikitable"
! 年
|-
| 1949 || {| class="inner"
| 内 |}
|}
-{zh-hans:计算机;zh-hant:電腦}-与-{软件}-很{{nowrap|重要}}，見[https://example.org 官網]。
* 第一&nbsp;项
*# ''第二''项<br />下一行

=== 空节 ===
== 参考文献 ==
{{reflist}}
[[Category:城市]]
[[en:Beijing]]
__NOTOC__
"""


def test_running_text_remains_of_an_article() -> None:
    assert plain_lines(ARTICLE) == [
        "北京，是中国的首都。",
        "历史",
        "计算机与软件很重要，見官網。",
        "第一 项",
        "第二项",
        "下一行",
    ]


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("[[苹果|'''苹果''']]和[[:Category:水果]]", "苹果和Category:水果"),
        ("[[北京#历史]]、[[上海|]]", "北京、上海"),
        ("[[wikt:词|词语]] [[fr:Mot]] [[文件:图.png|缩略图|说明]]", "词语"),
        ("<math>x^{{2}}</math>与<div style='a'>块</div>", "与块"),
        ("{{a|{{b|{{{c|}}}}}}}文{{未完", "文{{未完"),
        ("甲<ref>未闭合", "甲未闭合"),
        ("-{T|zh:题;zh-tw:題}--{zh-tw:電腦;zh-cn:电脑}-", "电脑"),
        ("a &lt;b&gt; &amp; c", "a <b> & c"),
        ("----\n__TOC__\n: 缩进", "缩进"),
        ("[http://a.org] [//b.org 乙] http://c.org", "乙 http://c.org"),
    ],
)
def test_markup_leaves_its_words(markup: str, text: str) -> None:
    assert "\n".join(plain_lines(markup)) == text


def test_redirects_other_namespaces_and_code_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "zhwiki-latest-pages-articles.xml.bz2"
    path.write_bytes(
        bz2.compress(
            dump(
                page("北京", "首都。\n\n城市。"),
                page("京", "#REDIRECT [[北京]]", redirect=True),
                page("燕京", "#重定向 [[北京]]"),
                page("Talk:北京", "讨论。", ns=1),
                page("样式", "a {}", model="css"),
                page("空", ""),
            )
        )
        + bz2.compress(b"")
    )
    assert list(read_documents([path])) == [Document(["北京", "首都。", "城市。"])]
    assert list(read_documents([path], TextSettings(format="wikipedia"))) == [
        Document(["北京", "首都。", "城市。"])
    ]


def test_of_several_revisions_the_last_counts() -> None:
    text = page("甲", "旧。").replace("</page>", "<revision><text>新。</text></revision></page>")
    assert list(articles([dump(text)], name="x")) == [["甲", "新。"]]


def test_a_dump_that_is_none_or_cut_off_is_named() -> None:
    whole = dump(page("甲", "文。"))
    for length in (0, 50, len(whole) - 20):
        with pytest.raises(DataError, match=r"^x is cut off or not an XML dump of Wikipedia: "):
            list(articles([whole[:length]], name="x"))
    with pytest.raises(DataError, match="x is XML of <html>, not a dump of Wikipedia, which is <mediawiki>"):
        list(articles([b"<html></html>"], name="x"))


def test_blocks_of_any_size_give_the_same_articles() -> None:
    data = dump(page("甲", ARTICLE), page("乙", "文&字。"))
    for step in (1, 7, 1000):
        blocks = [data[i : i + step] for i in range(0, len(data), step)]
        assert list(articles(blocks, name="x")) == [["甲", *plain_lines(ARTICLE)], ["乙", "文&字。"]]


def test_memory_does_not_grow_with_the_dump() -> None:
    def blocks(pages: int) -> Iterator[bytes]:
        yield (HEAD + SITE).encode()
        for number in range(pages):
            yield page(f"第{number}页", "文。" * 500).encode()
        yield b"</mediawiki>"

    def peak(pages: int) -> int:
        tracemalloc.start()
        assert sum(1 for _ in articles(blocks(pages), name="x")) == pages
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(1000) < 200_000  # Of 3,000,000 bytes.


@given(st.text(st.sampled_from("{}[]|<>=-'\n:*#; ref/!文a")))
def test_any_broken_markup_gives_lines(text: str) -> None:
    for line in plain_lines(text):
        assert line == line.strip() != ""


@pytest.mark.parametrize(
    "mark",
    ["{{", "[[", "{|", "<ref>", "</ref>", "<ref></math>", "<!--", "-{", "<", "[//", "（ ", "== ", "[[a|"],
)
def test_unbalanced_markup_takes_no_more_than_a_moment(mark: str) -> None:
    begin = time.process_time()
    plain_lines(mark * 50_000)
    assert time.process_time() - begin < 2
