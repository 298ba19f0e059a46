from dataclasses import replace

import numpy as np
import pytest
import soundfile

from speechnar.data.dataset import read_utterance
from speechnar.data.kaldi import read_kaldi_dir, write_kaldi_dir
from speechnar.errors import DataError
from tests.unit.data.corpus import RATE, make_data_dir, make_utterances


def test_write_then_read_gives_equal_utterances(tmp_path):
    utterances = make_data_dir(tmp_path / "data")
    assert read_kaldi_dir(tmp_path / "data") == utterances


def test_files_are_those_of_kaldi(tmp_path):
    make_data_dir(tmp_path / "data", count=4)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "spk2utt",
        "text",
        "text.eng",
        "text.fra",
        "text.prev",
        "utt2dur",
        "utt2lang",
        "utt2spk",
        "wav.scp",
    ]
    assert (tmp_path / "data/spk2utt").read_text() == "spk0 spk0-tone00 spk0-tone02\nspk1 spk1-tone01 spk1-tone03\n"
    assert (tmp_path / "data/text").read_text().splitlines()[1] == "spk0-tone02 one two three"


def test_segments_survive_and_cut_the_audio(tmp_path):
    samples = np.linspace(-0.5, 0.5, 2 * RATE, dtype=np.float32)
    soundfile.write(tmp_path / "talk.wav", samples, RATE, subtype="FLOAT")
    whole = make_utterances(tmp_path, count=1)[0]
    part = replace(
        whole, wav_path=tmp_path / "talk.wav", utt_id="talk-1", start_s=0.5, end_s=1.25, duration_s=0.75, spk_id="talk"
    )
    write_kaldi_dir(tmp_path / "data", [part])
    (read,) = read_kaldi_dir(tmp_path / "data")
    assert read == part
    np.testing.assert_allclose(read_utterance(read, RATE), samples[RATE // 2 : RATE * 5 // 4], atol=1e-6)


def test_segment_is_the_mean_of_channels_at_the_rate_asked_for(tmp_path):
    stereo = np.stack([np.full(8000, 0.5), np.full(8000, -0.1)], axis=1)
    soundfile.write(tmp_path / "stereo.wav", stereo, 8000, subtype="FLOAT")
    base = make_utterances(tmp_path, count=1)[0]
    part = replace(base, wav_path=tmp_path / "stereo.wav", start_s=0.2, end_s=0.7)
    samples = read_utterance(part, RATE)
    assert len(samples) == RATE // 2
    np.testing.assert_allclose(samples[1000:-1000], 0.2, atol=1e-3)


def test_rewriting_removes_what_is_no_longer_true(tmp_path):
    first = make_data_dir(tmp_path / "data", count=4)
    write_kaldi_dir(tmp_path / "data", [replace(first[0], translations={}, lang=None, prev_text=None)])
    assert not any((tmp_path / "data" / name).exists() for name in ("text.eng", "text.fra", "text.prev", "utt2lang"))
    assert len(read_kaldi_dir(tmp_path / "data")) == 1


def test_durations_of_tokens_come_back_and_go_away(tmp_path):
    first, second, third = make_utterances(tmp_path / "audio", count=3)
    timed = replace(first, durations=(0.1, 0.0, first.duration_s - 0.1))
    write_kaldi_dir(tmp_path / "data", [timed, second, third])
    read = read_kaldi_dir(tmp_path / "data")
    assert read[0].durations == pytest.approx(timed.durations, abs=1e-4)
    assert read[1].durations is None
    write_kaldi_dir(tmp_path / "data", [first])
    assert not (tmp_path / "data/durations").exists()
    with pytest.raises(DataError, match=r"add up to 0\.10 s"):
        write_kaldi_dir(tmp_path / "data", [replace(first, durations=(0.1,))])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text", "a one\nb\nc three\n", "text:2: must hold an id and a value"),
        ("text", "a one\na two\nb x\nc x\n", "text:2: 'a' already stands at"),
        ("text", "b two\na one\nc three\n", "text:2: 'a' must come before 'b'"),
        ("text", "a one\nb two\nc three\nd four\n", "text:4: 'd' is not in wav.scp"),
        ("text", "a one\nb two\n", "utt2spk: 'c' is not in text"),
        ("text", b"a one\nb \xff\nc three\n", "text:2: must be UTF-8"),
        ("wav.scp", "a AUDIO\nb /nowhere.wav\nc AUDIO\n", "wav.scp:2: no such audio file: /nowhere.wav"),
        ("wav.scp", f"a AUDIO\nb {'b' * 300}\nc AUDIO\n", "wav.scp:2: no such audio file: bbb"),
        ("wav.scp", "a AUDIO\nb cat AUDIO |\nc AUDIO\n", "wav.scp:2: 'b' is a pipe"),
        ("utt2dur", "a 1.0\nb nan\nc 1.0\n", "utt2dur:2: must be seconds above 0"),
        ("utt2lang", "a eng\nb english\nc eng\n", "utt2lang:2: must be an ISO 639-3 code"),
        ("spk2utt", "s a b\nt c\n", "disagrees with utt2spk on 'c' of 't'"),
        ("segments", "a a 0 0.1\nb b 0.2 0.1\nc c 0 0.1\n", "segments:2: must be: utterance"),
        ("segments", "a a 0 0.1\nb b 0 99\nc x 0 0.1\n", "segments:2: ends at 99.0 s, but its recording lasts"),
        ("segments", "a a 0 0.1\nb b 0 0.1\nc x 0 0.1\n", "segments:3: recording 'x' is not in wav.scp"),
        ("segments", "a a 5000 -1\nb b 0 0.1\nc c 0 0.1\n", "segments:1: must be: utterance"),
        ("segments", "a a 0 -2\nb b 0 0.1\nc c 0 0.1\n", "segments:1: must be: utterance"),
        ("segments", "a x 0 -1\nb b 0 0.1\nc c 0 0.1\n", "segments:1: recording 'x' is not in wav.scp"),
        ("text.fra", "a un\nz deux\n", "text.fra: 'z' is not in text"),
        ("durations", "a 0.1 0.2\nb 0.1 0.2s\n", "durations:2: must be the seconds of each token"),
        ("durations", "a 0.1 0.2\nb -0.1 0.4\n", "durations:2: must be the seconds of each token, at least 0"),
        ("durations", "a 0.1 0.2\nc 0.1 0.4\n", "durations:2: must be the seconds of each token, at least 0, but they"),
        ("durations", "z 0.1 0.2\n", "durations: 'z' is not in text"),
    ],
)
def test_each_fault_is_named_with_its_line(tmp_path, name, content, message):
    audio = make_utterances(tmp_path / "audio", count=1)[0].wav_path
    files = {
        "text": "a one\nb two\nc three\n",
        "utt2spk": "a s\nb s\nc s\n",
        "spk2utt": "s a b c\n",
        "wav.scp": "a AUDIO\nb AUDIO\nc AUDIO\n",
        name: content,
    }
    for file, text in files.items():
        (tmp_path / file).write_bytes(text if isinstance(text, bytes) else text.replace("AUDIO", str(audio)).encode())
    with pytest.raises(DataError) as error:
        read_kaldi_dir(tmp_path)
    assert message in str(error.value)


