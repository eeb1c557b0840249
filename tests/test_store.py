"""The token store: what is written is what is gathered, and nothing damaged is opened."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from polyseme import files
from polyseme.errors import CheckpointError
from polyseme.text.store import Mark, Store
from polyseme.text.store_writing import StoreWriter


def write(
    folder: Path, ids: np.ndarray, marks: np.ndarray, *, vocab_size: int = 1000, shard_tokens: int = 1 << 27
) -> Store:
    with (
        files.whole_folder(folder, replace=True) as building,
        StoreWriter(building, vocab_size=vocab_size, unknown_id=1, shard_tokens=shard_tokens) as writer,
    ):
        for part in np.array_split(np.arange(len(ids)), 7):
            writer.add(ids[part], marks[part])
        writer.finish(settings={"words": "rjieba"}, num_characters=5)
    return Store.open(folder, check=True)


def random_tokens(seed: int, count: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 1000, count)
    marks = rng.integers(0, 64, count).astype(np.uint8)
    marks[0] = 63
    return ids, marks


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return write(tmp_path / "store", *random_tokens(0), shard_tokens=997)


def test_spans_come_back_as_they_were_written_also_across_shards(tmp_path: Path) -> None:
    for seed, shard_tokens in enumerate((1, 7, 997, 5000, 1 << 27)):
        ids, marks = random_tokens(seed, 5000 if shard_tokens > 7 else 50)
        store = write(tmp_path / "store", ids, marks, shard_tokens=shard_tokens)
        rng = np.random.default_rng(seed)
        for _ in range(40):
            starts, stops = np.sort(rng.integers(0, len(ids) + 1, (2, rng.integers(0, 9))), axis=0)
            got_ids, got_marks = store.gather(starts, stops)
            spans = [slice(a, b) for a, b in zip(starts, stops, strict=True)]
            assert got_ids.tolist() == [i for span in spans for i in ids[span].tolist()]
            assert got_marks.tolist() == [m for span in spans for m in marks[span].tolist()]
            assert got_ids.dtype == np.int32
            assert got_marks.dtype == np.uint8


def test_offsets_and_counts_follow_from_marks_and_ids(store: Store) -> None:
    ids, marks = random_tokens(0)
    assert store.document_starts.tolist() == [*np.flatnonzero(marks & Mark.DOCUMENT), 5000]
    assert store.sentence_starts.tolist() == [*np.flatnonzero(marks & Mark.SENTENCE), 5000]
    assert store.counts.tolist() == np.bincount(ids, minlength=1000).tolist()
    assert store.num_documents == len(store.document_starts) - 1
    assert store.num_sentences == len(store.sentence_starts) - 1
    assert store.num_words == np.count_nonzero(marks & Mark.WORD)
    assert store.manifest.num_unknown == np.count_nonzero(ids == 1)
    assert store.manifest.shards == [997] * 5 + [15]
    assert store.marks_present == Mark(63)


def test_ids_take_two_bytes_up_to_65536_tokens_and_four_beyond(tmp_path: Path) -> None:
    _, marks = random_tokens(0, 10)
    for vocab_size, id_type, size in ((1 << 16, "uint16", 20), ((1 << 16) + 1, "uint32", 40)):
        ids = np.full(10, vocab_size - 1)
        store = write(tmp_path / id_type, ids, marks, vocab_size=vocab_size)
        assert store.manifest.id_type == id_type
        assert (tmp_path / id_type / "ids-00000.bin").stat().st_size == size
        assert store.gather(np.array([0]), np.array([10]))[0].tolist() == ids.tolist()


def test_turns_are_present_only_if_one_starts_inside_a_document(tmp_path: Path) -> None:
    ids = np.arange(4)
    starts = int(Mark.DOCUMENT | Mark.TURN | Mark.SENTENCE)
    alone = write(tmp_path / "alone", ids, np.array([starts, 0, starts, 0], np.uint8))
    pair = write(tmp_path / "pair", ids, np.array([starts, 0, int(Mark.TURN), 0], np.uint8))
    assert Mark.TURN not in alone.marks_present
    assert Mark.TURN in pair.marks_present


def test_the_same_tokens_give_the_same_fingerprint_and_other_tokens_another(tmp_path: Path) -> None:
    ids, marks = random_tokens(3)
    first, second = (write(tmp_path / name, ids, marks).fingerprint for name in ("a", "b"))
    ids[-1] ^= 1
    assert first == second
    assert write(tmp_path / "c", ids, marks).fingerprint != first


def test_a_store_travels_to_other_processes_as_its_path(store: Store) -> None:
    data = pickle.dumps(store)
    assert len(data) < 500
    span = np.array([990]), np.array([1010])
    np.testing.assert_array_equal(pickle.loads(data).gather(*span)[0], store.gather(*span)[0])
    write(store.folder, *random_tokens(9))
    with pytest.raises(CheckpointError, match="was replaced while it was in use; start again"):
        pickle.loads(data)


def test_spans_outside_the_store_are_refused(store: Store) -> None:
    for start, stop in ((-1, 3), (4, 3), (0, 5001)):
        with pytest.raises(ValueError, match="spans must lie between 0 and 5000 and not end before"):
            store.gather(np.array([0, start]), np.array([2, stop]))


def test_a_folder_without_manifest_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not a token store \(no manifest.json\); make one with"):
        Store.open(tmp_path)


def test_missing_cut_and_changed_files_are_named(store: Store) -> None:
    for path in sorted(store.folder.glob("*.bin")):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        with pytest.raises(CheckpointError, match=f"{path.name} has {len(whole) - 1} bytes and should have"):
            Store.open(store.folder)
        path.unlink()
        with pytest.raises(CheckpointError, match=f"{path.name} is missing; prepare the store again"):
            Store.open(store.folder)
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        with pytest.raises(CheckpointError, match=f"{path.name} has changed since it was written"):
            Store.open(store.folder, check=True)
        path.write_bytes(whole)


def test_a_manifest_of_another_version_or_kind_is_refused(store: Store) -> None:
    path = store.folder / "manifest.json"
    content = path.read_text()
    path.write_text(content.replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(CheckpointError, match="has format version 2 and this polyseme reads version 1"):
        Store.open(store.folder)
    path.write_text(content.replace('"shards"', '"shard"'))
    with pytest.raises(CheckpointError, match=r"shard is not a setting here .did you mean 'shards'"):
        Store.open(store.folder)
    path.write_text(content[:-40])
    with pytest.raises(CheckpointError, match=r"manifest.json is not JSON.*; prepare the store again"):
        Store.open(store.folder)


def test_a_store_without_its_tokenizer_says_so_only_when_asked_for_it(store: Store) -> None:
    assert store.num_tokens == 5000
    with pytest.raises(CheckpointError, match="tokenizer"):
        _ = store.tokenizer


def test_writing_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    def give_up() -> None:
        with (
            files.whole_folder(tmp_path / "store") as building,
            StoreWriter(building, vocab_size=1000) as writer,
        ):
            writer.add(*random_tokens(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        give_up()
    assert list(tmp_path.iterdir()) == []
