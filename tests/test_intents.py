"""Intent and slots together: every form of file, the joint network, its scores and its answers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import CHARACTERS, small_model

from polyseme.checkpoints.loading import load
from polyseme.errors import CheckpointError, DataError
from polyseme.integrity import accept_folder
from polyseme.models.batch import IGNORED
from polyseme.records import from_plain
from polyseme.tasks.finetuning import finetune
from polyseme.tasks.intent_settings import IntentSettings
from polyseme.tasks.intents import IntentInventory, Intents, Understood
from polyseme.tasks.predicting import evaluate, predict
from polyseme.tasks.rows import collate
from polyseme.tasks.skipping import leaving_out
from polyseme.tasks.task import ByToken
from polyseme.tasks.utterances import Utterance

DATA = Path(__file__).parents[2] / "shared" / "data"
FAST = {"threads": 1, "precision": "fp32", "learning_rate": 5e-3, "batch_size": 16}
CITIES = ["上方", "大同", "天水", "海口"]
FORMS = {
    "columns": "我 O B\n去 O B\n大 B-city B\n同 E-city E\nGO\n\n几 O S\n点 O S\nASK\n",
    "list.json": json.dumps(
        [
            {"text": "我去大同", "intent": "GO", "slots": {"city": "大同"}},
            {"text": "几点", "intent": "ASK", "slots": {}},
        ],
        indent=1,
    ),
    "lines.jsonl": (
        '{"tokens": ["我", "去", "大", "同"], "tags": ["O", "O", "B-city", "E-city"], "intent": "GO"}\n'
        '{"text": "几点", "slots": [], "intent": ["ASK"]}\n'
    ),
}


def task(**options: object) -> Intents:
    return Intents(from_plain(options, IntentSettings, where="test"))


def parallel(folder: Path, *lines: tuple[str, str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, column in zip(("seq.in", "seq.out", "label"), zip(*lines, strict=True), strict=True):
        (folder / name).write_text("".join(f"{cell}\n" for cell in column), encoding="utf-8")
    return folder


def travels(path: Path, count: int, *, seed: int) -> Path:
    """Utterances whose intent is whether they hold 去 or 来, and whose slots are four cities."""
    rng = np.random.default_rng(seed)
    rest = [c for c in CHARACTERS if c not in "去来，。！？" + "".join(CITIES)]
    lines = []
    for number in range(count):
        words = [(c, "O") for c in rng.choice(rest, int(rng.integers(1, 6)))]
        first, second = str(rng.choice(CITIES))
        place = int(rng.integers(0, len(words) + 1))
        words[place:place] = [(first, "B-city"), (second, "I-city")]
        words.insert(0, ("去来"[number % 2], "O"))
        lines.append((*(" ".join(column) for column in zip(*words, strict=True)), ["GO", "COME"][number % 2]))
    return parallel(path, *lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("intents")
    travels(target / "train", 320, seed=0)
    travels(target / "dev", 40, seed=1)
    outcome = finetune(
        "intents",
        train=target / "train",
        dev=target / "dev",
        model=small_model(target, "bert"),
        out=target / "tuned",
        epochs=5,
        **FAST,
    )
    assert outcome.dev["intent_accuracy"].mean > 0.9
    assert outcome.dev["slot_f1"].mean > 0.9
    return target


@pytest.mark.parametrize("name", ["parallel", *FORMS])
def test_every_form_of_file_says_the_same(name: str, tmp_path: Path) -> None:
    if name == "parallel":
        path = parallel(tmp_path / "p", ("我 去 大 同", "O O B-city I-city", "GO"), ("几 点", "O O", "ASK"))
    else:
        path = tmp_path / name
        path.write_text(FORMS[name], encoding="utf-8")
    first, second = task().read(path, labelled=True)
    assert (first.tagged.text, first.intents) == ("我去大同", ("GO",))
    assert [tuple(entity) for entity in first.tagged.entities or ()] == [("city", 2, 4)]
    assert (second.tagged.text, second.tagged.entities, second.intents) == ("几点", (), ("ASK",))


def test_several_intents_are_one_or_several_by_choice(tmp_path: Path) -> None:
    path = parallel(tmp_path / "p", ("a", "O", "flight#fare"), ("b", "O", "fare"))
    assert [e.intents for e in task().read(path, labelled=True)] == [("flight#fare",), ("fare",)]
    several = task(several=True)
    examples = list(several.read(path, labelled=True))
    assert [e.intents for e in examples] == [("flight", "fare"), ("fare",)]
    inventory = several.fit(examples)
    assert inventory.labels == ("fare", "flight")
    said = ByToken(np.zeros((0, 1), np.float32), np.array([[2.0, 1.0]], np.float32), np.zeros(0, int))
    low = ByToken(said.tokens, np.array([[-2.0, -1.0]], np.float32), said.places)
    both, best = several.decode([said, low], examples, inventory)
    assert (both.intents, best.intents) == (("fare", "flight"), ("flight",))
    assert several.write(both)["intents"] == ["fare", "flight"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("我 O\n\n", r"x, line 1: 0 lines of one column; the last line of an utterance is its intent"),
        ("我 O\nGO\n\n你 O\nGO\nCOME\n", r"x, line 4: 2 lines of one column"),
        ('{"text": "我", "intent": "GO"}\n', r"x, line 1: an utterance has text or tokens, slots or tags"),
        (
            '{"text": "我", "slots": {"a": "你"}, "intent": "GO"}\n',
            r"x, line 1: slots must be values that stand",
        ),
        (
            '{"text": "我", "slots": [], "intent": ""}\n',
            r"x, line 1: the intent is ''; every utterance needs one",
        ),
        ('{"text": "", "slots": [], "intent": "GO"}\n', r"x, line 1: the text is empty"),
        ('{"tokens": ["我"], "tags": [], "intent": "GO"}\n', r"x, line 1: 0 tags for 1 words"),
    ],
)
def test_what_does_not_fit_names_file_line_and_rule(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / ("x.json" if content.startswith("{") else "x")
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message.replace("x,", rf"{path.name},")):
        list(task().read(path, labelled=True))
    with leaving_out(True) as left:
        assert len(list(task().read(path, labelled=True))) <= 1
    assert len(left.errors) == 1


def test_files_of_a_folder_must_agree(tmp_path: Path) -> None:
    path = parallel(tmp_path / "p", ("a", "O", "X"), ("b", "O", "Y"))
    (path / "label").write_text("X\n")
    with pytest.raises(DataError, match="they must agree"):
        list(task().read(path, labelled=True))
    (path / "label").unlink()
    with pytest.raises(DataError, match="has no label; a folder of utterances has"):
        list(task().read(path, labelled=True))
    assert len(list(task().read(path, labelled=False))) == 2


def test_what_training_never_saw_is_refused_or_missed(folder: Path) -> None:
    tokenizer = load(folder / "bert").tokenizer
    assert tokenizer is not None
    (example, *_) = task().read(folder / "dev", labelled=True)
    inventory = IntentInventory(labels=("GO", "COME"), slots=("O", "B-city"))
    with pytest.raises(DataError, match=r"seq\.in, line 1: the slot 'I-city' was never seen in training"):
        task().encode(example, tokenizer, inventory, max_length=48)
    (row,) = task(unseen="miss").encode(example, tokenizer, inventory, max_length=48)
    assert row.token_labels is not None
    assert sorted(set(row.token_labels.tolist())) == [IGNORED, 0, 1]
    other = IntentInventory(labels=("A", "B"), slots=("O", "B-city", "I-city"))
    with pytest.raises(DataError, match="the intent 'GO' was never seen in training"):
        task().encode(example, tokenizer, other, max_length=48)


def test_slots_are_asked_at_the_first_token_of_each_word(folder: Path, tmp_path: Path) -> None:
    tokenizer = load(folder / "bert").tokenizer
    assert tokenizer is not None
    path = parallel(tmp_path / "p", ("to mac 大", "O B-x I-x", "GO"))
    (example,) = task().read(path, labelled=True)
    inventory = IntentInventory(labels=("GO", "COME"), slots=("O", "B-x", "I-x"))
    (row,) = task().encode(example, tokenizer, inventory, max_length=48)
    assert tokenizer.tokens(row.input_ids) == ["[CLS]", "t", "##o", "m", "##a", "##c", "大", "[SEP]"]
    assert row.asked is not None
    assert row.token_labels is not None
    assert row.asked.tolist() == [1, 3, 6]
    assert row.token_labels.tolist() == [IGNORED, 0, IGNORED, 1, IGNORED, IGNORED, 2, IGNORED]
    (short,) = task().encode(example, tokenizer, inventory, max_length=5)
    assert (short.cut, short.places is not None and short.places.tolist()) == (3, [0, 1])


def test_scores_count_intents_slots_and_whole_utterances(tmp_path: Path) -> None:
    path = parallel(
        tmp_path / "p", ("a b", "B-x I-x", "GO"), ("a b", "B-x B-y", "COME"), ("a b", "O O", "GO")
    )
    examples = list(task().read(path, labelled=True))

    def said(intent: str, *tags: str) -> Understood:
        return Understood((intent,), {}, tags, (), "a b")

    answers = [said("GO", "B-x", "I-x"), said("COME", "B-x", "O"), said("COME", "O", "O")]
    scores = task().score(answers, examples)
    assert scores == pytest.approx(
        {"sentence_accuracy": 1 / 3, "intent_accuracy": 2 / 3, "slot_f1": 2 * 1.0 * (2 / 3) / (5 / 3)}
    )


def test_slot_f1_agrees_with_seqeval_on_random_tags(tmp_path: Path) -> None:
    metrics = pytest.importorskip("seqeval.metrics")
    rng = np.random.default_rng(0)
    tags = ["O", "B-x", "I-x", "B-y", "I-y"]
    true, given = ([[str(t) for t in rng.choice(tags, 6)] for _ in range(200)] for _ in range(2))
    path = parallel(tmp_path / "p", *(("a b c d e f", " ".join(row), "GO") for row in true))
    examples = list(task().read(path, labelled=True))
    answers = [Understood(("GO",), {}, tuple(row), (), "") for row in given]
    assert task().score(answers, examples)["slot_f1"] == pytest.approx(metrics.f1_score(true, given))


def test_the_loss_is_that_of_the_intents_and_that_of_the_slots(folder: Path) -> None:
    model = load(folder / "bert", fresh=["pooler"])
    examples = list(task().read(folder / "dev", labelled=True))[:4]
    inventory = task().fit(examples)
    parts = {}
    for weight in (0.0, 1.0, 2.0):
        torch.manual_seed(0)
        own = task(slot_weight=weight)
        module = own.build(model.backbone, inventory, reading={"pooling": "pooler"}).eval()
        rows = [own.encode(e, model.tokenizer, inventory, max_length=48)[0] for e in examples]
        loss = module(collate(rows, padding=0, config=model.backbone.config))
        parts[weight] = loss
        intent, slots = loss.parts["intent"].item(), loss.parts["slots"].item()
        assert loss.total.item() == pytest.approx(intent + weight * slots, rel=1e-5)
    assert intent == pytest.approx(np.log(len(inventory.labels)), rel=0.2)


def test_answers_are_the_same_alone_and_among_others_and_in_training(folder: Path, tmp_path: Path) -> None:
    for name, tokens in (("alone", 1), ("together", 10_000)):
        predict(folder / "dev", model=folder / "tuned", out=tmp_path / name, batch_tokens=tokens, threads=1)
    alone, together = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for name in ("alone", "together")
    )
    assert [(a["intent"], a["slots"]) for a in alone] == [(a["intent"], a["slots"]) for a in together]
    for one, other in zip(alone, together, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    report = evaluate("intents", folder / "dev", model=folder / "tuned", threads=1)
    journal = [json.loads(line) for line in (folder / "tuned" / "journal.jsonl").read_text().splitlines()]
    assert report["sentence_accuracy"] == max(line["dev"]["sentence_accuracy"] for line in journal)
    assert report["slots"]["city"]["support"] == 40


def test_slots_of_a_plain_text_have_its_characters(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("去 天水\n\n来大同的\n", encoding="utf-8")
    assert predict(tmp_path / "lines.txt", model=folder / "tuned", out=tmp_path / "p", threads=1) == 3
    first, empty, last = [json.loads(line) for line in (tmp_path / "p").read_text().splitlines()]
    assert first["intent"] == "GO"
    assert first["slots"] == [{"type": "city", "text": "天水", "start": 2, "end": 4}]
    assert empty["slots"] == []
    assert last["slots"] == [{"type": "city", "text": "大同", "start": 1, "end": 3}]


def test_transformers_loads_the_intents_as_a_classifier(folder: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "lines.txt").write_text("去天水\n来大同的\n", encoding="utf-8")
    predict(tmp_path / "lines.txt", model=folder / "tuned", out=tmp_path / "p", threads=1)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "tuned").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "tuned")
    for text, line in zip(("去天水", "来大同的"), (tmp_path / "p").read_text().splitlines(), strict=True):
        with torch.no_grad():
            chances = theirs(**tokenizer(text, return_tensors="pt")).logits[0].double().softmax(0)
        expected = {theirs.config.id2label[n]: float(p) for n, p in enumerate(chances)}
        assert json.loads(line)["probabilities"] == pytest.approx(expected, abs=1e-5)


def test_a_folder_without_its_slots_is_refused(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "tuned").iterdir():
        if path.name != "task.safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    accept_folder(tmp_path)
    with pytest.raises(CheckpointError, match=r"task\.safetensors does not fit its task: slots\.bias"):
        predict(folder / "dev", model=tmp_path, out=tmp_path / "p", threads=1)


@pytest.mark.skipif(not DATA.exists(), reason="shared/data is not here")
@pytest.mark.parametrize(
    ("place", "count", "intents"),
    [
        ("tasks_en/atis/train", 4478, 21),
        ("tasks_en/snips/train", 13084, 7),
        ("tasks_zh/cais/train.txt", 7995, 13),
        ("tasks_zh/smp_ecdt/train.txt", 2576, 23),
    ],
)
def test_the_published_files_are_read_without_options(place: str, count: int, intents: int) -> None:
    examples: list[Utterance] = list(task().read(DATA / place, labelled=True))
    assert (len(examples), len(task().fit(examples).labels)) == (count, intents)