def test_what_editors_and_kaldi_leave_in_files_is_taken(tmp_path):
    """A byte order mark, blank lines at the end, carriage returns, and -1 for the end of a recording."""
    expected = make_data_dir(tmp_path / "data", count=2)
    first, second = expected
    for name in ("text", "utt2spk", "wav.scp", "utt2lang"):
        path = tmp_path / "data" / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\n")
    assert read_kaldi_dir(tmp_path / "data") == expected
    (tmp_path / "data/utt2dur").unlink()
    (tmp_path / "data/segments").write_text(
        f"{first.utt_id} {first.utt_id} 0.1 -1\n{second.utt_id} {second.utt_id} 0 -1\n\n"
    )
    found = read_kaldi_dir(tmp_path / "data")
    assert [(u.start_s, u.end_s) for u in found] == [(0.1, first.duration_s), (0.0, second.duration_s)]
    assert len(read_utterance(found[0], RATE)) == round((first.duration_s - 0.1) * RATE)
    (tmp_path / "data/text").write_text("\n")
    with pytest.raises(DataError, match="is not in text"):
        read_kaldi_dir(tmp_path / "data")


def test_all_faults_come_at_once(tmp_path):
    (tmp_path / "text").write_text("b two\na one\n")
    (tmp_path / "utt2spk").write_text("a s\n")
    (tmp_path / "wav.scp").write_text("a /nowhere.wav\nb rm -rf x |\n")
    with pytest.raises(DataError, match="4 faults") as error:
        read_kaldi_dir(tmp_path)
    for part in ("text:2", "wav.scp:1", "wav.scp:2", "'b' is not in utt2spk"):
        assert part in str(error.value)


