"""The command over corpora: when there is a journal, and what is refused."""

import json
import shutil
import tarfile

import pytest

from speechnar.cli.main import main
from tests.unit.tiny import write_speechlike


@pytest.fixture
def kaldi(tmp_path):
    folder = tmp_path / "kaldi"
    folder.mkdir()
    paths = [write_speechlike(folder / f"{number}.wav", 0.5, seed=number) for number in range(2)]
    (folder / "wav.scp").write_text("".join(f"utt-{path.stem} {path}\n" for path in paths))
    return folder


def test_a_data_directory_is_gone_through_with_a_journal(kaldi, recognizer, tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["transcribe", str(kaldi), "-m", recognizer, "-o", str(out), "--threads", "1"]
    assert main(argv) == 0
    printed, told = capsys.readouterr()
    assert printed == f"{out}\n"
    assert "2 of 2 done (2 now)" in told
    assert sorted(path.name for path in out.glob("*.txt")) == ["utt-0.txt", "utt-1.txt"]
    (kaldi / "wav.scp").write_text((kaldi / "wav.scp").read_text() + "utt-9 none.wav\n")
    assert main(argv) == 1
    assert "(0 now)" in capsys.readouterr().err
    assert json.loads((out / "failures.jsonl").read_text())["utt_id"] == "utt-9"


def test_a_folder_in_which_somebody_keeps_a_tar_is_one_of_recordings(wav, recognizer, tmp_path, capsys):
    folder = tmp_path / "talks"
    folder.mkdir()
    shutil.copy(wav, folder)
    with tarfile.open(folder / "backup.tar", "w") as tar:
        tar.add(wav, "talk.wav")
    assert main(["transcribe", str(folder), "-m", recognizer, "-q"]) == 0
    assert capsys.readouterr().out.startswith(f"{folder / 'talk.wav'}: ")
    (folder / "talk.wav").unlink()
    assert main(["transcribe", str(folder), "-m", recognizer, "-q"]) == 2
    assert "a corpus has a journal" in capsys.readouterr().err


def test_audio_files_are_a_corpus_where_it_is_asked_for(wav, recognizer, tmp_path):
    argv = ["transcribe", wav, "-m", recognizer, "--threads", "1", "-q", "-o", str(tmp_path)]
    assert main([*argv, "-f", "jsonl"]) == 0
    assert len(list(tmp_path.glob("part-*.jsonl"))) == 1
    assert main([*argv, "-o", str(tmp_path / "txt")]) == 0
    assert not (tmp_path / "txt" / "journal.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "local"], "say where by -o DIR"),
        (["--address", "here:1"], "of --engine ray"),
        (["--retry-failed"], "for corpora"),
        (["--engine", "local", "-o", ".", "--max-seconds", "0"], "max_seconds"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message, wav, capsys):
    assert main(["transcribe", wav, *arguments]) == 2
    assert message in capsys.readouterr().err
