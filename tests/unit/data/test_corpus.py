"""What corpora of every form hold, and what becomes of their faults."""

import gzip
import json
import tarfile

import numpy as np
import pytest
import soundfile

from speechnar.data import corpus
from speechnar.data.corpus import is_corpus, read_corpus
from speechnar.errors import AudioError, ConfigError, DataError
from tests.unit.tiny import RATE, speechlike, write_speechlike


def samples(item, rate=RATE):
    return np.concatenate(list(item.blocks(rate)))


@pytest.fixture
def wavs(tmp_path):
    (tmp_path / "wav").mkdir()
    return [write_speechlike(tmp_path / "wav" / f"{number}.wav", 0.5 + number / 4, seed=number) for number in range(3)]


def test_a_kaldi_directory_needs_no_text(tmp_path, wavs):
    (tmp_path / "wav.scp").write_text("".join(f"utt{number} {path}\n" for number, path in enumerate(wavs)))
    (tmp_path / "utt2dur").write_text("utt0 0.5\n")
    items = read_corpus([tmp_path])
    assert [item.utt_id for item in items] == ["utt0", "utt1", "utt2"]
    assert items[0].seconds == 0.5
    assert items[1].seconds == pytest.approx(0.75, abs=0.01)  # by its size
    np.testing.assert_array_equal(samples(items[2]), soundfile.read(wavs[2], dtype="float32")[0])


