"""Small real text for the tests: sentences of the public domain, written out here."""

from pathlib import Path

from polyseme.text.learning import LearningSettings, learn
from polyseme.text.preparing import prepare
from polyseme.text.store import Store

SENTENCES = (
    "开源软件的许可协议允许任何人使用、复制和修改源代码。",
    "人民法院依法独立行使审判权，不受行政机关的干涉。",
    "安装完成以后，在终端窗口中输入命令就可以执行程序。",
    "当事人应当在收到通知书之日起十五日内提出申请。",
    "Linux 内核 5.10 版本支持更多的硬件，性能也提高了 20%。",
    "仲裁协议应当采用书面形式，并且写明仲裁事项。",
    "我们使用 Python 3.11 编写了一个小程序，它可以读取配置文件。",
    "公民的合法权益受到侵害的，有权向人民法院提起诉讼。",
    "打开浏览器，访问项目的主页，下载最新的安装包。",
    "行政机关应当公开执行公务的程序和依据。",
    "如果服务器没有响应，请检查网络连接和防火墙设置。",
    "合同的内容由当事人约定，一般包括标的、数量和质量。",
    "“开放”意味着什么？意味着每个人都可以参与！",
    "犯罪嫌疑人有权委托辩护人；辩护人应当维护其合法权益……",
)


def write_text(path: Path, *, documents: int = 60) -> Path:
    """A file of documents of three to nine sentences each, all in one fixed order."""
    blocks = []
    for number in range(documents):
        count = 3 + number % 7
        chosen = [SENTENCES[(number * 5 + 3 * i) % len(SENTENCES)] for i in range(count)]
        blocks.append("\n".join(chosen))
    path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    return path


def small_store(folder: Path, *, documents: int = 60, vocab_size: int = 400, copies: int = 1) -> Store:
    """A store of that text, read `copies` times, with a vocabulary learned from it."""
    text = write_text(folder / "text.txt", documents=documents)
    tokenizer = learn(text.read_text("utf-8").splitlines(), LearningSettings(vocab_size=vocab_size))
    tokenizer.save(folder / "vocab")
    return prepare([text] * copies, tokenizer=folder / "vocab", out=folder / "store")
