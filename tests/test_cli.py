"""The command line: its words, its refusals, its silence about torch."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from polyseme.cli import main
from polyseme.cli.commands import COMMANDS, UsageError, load
from polyseme.cli.parsing import by_name, known_options, parse
from polyseme.cli.running import run
from polyseme.errors import DataError

HEAVY = ("torch", "transformers", "sklearn", "matplotlib", "pyarrow")
TEXT = "程序正在执行。法院执行判决，双方签订协议！\n网络协议规定了文件的格式。\n\n窗口里打开一个文件。\n" * 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, a tokenizer, a store and a model, made by the commands themselves."""
    path = tmp_path_factory.mktemp("cli")
    (path / "text.txt").write_text(TEXT, encoding="utf-8")
    lines = [f"{'好' if i % 2 else '坏'}文件，第{i}个。\t{i % 2}" for i in range(24)]
    (path / "examples.tsv").write_text("text\tlabel\n" + "\n".join(lines) + "\n", encoding="utf-8")
    text, vocab, store = str(path / "text.txt"), str(path / "vocab"), str(path / "store")
    assert main(["--quiet", "tokenizer", "learn", text, "--out", vocab, "--vocab-size", "100"]) == 0
    assert main(["--quiet", "prepare", text, "--tokenizer", vocab, "--out", store, "--workers", "1"]) == 0
    tiny = ["--change", "training.batch_size=4", "--threads", "1", "--precision", "fp32"]
    pretrain = ["pretrain", "modernbert-wwm", store, "--out", str(path / "model"), "--size", "tiny"]
    assert main(["--quiet", *pretrain, "--steps", "2", "--seed", "3", *tiny]) == 0
    return path