def test_segments_are_spans_of_their_recordings(tmp_path, wavs):
    (tmp_path / "wav.scp").write_text(f"rec {wavs[2]}\npipe sox x.wav - |\n")
    (tmp_path / "segments").write_text("a rec 0.25 0.5\nb rec 0.5 0.4\nc none 0 1\nd rec 7 8\ne pipe 0 1\n")
    items = {item.utt_id: item for item in read_corpus([tmp_path])}
    whole = soundfile.read(wavs[2], dtype="float32")[0]
    np.testing.assert_array_equal(samples(items["a"]), whole[RATE // 4 : RATE // 2])
    for name, words in (("b", "start, end"), ("c", "not in wav.scp"), ("d", "before d begins"), ("e", "is a pipe")):
        with pytest.raises(AudioError, match=words):
            samples(items[name])


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_manifests_of_lhotse(tmp_path, wavs, suffix):
    lhotse = pytest.importorskip("lhotse", reason="lhotse writes what is read here")
    stereo = tmp_path / "stereo.wav"
    soundfile.write(stereo, speechlike(1.0, channels=2), RATE)
    recordings = [lhotse.Recording.from_file(path) for path in (*wavs, stereo)]
    cuts = [lhotse.MonoCut("cut", 0.25, 0.5, 0, recording=recordings[2]), recordings[0].to_cut()]
    cuts += [lhotse.MonoCut("right", 0, 1.0, 1, recording=recordings[3])]
    path = tmp_path / f"cuts{suffix}"
    lhotse.CutSet.from_cuts(cuts).to_file(path)
    assert is_corpus(path)
    items = read_corpus([path])
    assert [item.utt_id for item in items] == [cut.id for cut in cuts]
    for item, cut in zip(items, cuts, strict=True):
        np.testing.assert_allclose(samples(item), cut.load_audio()[0], atol=1e-6)
    lhotse.RecordingSet.from_recordings(recordings[:2]).to_file(tmp_path / f"recordings{suffix}")
    found = read_corpus([tmp_path / f"recordings{suffix}"])
    assert [(item.utt_id, item.seconds) for item in found] == [("0", 0.5), ("1", 0.75)]


def test_faulty_lines_of_manifests_are_items(tmp_path, wavs):
    good = {"id": "good", "sources": [{"type": "file", "channels": [0], "source": str(wavs[0])}], "duration": 0.5}
    lines = [good, {"id": "mixed", "type": "MixedCut", "tracks": []}, {"id": "sup", "recording_id": "x"}, [1], {}]
    lines += [{**good, "id": "memory", "sources": [{"type": "memory", "channels": [0], "source": "x"}]}]
    lines += [{**good, "id": "cut", "start": 0, "duration": "long", "recording": good, "channel": 0}]
    path = tmp_path / "all.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + "{no json\n")
    items = read_corpus([path])
    assert len(items) == 8
    assert [item.fault is None for item in items] == [True] + [False] * 7
    assert len({item.utt_id for item in items}) == 8
    zipped = tmp_path / "cut.jsonl.gz"
    zipped.write_bytes(gzip.compress((json.dumps(good) + "\n").encode() * 200)[:60])
    assert "cannot be read on" in str(read_corpus([zipped])[-1].fault)


def test_shar(tmp_path, wavs):
    lhotse = pytest.importorskip("lhotse", reason="lhotse writes what is read here")
    cuts = lhotse.CutSet.from_cuts(lhotse.Recording.from_file(path).to_cut().with_id(f"a/{path.stem}") for path in wavs)
    (tmp_path / "shar").mkdir()
    cuts.to_shar(tmp_path / "shar", fields={"recording": "wav"}, shard_size=2)
    assert is_corpus(tmp_path / "shar")
    items = read_corpus([tmp_path / "shar"])
    assert [item.utt_id for item in items] == ["a/0", "a/1", "a/2"]
    for item, path in zip(items, wavs, strict=True):
        np.testing.assert_allclose(samples(item), soundfile.read(path, dtype="float32")[0], atol=1e-4)
    (tmp_path / "shar" / "recording.000001.tar").unlink()
    assert "does not exist" in str(read_corpus([tmp_path / "shar"])[-1].fault)


def test_tars_of_samples(tmp_path, wavs):
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in range(2):
        with tarfile.open(shards / f"shard-{number}.tar", "w") as tar:
            for path in wavs:
                tar.add(path, f"{path.stem}.mono.wav")
                tar.add(__file__, f"{path.stem}.txt")
    assert is_corpus(shards)
    items = read_corpus([shards])
    assert [item.utt_id for item in items] == [f"shard-{i}/{j}" for i in range(2) for j in range(3)]
    np.testing.assert_array_equal(samples(items[5]), soundfile.read(wavs[2], dtype="float32")[0])
    content = (shards / "shard-0.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: len(content) // 2])
    items = read_corpus([tmp_path / "cut.tar"])
    assert "damaged" in str(items[-1].fault) or "ends within" in _error(items[-1])
    (tmp_path / "zipped.tar").write_bytes(gzip.compress(content))
    with pytest.raises(ConfigError, match="not compressed"):
        read_corpus([tmp_path / "zipped.tar"])


def test_a_tar_beside_recordings_is_no_shard(tmp_path, wavs):
    with tarfile.open(tmp_path / "backup.tar", "w") as tar:  # the recordings lie in a folder of the same one
        tar.add(wavs[0], "other.wav")
    (tmp_path / "notes.txt").write_text("")
    assert not is_corpus(tmp_path)
    assert [item.utt_id for item in read_corpus([tmp_path])] == ["wav/0", "wav/1", "wav/2"]
    assert [item.utt_id for item in read_corpus([tmp_path / "backup.tar"])] == ["backup/other"]
    (tmp_path / "wav").rename(tmp_path / ".wav")  # what is hidden is not looked at
    assert is_corpus(tmp_path)
    assert [item.utt_id for item in read_corpus([tmp_path])] == ["backup/other"]


def _error(item):
    with pytest.raises(AudioError) as caught:
        samples(item)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": [1]}, "id must be text"),
        ({"id": 5}, "id must be text"),
        ({"id": ""}, "id must be text"),
        ({"start": float("nan")}, "start must be"),
        ({"start": -1.0}, "start must be"),
        ({"start": 1e300}, "start must be"),
        ({"duration": float("inf")}, "duration must be"),
        ({"duration": -0.5}, "duration must be"),
    ],
)
def test_ids_and_times_that_none_can_have_are_faults(tmp_path, wavs, changes, words):
    sources = [{"type": "file", "channels": [0], "source": str(wavs[0])}]
    cut = {"id": "a", "start": 0.1, "duration": 0.2, "channel": 0}
    cut["recording"] = {"id": "r", "sources": sources, "duration": 0.5}
    path = tmp_path / "all.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in ({**cut, **changes}, {**cut, "id": "b"})))
    wrong, right = read_corpus([path])
    assert words in str(wrong.fault)
    assert len(samples(right)) == 0.2 * RATE


def test_times_of_segments_have_an_end(tmp_path, wavs):
    (tmp_path / "wav.scp").write_text(f"rec {wavs[2]}\n")
    (tmp_path / "segments").write_text("a rec 0 1e308\n")
    (item,) = read_corpus([tmp_path])
    assert "start, end" in str(item.fault)


def test_manifests_that_are_none_end(tmp_path, monkeypatch):
    bomb = tmp_path / "blank.jsonl.gz"
    bomb.write_bytes(gzip.compress(b"\n" * 1_000_000))
    monkeypatch.setattr(corpus, "MIN_JUDGED", 1000)
    with pytest.raises(DataError, match="unpacks to far more"):
        read_corpus([bomb])
    monkeypatch.setattr(corpus, "MAX_UNREADABLE", 5)
    (tmp_path / "short.jsonl").write_text("[\n" * 7)
    with pytest.raises(DataError, match="more than 5 lines are no JSON"):
        read_corpus([tmp_path / "short.jsonl"])
    monkeypatch.setattr(corpus, "MAX_LINE", 100)
    (tmp_path / "long.jsonl").write_text(" " * 101 + "[" * 350)
    assert len(read_corpus([tmp_path / "long.jsonl"])) == 4
    damaged = bytearray(gzip.compress(b"{}\n" * 10_000))
    damaged[20:30] = bytes(10)
    (tmp_path / "damaged.jsonl.gz").write_bytes(damaged)
    assert "cannot be read on" in str(read_corpus([tmp_path / "damaged.jsonl.gz"])[-1].fault)


def _header(name, kind, size):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def test_what_tars_announce_takes_no_memory(tmp_path, wavs, monkeypatch):
    path, wav = tmp_path / "shard.tar", wavs[0].read_bytes()
    path.write_bytes(_header("a.wav", tarfile.REGTYPE, 1 << 42) + wav)
    assert "ends within shard/a" in _error(read_corpus([path])[0])
    padded = wav + bytes(-len(wav) % 512)
    path.write_bytes(
        _header("a.wav", tarfile.REGTYPE, len(wav)) + padded + _header("b", tarfile.GNUTYPE_LONGNAME, 2 << 30)
    )
    with path.open("r+b") as file:
        file.truncate(3 << 30)  # which takes no room on the disk
    good, damaged = read_corpus([path])
    assert len(samples(good))
    assert "a header of 2147483648 bytes" in str(damaged.fault)
    monkeypatch.setattr(corpus, "MAX_MEMBER_BYTES", 1 << 10)
    assert "must be at most" in _error(good)


def test_tars_with_gaps_are_told(tmp_path):
    info = tarfile.TarInfo("a.wav")
    info.size = 512
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 50)}
    content = info.tobuf(tarfile.PAX_FORMAT)
    path = tmp_path / "shard.tar"
    path.write_bytes(content + b"1\n0\n1\n".ljust(512, b"\0") + bytes(1024))
    (item,) = read_corpus([path])
    assert "stored with its gaps left out" in str(item.fault)
    path.write_bytes(content + b"9" * 512 + bytes(1024))
    with pytest.raises(ConfigError, match="must be a tar"):
        read_corpus([path])


