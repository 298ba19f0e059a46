"""The data stages of commonvoice/asr on trees of the official shape: a release and a delta segment."""

import csv
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from speechnar.data.kaldi import read_kaldi_dir
from tests.recipes.test_recipes import run, run_well, write_tone

COLUMNS = ("client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accents", "locale")
SPEAKERS = 12


def client(number: int) -> str:
    return f"{number:0128x}"[::-1]


def write_release(
    root: Path, rows: Sequence[tuple[str, str, str]], *, clips: str, voted_down: Sequence[str] = ()
) -> None:
    """Write tables of (client_id, clip, sentence) and tones for speech; clips ``voted_down`` stand in a table apart."""
    write_tone(root / "tone.wav", 0.5)
    (root / clips).mkdir()
    for name, chosen in (("validated", False), ("invalidated", True)):
        with (root / f"{name}.tsv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
            table.writerow(COLUMNS)
            for speaker, clip, sentence in rows:
                if (clip in voted_down) == chosen:
                    table.writerow([speaker, clip, sentence, 2, 0, "", "", "", "fr"])
    for _, clip, _ in rows:
        if "absent" not in clip:
            shutil.copyfile(root / "tone.wav", root / clips / clip)
    (root / "tone.wav").unlink()


@pytest.fixture
def releases(tmp_path) -> tuple[Path, Path]:
    """Return an archive of a release and the folder of a delta segment that repeats one of its clips."""
    rows = [
        (client(speaker), f"common_voice_fr_{100 * speaker + i}.mp3", f"Mot {speaker} — l’été, no {i}.")
        for speaker in range(SPEAKERS)
        for i in range(5 if speaker == 0 else 2)
    ]
    odd = [
        (client(1), "common_voice_fr_9001.mp3", '"Tout entre guillemets."'),
        (client(1), "common_voice_fr_9002.mp3", 'Il dit "oui".'),
        (client(1), "common_voice_fr_9003.mp3", "..."),
        (client(1), "common_voice_fr_absent.mp3", "Sans son."),
        (client(1), "common_voice_fr_9005.mp3", "Mal lu."),
    ]
    release = tmp_path / "cv-corpus-19.0" / "fr"
    release.mkdir(parents=True)
    write_release(release, [*rows, *odd], clips="clips", voted_down=["common_voice_fr_9005.mp3"])
    with tarfile.open(tmp_path / "cv-corpus-19.0-fr.tar.gz", "w:gz") as tar:
        tar.add(release.parent, release.parent.name)
    delta = tmp_path / "delta"
    delta.mkdir()
    write_release(
        delta, [rows[0], (client(50), "common_voice_fr_5000.mp3", "Une autre voix.")], clips="validated_clips"
    )
    return tmp_path / "cv-corpus-19.0-fr.tar.gz", delta


def test_commonvoice_data(tmp_path, releases):
    archive, delta = releases
    (tmp_path / "exclude.txt").write_text(f"{client(2)}\n")
    data = tmp_path / "data"
    out = run_well(
        *("commonvoice/asr", "--stop_stage", "3", "--corpus", f"{archive} {delta}", "--data", str(data)),
        *("--downloads", str(tmp_path / "downloads"), "--exclude", str(tmp_path / "exclude.txt")),
        *("--eval_minutes", "0.03", "--vocab_size", "40"),
    )
    for reason in (
        "1 in two releases",
        "1 voted down",
        "1 without recording",
        "1 without text",
        "2 of excluded speakers",
    ):
        assert reason in out
    sets = {name: read_kaldi_dir(data / name) for name in ("train", "dev", "test")}
    speakers = {name: {utt.spk_id for utt in utterances} for name, utterances in sets.items()}
    assert sum(map(len, speakers.values())) == len(set.union(*speakers.values()))
    for name in ("dev", "test"):  # as many speakers as it takes to fill 1.8 s
        seconds = [sum(utt.duration_s for utt in sets[name] if utt.spk_id == spk) for spk in speakers[name]]
        assert sum(seconds) >= 1.8 > sum(seconds) - max(seconds)
    assert client(2)[:16] not in speakers["train"] | speakers["dev"] | speakers["test"]
    texts = {utt.wav_path.name: utt.text for utterances in sets.values() for utt in utterances}
    assert len(texts) == 5 + 2 * (SPEAKERS - 2) + 2 + 1
    assert texts["common_voice_fr_9001.mp3"] == "Tout entre guillemets."
    assert texts["common_voice_fr_9002.mp3"] == 'Il dit "oui".'
    assert texts["common_voice_fr_0.mp3"] == "Mot 0 — l'été, no 0."
    assert {utt.lang for utterances in sets.values() for utt in utterances} == {"fra"}


def test_a_later_release_moves_no_speaker(tmp_path, releases):
    archive, delta = releases
    found = []
    for name, corpus in (("one", f"{archive}"), ("two", f"{archive} {delta}")):
        options = ("--stage", "1", "--stop_stage", "1", "--eval_minutes", "0.03", "--data", str(tmp_path / name))
        run_well("commonvoice/asr", "--corpus", corpus, "--downloads", str(tmp_path / "downloads"), *options)
        found.append({utt.spk_id: s for s in ("train", "dev", "test") for utt in read_kaldi_dir(tmp_path / name / s)})
    moved = {spk for spk, name in found[0].items() if found[1][spk] != name}
    assert len(moved) <= 2  # the newcomer may push the last speaker of test to dev, and the last of dev to train


def test_speakers_of_a_segment_with_nameless_clips_are_for_training(tmp_path, releases):
    """Its nameless clips are data without text, unless they may be an excluded speaker's."""
    archive, delta = releases
    segment = tmp_path / "segment"
    segment.mkdir()
    rows = [(client(speaker), f"common_voice_fr_{20000 + speaker}.mp3", "Encore.") for speaker in (3, 4, 2)]
    absent = (client(6), "common_voice_fr_absent_30000.mp3", "Sans son.")
    write_release(segment, [*rows, absent], clips="clips", voted_down=["common_voice_fr_20004.mp3"])
    for clip in (20010, 21002, 21003, 40000):  # excluded is number 20002
        shutil.copyfile(segment / "clips/common_voice_fr_20003.mp3", segment / f"clips/common_voice_fr_{clip}.mp3")
    (tmp_path / "exclude.txt").write_text(f"{client(2)}\n")
    data = tmp_path / "data"
    out = run_well(
        *("commonvoice/asr", "--stage", "1", "--stop_stage", "1", "--corpus", f"{archive} {delta}"),
        *("--train_only", str(segment), "--exclude", str(tmp_path / "exclude.txt"), "--eval_minutes", "0.0934"),
        *("--data", str(data), "--downloads", str(tmp_path / "downloads")),
    )
    speakers = {name: {utt.spk_id for utt in read_kaldi_dir(data / name)} for name in ("train", "dev", "test")}
    # Everybody else is in test or, where that is full, in dev: together they take more seconds than there are.
    assert speakers["train"] == {client(speaker)[:16] for speaker in (3, 4, 6)}
    nameless = read_kaldi_dir(data / "unlabelled")
    assert [(utt.utt_id, utt.spk_id, utt.text) for utt in nameless] == [
        (f"common_voice_fr_{clip}", f"common_voice_fr_{clip}", "<na>") for clip in (21003, 40000)
    ]
    assert "2 nameless near an excluded speaker" in out


def test_without_a_corpus_it_says_where_one_is_had():
    finished = run("commonvoice/asr", "--stop_stage", "0")
    assert finished.returncode == 2
    assert "--corpus" in finished.stderr