def test_missing_files_and_folder(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        read_kaldi_dir(tmp_path / "none")
    with pytest.raises(DataError, match=r"text: missing.*utt2spk: missing.*wav.scp: missing"):
        read_kaldi_dir(tmp_path)


def test_pipe_runs_only_when_allowed(tmp_path):
    utterances = make_data_dir(tmp_path / "data", count=1)
    (tmp_path / "data/wav.scp").write_text(f"{utterances[0].utt_id} cat {utterances[0].wav_path} |\n")
    with pytest.raises(DataError, match="pipe"):
        read_kaldi_dir(tmp_path / "data")
    (piped,) = read_kaldi_dir(tmp_path / "data", allow_pipes=True)
    np.testing.assert_array_equal(read_utterance(piped, RATE), read_utterance(utterances[0], RATE))
    failing = replace(piped, pipe="echo broken >&2; false")
    with pytest.raises(DataError, match="fails \\(broken\\)"):
        read_utterance(failing, RATE)


def test_audio_root_holds_relative_paths_in(tmp_path):
    utterances = make_data_dir(tmp_path / "data", count=1)
    line = f"{utterances[0].utt_id} {{}}\n"
    (tmp_path / "data/wav.scp").write_text(line.format(utterances[0].wav_path.name))
    (read,) = read_kaldi_dir(tmp_path / "data", audio_root=tmp_path / "data-audio")
    assert read.wav_path == utterances[0].wav_path
    (tmp_path / "data/wav.scp").write_text(line.format(f"../data-audio/{utterances[0].wav_path.name}"))
    with pytest.raises(DataError, match="outside"):
        read_kaldi_dir(tmp_path / "data", audio_root=tmp_path / "data")


def test_duration_comes_from_the_header_without_utt2dur(tmp_path):
    utterances = make_data_dir(tmp_path / "data", count=3)
    (tmp_path / "data/utt2dur").unlink()
    assert read_kaldi_dir(tmp_path / "data") == utterances
    utterances[1].wav_path.write_bytes(b"not audio")
    with pytest.raises(DataError, match=r"1 fault: .*no header"):
        read_kaldi_dir(tmp_path / "data")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"text": "two\nlines"}, "one line"), ({"spk_id": "a b"}, "one word"), ({"text": "a \ud800"}, "must be UTF-8")],
)
def test_what_cannot_stand_on_a_line_is_refused(tmp_path, change, message):
    utterance = make_utterances(tmp_path, count=1)[0]
    with pytest.raises(DataError, match=message):
        write_kaldi_dir(tmp_path / "data", [replace(utterance, **change)])
    with pytest.raises(DataError, match="repeated"):
        write_kaldi_dir(tmp_path / "data", [utterance, utterance])