def test_folders_name_recordings_by_their_place(tmp_path, wavs):
    (tmp_path / "wav" / "deep").mkdir()
    write_speechlike(tmp_path / "wav" / "deep" / "0.wav", 0.5)
    soundfile.write(tmp_path / "wav" / "0.flac", speechlike(0.5), RATE)
    assert not is_corpus(tmp_path / "wav")
    items = read_corpus([tmp_path / "wav"])
    assert sorted(item.utt_id for item in items) == ["0.flac", "0.wav", "1", "2", "deep/0"]


def test_what_is_listed_twice_is_read_once(tmp_path, wavs):
    items = read_corpus([wavs[0], wavs[0], tmp_path / "wav", wavs[0]])
    assert [item.utt_id for item in items] == ["0", "0#2", "0#3", "1", "2", "0#4"]
    assert [item.fault is None for item in items] == [True, False, False, True, True, False]
    assert "the same recording" in str(items[1].fault)


def test_what_is_no_corpus_is_told(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_corpus([tmp_path / "none"])
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="holds no recording"):
        read_corpus([tmp_path / "empty.jsonl"])


def test_long_recordings_are_refused_but_not_their_spans(tmp_path, wavs):
    (tmp_path / "wav.scp").write_text(f"rec {wavs[2]}\n")
    (item,) = read_corpus([tmp_path])
    with pytest.raises(AudioError, match="accepted"):
        list(item.blocks_up_to(RATE, 0.5))
    (tmp_path / "segments").write_text("a rec 0.25 0.5\n")
    (item,) = read_corpus([tmp_path])
    assert sum(map(len, item.blocks_up_to(RATE, 0.5))) == RATE // 4
