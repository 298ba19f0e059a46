import lzma
import math

import pytest

from speechnar.errors import DataError
from speechnar.text import words
from speechnar.text.words import WORDS_FOLDER, WordLists, copy_words, read_words, write_words

FREQUENCIES = {"the": 0.05, "of": 0.02, "l'homme": 3e-6, "мир": 3e-6}


def test_lists_are_read_as_they_were_written(tmp_path):
    write_words(tmp_path / WORDS_FOLDER / "eng.xz", FREQUENCIES)
    again = tmp_path / "again.xz"
    write_words(again, dict(reversed(FREQUENCIES.items())))
    assert again.read_bytes() == (tmp_path / WORDS_FOLDER / "eng.xz").read_bytes()
    lists = WordLists(tmp_path)
    assert lists.languages == ("eng",)
    assert list(lists["eng"]) == list(FREQUENCIES)
    for word, frequency in FREQUENCIES.items():
        assert lists["eng"][word] == pytest.approx(math.log(frequency), abs=0.012)  # half a hundredth of a decade
    assert lists["eng"] is lists["eng"]


def test_other_files_are_no_lists(tmp_path):
    assert WordLists(tmp_path).languages == ()
    for name in ("README.md", "en.xz", "../eng.xz", "ENG.xz", "engl.xz"):
        path = tmp_path / WORDS_FOLDER / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(lzma.compress(b"-100 a\n"))
    assert WordLists(tmp_path).languages == ()


@pytest.mark.parametrize(
    "text",
    [b"a b\n", b"5 the\n", b"-3001 the\n", b"-100\n", b"\n", b"-100 \xff\n", b"9" * 5000],
    ids=["no number", "above 1", "too rare", "no word", "empty line", "not UTF-8", "huge number"],
)
def test_malformed_lists_are_named(tmp_path, text):
    path = tmp_path / "eng.xz"
    path.write_bytes(lzma.compress(text))
    with pytest.raises(DataError, match="eng"):
        read_words(path)


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "eng.xz"
    for content in (b"", b"\xfd7zXZ", b"-100 the\n", lzma.compress(b"-100 the\n")[:-9]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="eng"):
            read_words(path)


def test_a_list_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(words, "MAX_BYTES", 1000)
    path = tmp_path / "eng.xz"
    path.write_bytes(lzma.compress(b"-100 a\n" * 1000))
    with pytest.raises(DataError, match="at most 1,000 bytes"):
        read_words(path)


def test_a_folder_takes_the_lists_of_another(tmp_path):
    source, dest = tmp_path / "source", tmp_path / "dest"
    dest.mkdir()
    write_words(source / WORDS_FOLDER / "eng.xz", FREQUENCIES)
    write_words(dest / WORDS_FOLDER / "fra.xz", FREQUENCIES)
    copy_words(source, dest)
    assert WordLists(dest).languages == ("eng",)
    copy_words(dest, dest)
    assert WordLists(dest).languages == ("eng",)
    copy_words(tmp_path / "none", dest)
    assert WordLists(dest).languages == ()


def test_nothing_is_copied_that_is_no_list(tmp_path):
    source, secret = tmp_path / "source", tmp_path / "secret"
    write_words(source / WORDS_FOLDER / "eng.xz", FREQUENCIES)
    secret.write_text("secret")
    (source / WORDS_FOLDER / "README.md").symlink_to(secret)
    copy_words(source, tmp_path / "dest")
    copied = list((tmp_path / "dest" / WORDS_FOLDER).iterdir())
    assert [path.name for path in copied] == ["eng.xz"]
    assert copied[0].read_bytes() == (source / WORDS_FOLDER / "eng.xz").read_bytes()
    (source / WORDS_FOLDER / "fra.xz").symlink_to(secret)
    with pytest.raises(DataError, match="fra"):
        copy_words(source, tmp_path / "other")


def test_a_list_that_asks_for_much_memory_is_refused(tmp_path):
    path = tmp_path / "eng.xz"
    path.write_bytes(lzma.compress(b"-100 the\n", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 28}]))
    with pytest.raises(DataError, match="eng"):
        read_words(path)