def ask(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The command line in a process of its own, which says at its end what was loaded."""
    code = (
        "import sys\nfrom polyseme.cli import main\n"
        "try:\n    status = main(sys.argv[1:])\nexcept SystemExit as left:\n    status = left.code\n"
        f"print('LOADED', *[m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\nsys.exit(status)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )


def test_an_option_that_is_given_again_is_added() -> None:
    from polyseme.cli.pretrain import Options

    words = ["bert", "store", "--change", "a=1", "b=2", "--out", "run", "--change=c=3", "--steps", "4"]
    options = parse(Options, words, command="pretrain")
    assert options.change == ("a=1", "b=2", "c=3")
    assert (options.recipe, options.store, options.out, options.steps) == ("bert", "store", "run", 4)
    with pytest.raises(UsageError, match="5"):
        parse(Options, [*words, "--steps", "5"], command="pretrain")


HELPS = [["--help"], ["show", "--help"], ["recipes"], *([*name.split(), "--help"] for name in COMMANDS)]


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_help_and_recipes_load_nothing_heavy(words: list[str]) -> None:
    asked = ask(*words)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout
    assert asked.stderr == "LOADED\n"


def test_importing_polyseme_loads_nothing_heavy() -> None:
    code = "import polyseme, sys; print([m for m in ('torch', 'numpy', 'tyro', 'rich') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_record_is_in_the_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    options, _ = load(name)
    with pytest.raises(SystemExit) as left:
        parse(options, ["--help"], command=name)
    assert not left.value.code
    shown = capsys.readouterr().out
    assert "usage: polyseme " + name in shown
    for option in known_options(options):
        if not option.startswith("--no-"):
            # From the option's own line on, up to the next option's or the end of its group.
            (told,) = re.findall(
                rf"^\W*{option}[ ,](.*?)(?=^\W*--?\w|^\W*$)", shown, re.DOTALL | re.MULTILINE
            )
            text = re.sub(
                r"--no-\S+|\{.*?\}|\(default.*?\)|\(required\)|\b[A-Z]{3,}\b|\W", "", told, flags=re.DOTALL
            )
            assert text, f"{option} has no text in the help"


def test_the_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown and command.summary in shown for name, command in COMMANDS.items())


def test_options_of_inner_records_are_plain_options() -> None:
    options, _ = load("prepare")
    words = [
        "a",
        "b",
        "--tokenizer",
        "t",
        "--out",
        "o",
        "--encoding",
        "gb18030",
        "--nfkc",
        "--words",
        "jieba",
    ]
    named = by_name(parse(options, words, command="prepare"))
    assert named["texts"] == ("a", "b")
    assert (named["encoding"], named["nfkc"], named["words"]) == ("gb18030", True, "jieba")


def test_from_and_negative_layers_are_understood() -> None:
    options, _ = load("pretrain")
    words = ["bert", "s", "--out", "r", "--from", "m", "--minutes", "2.5"]
    named = by_name(parse(options, words, command="pretrain"))
    assert (named["from_model"], named["minutes"], named["recipe"]) == ("m", 2.5, "bert")
    options, _ = load("embed")
    named = by_name(
        parse(options, ["t", "--model", "m", "--out", "v.npy", "--layers", "-1"], command="embed")
    )
    assert named["layers"] == "-1"


REFUSALS = {
    ("recipez",): "there is no command 'recipez' (did you mean 'recipes'?) (see polyseme --help)",
    ("show",): "show needs one of: tokens, masks, model, store, machine (see polyseme show --help)",
    ("show", "mask"): "show knows tokens, masks, model, store, machine, not 'mask' (did you mean 'masks'?)",
    ("recipes", "--jsn"): "there is no option --jsn (did you mean '--json'?) (see polyseme recipes --help)",
    ("recipes", "bert", "more"): "'more' is one argument too many",
    ("recipes", "--out", "x"): "--out needs the name of a recipe",
    ("convert", "a"): "missing: TARGET",
    (
        "pretrain",
        "bert",
        "s",
        "--out",
        "r",
        "--steps",
        "ten",
    ): "--steps: no type matching INT could be instantiated from ['ten']. (see",
    (
        "pretrain",
        "bert",
        "s",
        "--out",
        "r",
        "--steps",
        "1",
        "--minutes",
        "1",
    ): "steps and minutes exclude each",
    ("predict", "f", "--model", "m", "--out", "o", "--threads", "0"): "threads must be at least 1, got 0",
    ("show", "tokens", "--tokenizer", "t"): "give a text or --file, one of the two",
    ("show", "masks", "s", "--recipe", "bert", "--progress", "2"): "progress must lie between 0 and 1",
    ("show", "store", "s", "--samples", "-1"): "samples and frequent must not be negative",
    ("embed", "t", "--model", "m", "--out", "v.npy", "--pooling", "sum"): "invalid choice 'sum'",
}


@pytest.mark.parametrize("words", REFUSALS, ids=" ".join)
def test_wrong_words_are_refused_in_one_line(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert told.err.startswith("polyseme: error: ")
    assert REFUSALS[words] in told.err


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_refusal_is_one_line_in_any_terminal(encoding: str) -> None:
    asked = ask("convert", "a", PYTHONIOENCODING=encoding, COLUMNS="30")
    assert asked.returncode == 2
    told = "missing: TARGET The folder to write; it must not exist yet. (see polyseme convert --help)"
    assert asked.stderr.splitlines()[0] == "polyseme: error: " + told


def test_a_wrong_file_is_one_line_and_a_traceback_is_there_for_the_asking(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["show", "store", "nowhere"]
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(Exception, match="not a token store"):
        main([*words, "--traceback"])
    monkeypatch.setenv("POLYSEME_TRACEBACK", "1")
    with pytest.raises(Exception, match="not a token store"):
        main(words)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (DataError("two\nlines"), 2, "polyseme: error: two lines\n"),
        (FileNotFoundError(2, "x", "a.txt"), 2, "polyseme: error: a.txt: No such file or directory\n"),
        (MemoryError(), 2, "polyseme: error: the memory of this machine is used up; take a smaller"),
        (
            ZeroDivisionError("1 / 0"),
            70,
            "this is a bug in polyseme: ZeroDivisionError: 1 / 0; run again with",
        ),
        (KeyboardInterrupt(), 130, "polyseme: interrupted\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_failure_has_its_status_and_its_line(
    error: BaseException,
    status: int,
    line: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(words: list[str]) -> None:
        raise error

    monkeypatch.setattr("polyseme.cli.running.find", fail)
    assert run(["convert", "a", "b"]) == status
    told = capsys.readouterr()
    assert line in told.err
    assert told.err.count("\n") == 1


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m polyseme recipes --json; echo $? >&2"
    told = subprocess.run(
        ["bash", "-c", f"({command}) | true"], capture_output=True, text=True, check=False, timeout=60
    )
    assert told.stderr in ("141\n", "0\n")


def test_the_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == version("polyseme") + "\n"


def test_a_recipe_is_printed_and_copied_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "bert"]) == 0
    printed = capsys.readouterr().out
    assert main(["recipes", "bert", "--out", str(tmp_path / "mine.toml")]) == 0
    assert (tmp_path / "mine.toml").read_text(encoding="utf-8") == printed
    capsys.readouterr()
    assert main(["recipes", "--json"]) == 0
    assert "bert-wwm" in json.loads(capsys.readouterr().out)


def test_results_are_on_standard_output_and_progress_is_not(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "vectors.npy"
    assert main(["embed", str(folder / "text.txt"), "--model", str(folder / "model"), "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert told.out == f"{out}: {len(np.load(out)):,} vectors\n"
    assert "embed" in told.err


def test_quiet_says_results_only(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "embed",
        str(folder / "text.txt"),
        "--model",
        str(folder / "model"),
        "--out",
        str(folder / "v.npy"),
    ]
    assert main(["--quiet", *words]) == 0
    assert capsys.readouterr().err == ""


def test_a_model_goes_through_fine_tuning_prediction_evaluation_and_conversion(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, model = str(folder / "examples.tsv"), str(folder / "classifier")
    words = ["--train", data, "--dev", data, "--model", str(folder / "model"), "--out", model]
    assert main(["finetune", "classification", *words, "--epochs", "1", "--threads", "1"]) == 0
    assert "accuracy" in capsys.readouterr().out
    answers = folder / "answers.jsonl"
    assert main(["predict", data, "--model", model, "--out", str(answers)]) == 0
    assert len(answers.read_text(encoding="utf-8").splitlines()) == 24
    capsys.readouterr()
    assert main(["evaluate", "classification", data, "--model", model]) == 0
    assert "true ↓ answered →" in capsys.readouterr().out
    assert main(["evaluate", "classification", data, "--model", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 24
    assert main(["convert", model, str(folder / "converted")]) == 0
    assert "parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tokens", "程序执行", "--tokenizer", "vocab"], "程"),
        (["masks", "store", "--recipe", "modernbert-wwm"], "words hidden in part: 0"),
        (["masks", "store", "--recipe", "bert"], "the second text"),
        (["model", "model"], "embeddings.tokens.weight"),
        (["store", "store"], "most frequent: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_show_speaks_to_people_and_to_programs(
    folder: Path,
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    assert main(["show", *words]) == 0
    assert said in capsys.readouterr().out
    assert main(["show", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
