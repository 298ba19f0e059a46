"""A worker: results on disk in every format, and outcomes of what is bad."""

import json

import numpy as np
import pytest
import soundfile

from speechnar import Transcriber
from speechnar.data.corpus import CorpusItem
from speechnar.errors import ConfigError
from speechnar.scale.transcribing import TranscribingJob, UnitTranscriber
from speechnar.scale.units import Unit, UnitFailure, UnitReport
from tests.unit.tiny import RATE, save_tiny_model, write_speechlike


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("scale") / "model"))


@pytest.fixture
def unit(tmp_path):
    paths = [write_speechlike(tmp_path / f"{number}.wav", 0.5 + number / 4, seed=number) for number in range(3)]
    return Unit(tuple(CorpusItem(f"deep/{path.stem}", path) for path in paths))


def job(model, tmp_path, **changes):
    return TranscribingJob(model=model, out=tmp_path / "out", device="cpu", precision="fp32", **changes)


def test_every_format(model, unit, tmp_path):
    (tmp_path / "out").mkdir()
    report = UnitTranscriber(job(model, tmp_path, formats=("jsonl", "txt", "srt"), word_timestamps=True))(unit)
    assert isinstance(report, UnitReport)
    expected = Transcriber.load(model, device="cpu", precision="fp32").transcribe(
        [str(item.path) for item in unit.items], word_timestamps=True
    )
    rows = [json.loads(line) for line in (tmp_path / "out" / f"{report.part}.jsonl").read_text().splitlines()]
    assert [row["utt_id"] for row in rows] == [item.utt_id for item in unit.items]
    assert [row["text"] for row in rows] == [transcript.text for transcript in expected]
    assert [row["segments"] for row in rows] == [transcript.to_dict()["segments"] for transcript in expected]
    for item, transcript in zip(unit.items, expected, strict=True):
        assert (tmp_path / "out" / f"{item.utt_id}.txt").read_text() == transcript.to_txt()
        assert (tmp_path / "out" / f"{item.utt_id}.srt").read_text() == transcript.to_srt()
    assert len({outcome.digest for outcome in report.outcomes}) == 3


def test_parquet_holds_the_same(model, unit, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is of the extra scale")
    (tmp_path / "out").mkdir()
    report = UnitTranscriber(job(model, tmp_path, formats=("jsonl", "parquet"), word_timestamps=True))(unit)
    rows = [json.loads(line) for line in (tmp_path / "out" / f"{report.part}.jsonl").read_text().splitlines()]
    table = parquet.read_table(tmp_path / "out" / f"{report.part}.parquet").to_pylist()
    assert [{name: row[name] for name in rows[0]} for row in table] == rows


def test_bad_data_have_their_kinds(model, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "long.wav", np.zeros(RATE * 3), RATE)
    (tmp_path / "zero.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("no audio")
    names = ["silent", "empty", "nan", "long", "zero", "text", "absent"]
    items = [CorpusItem(name, tmp_path / f"{name}.wav") for name in names]
    items += [CorpusItem("twice", tmp_path, fault="twice is listed twice")]
    (tmp_path / "out").mkdir()
    report = UnitTranscriber(job(model, tmp_path, max_seconds=2.0))(Unit(tuple(items)))
    kinds = {outcome.utt_id: outcome.kind for outcome in report.outcomes}
    assert kinds == {
        "silent": None, "empty": "empty", "nan": "not finite", "long": "too long", "zero": "empty",
        "text": "unreadable", "absent": "unreadable", "twice": "duplicate",
    }  # fmt: skip
    assert report.outcomes[0].reason == "silent"
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_names_of_a_stranger_harm_nothing(model, tmp_path):
    """Ids cannot leave the folder, take the place of the journal, or end the run; two of them never share a file."""
    wav, out = write_speechlike(tmp_path / "a.wav", 0.5), tmp_path / "out"
    out.mkdir()
    (out / "run.json").write_text("{}")
    ids = [
        "../../x/a",
        "/x/a",
        "x/a",
        "x/../a",
        "n\0/b",
        "run",
        "report",
        "part-1",
        ".run",
        "c",
        "c.json/d",
        "y" * 300 + "/e",
    ]
    ids += ["/".join(["z" * 90] * 60)]
    report = UnitTranscriber(job(model, tmp_path, formats=("json",)))(
        Unit(tuple(CorpusItem(name, wav) for name in ids))
    )
    assert isinstance(report, UnitReport)
    assert {outcome.utt_id: outcome.kind for outcome in report.outcomes} == {
        **dict.fromkeys(ids), "c.json/d": "unwritable", ids[-1]: "unwritable"
    }  # fmt: skip
    assert len(list(out.rglob("*.json"))) == len(ids) - 2 + 1 + 0
    assert (out / "run.json").read_text() == "{}"
    assert not list(out.glob("part-*"))
    assert {path.name for path in tmp_path.iterdir()} == {"a.wav", "out"}


def test_what_cannot_be_written_is_final(model, unit, tmp_path):
    (tmp_path / "out").write_text("a file")
    failure = UnitTranscriber(job(model, tmp_path))(unit)
    assert isinstance(failure, UnitFailure)
    assert failure.is_final
    assert "cannot be written" in failure.reason


def test_options_are_checked_before_a_model_is_loaded(tmp_path):
    with pytest.raises(ConfigError, match="formats"):
        job("none", tmp_path, formats=("mp3",))
    with pytest.raises(ConfigError, match="max_seconds"):
        job("none", tmp_path, max_seconds=0.0)
