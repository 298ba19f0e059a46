import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from speechnar.asr.transcriber import Transcriber
from speechnar.audio.augment import speed_perturb
from speechnar.cli.main import main
from speechnar.data.dataset import read_utterance
from speechnar.data.kaldi import Utterance, read_kaldi_dir, write_kaldi_dir
from speechnar.errors import ConfigError, DataError
from speechnar.evaluation.tts import score_speech
from speechnar.models.base import load_model, save_model
from speechnar.models.judges.speaker_verifier import SpeakerVerifier, SpeakerVerifierConfig
from speechnar.text.tokenizer import CharTokenizer
from speechnar.tts.synthesizer import Synthesizer
from tests.unit.models.sounds import voice
from tests.unit.tiny import save_tiny_model, save_tiny_tts, speechlike

RATE = 16000
SPEAKERS = {"ann": (200.0, 700.0), "bob": (110.0, 450.0)}


def save_wavs(folder, wavs):
    folder.mkdir(parents=True, exist_ok=True)
    for utt_id, wav in wavs.items():
        soundfile.write(folder / f"{utt_id}.wav", wav, RATE, subtype="FLOAT")
    return folder


# Librosa compiles its pitch tracker, which takes as long as many tests.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    folder = save_tiny_model(tmp_path_factory.mktemp("models") / "judge")
    return Transcriber.load(folder, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def verifier(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "verifier"
    save_model(folder, SpeakerVerifier(SpeakerVerifierConfig.debug()), CharTokenizer(("<blank>", "<unk>", "a")))
    return load_model(folder)


@pytest.fixture(scope="module")
def wavs():
    return {
        f"{name}-{i}": voice(8000 + 1600 * i, pitch_hz=pitch_hz + 5 * i, formant_hz=formant_hz).numpy()
        for name, (pitch_hz, formant_hz) in SPEAKERS.items()
        for i in range(3)
    }


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, judge, wavs):
    """Return recordings whose texts are what the judge hears, so that it is never wrong about them."""
    root = tmp_path_factory.mktemp("data")
    audio = save_wavs(root / "audio", wavs)
    utterances = [
        Utterance(
            utt_id=utt_id,
            wav_path=audio / f"{utt_id}.wav",
            text=judge.transcribe(wav, sample_rate=RATE, language="eng").text,
            spk_id=utt_id.partition("-")[0],
            duration_s=len(wav) / RATE,
        )
        for utt_id, wav in wavs.items()
    ]
    assert all(utterance.text for utterance in utterances)
    write_kaldi_dir(root / "test", utterances)
    return root / "test"


@pytest.fixture(scope="module")
def scored(data_dir, judge, verifier, wavs, tmp_path_factory):
    root = tmp_path_factory.mktemp("systems")
    systems = {
        "copied": save_wavs(root / "copied", wavs),
        "slow": save_wavs(root / "slow", {utt_id: speed_perturb(wav, 0.8, RATE) for utt_id, wav in wavs.items()}),
        "noise": save_wavs(
            root / "noise",
            {utt_id: 0.1 * np.random.default_rng(0).normal(size=len(wav)) for utt_id, wav in wavs.items()},
        ),
    }
    plots = root / "plots"
    return *score_speech(data_dir, systems, judge=judge, verifier=verifier, plots=plots, num_plots=2), plots


def test_copies_are_as_good_as_recordings(scored):
    report, entries, _ = scored
    recorded, copied = report.systems["recorded"], report.systems["copied"]
    assert list(report.systems) == ["recorded", "copied", "slow", "noise"]
    assert (report.utterances, report.judge, report.verifier) == (6, "judge", "verifier")
    assert recorded.wer.rate == copied.cer.rate == 0
    assert recorded.right.value == copied.right.value == 1
    assert copied.similarity == recorded.similarity
    assert copied.mcd_db.value == copied.pitch_rmse_cents.value == copied.voicing_error.value == 0
    assert copied.pitch_correlation.value == pytest.approx(1)
    assert copied.duration.value == 1
    assert recorded.mcd_db is None  # from themselves
    assert recorded.failed == 0
    assert len(entries) == 4 * 6
    assert {entry["system"] for entry in entries} == set(report.systems)


def test_slow_speech_is_longer_and_lower(scored):
    slow = scored[0].systems["slow"]
    assert slow.duration.value == pytest.approx(1.25, abs=1e-3)
    # Played at 0.8 times the speed: 1200 log2(0.8) = -386 cents.
    assert slow.pitch_rmse_cents.value == pytest.approx(386, abs=50)
    assert slow.mcd_db.value > 0


def test_noise_is_nothing_like_it(scored):
    report = scored[0]
    noise, slow = report.systems["noise"], report.systems["slow"]
    assert noise.right.value < 1
    assert noise.cer.rate > 0
    assert noise.mcd_db.value > slow.mcd_db.value
    assert noise.voicing_error.value > 0.1


def test_the_means_are_those_of_the_entries(scored):
    report, entries, _ = scored
    for key in ("mcd_db", "similarity", "voicing_error"):
        values = [entry[key] for entry in entries if entry["system"] == "slow"]
        assert getattr(report.systems["slow"], key).value == pytest.approx(np.mean(values))
        assert getattr(report.systems["slow"], key).num == 6


def test_voices_are_compared_with_the_other_recordings(scored, verifier, wavs):
    report, entries, _ = scored
    with torch.no_grad():
        vectors = {
            utt_id: verifier.model(torch.from_numpy(wav)[None], torch.tensor([len(wav)]))[0].numpy()
            for utt_id, wav in wavs.items()
        }
    others = vectors["ann-1"] + vectors["ann-2"]
    expected = vectors["ann-0"] @ others / np.linalg.norm(others)
    found = next(entry for entry in entries if entry["system"] == "copied" and entry["utt_id"] == "ann-0")
    assert found["similarity"] == pytest.approx(expected, abs=1e-5)
    assert (report.voices.same.num, report.voices.different.num) == (6, 6)
    assert report.voices.same.low <= report.voices.same.median <= report.voices.same.high <= 1
    assert 0 <= report.voices.eer <= 1


def test_a_single_speaker_is_compared_with_others_elsewhere(tmp_path, data_dir, judge, verifier):
    utterances = read_kaldi_dir(data_dir)
    write_kaldi_dir(tmp_path / "ann", [utt for utt in utterances if utt.spk_id == "ann"])
    alone, _ = score_speech(tmp_path / "ann", {}, judge=judge, verifier=verifier)
    assert (alone.voices.different, alone.voices.eer) == (None, None)
    report, _ = score_speech(tmp_path / "ann", {}, judge=judge, verifier=verifier, others=data_dir)
    assert (report.voices.same.num, report.voices.different.num) == (3, 3)
    write_kaldi_dir(tmp_path / "one", utterances[:1])
    single, entries = score_speech(tmp_path / "one", {}, judge=judge, verifier=verifier)
    assert single.systems["recorded"].similarity is None
    assert single.voices.same is None
    assert "similarity" not in entries[0]


def test_the_same_few_utterances_are_drawn(scored):
    assert sorted(path.name for path in scored[2].iterdir()) == ["ann-0.png", "bob-0.png"]


def test_what_cannot_be_compared_is_refused(tmp_path, data_dir, judge, verifier, wavs):
    def score(**changes):
        return score_speech(data_dir, **{"systems": {}, "judge": judge, "verifier": verifier, **changes})

    save_wavs(tmp_path / "few", {"ann-0": wavs["ann-0"]})
    with pytest.raises(DataError, match=r"'few' must have a file for each of 6 utterances; 5 are missing, first ann-1"):
        score(systems={"few": tmp_path / "few"})
    save_wavs(tmp_path / "short", dict.fromkeys(wavs, np.zeros(100)))
    with pytest.raises(DataError, match="holds 100 samples, less than a frame"):
        score(systems={"short": tmp_path / "short"})
    with pytest.raises(ConfigError, match="must not be called 'recorded'"):
        score(systems={"recorded": tmp_path})
    with pytest.raises(ConfigError, match="must be a speaker_verifier at 16000 samples per second, got a owsm_ctc"):
        score(verifier=judge._loaded)
    deaf = SpeakerVerifierConfig.debug()
    deaf = deaf.model_copy(update={"frontend": deaf.frontend.model_copy(update={"sample_rate": 8000})})
    with pytest.raises(ConfigError, match="at 16000"):
        score(verifier=replace(verifier, model=SpeakerVerifier(deaf)))


def test_another_recogniser_judges_by_what_it_wrote(tmp_path, data_dir, verifier, wavs, capsys):
    save_model(tmp_path / "verifier", verifier.model, verifier.tokenizer)
    save_wavs(tmp_path / "copied", wavs)
    texts = dict(line.split(" ", 1) for line in (data_dir / "text").read_text(encoding="utf-8").splitlines())
    recorded = "".join(f"{utt_id} {text.upper()}!\n" for utt_id, text in texts.items())
    (tmp_path / "recorded").write_text(recorded, encoding="utf-8")
    (tmp_path / "heard").write_text("".join(f"{utt_id}\n" for utt_id in texts), encoding="utf-8")
    arguments = [
        "tts",
        "score",
        str(data_dir),
        str(tmp_path / "out"),
        "--judge",
        "ears",
        "--verifier",
        str(tmp_path / "verifier"),
    ]
    arguments += ["--system", f"copied={tmp_path / 'copied'}", "--heard", f"recorded={tmp_path / 'recorded'}"]
    assert main(arguments) == 1
    assert "ears must have heard each of 6 utterances of system 'copied'; 6 are missing" in capsys.readouterr().err
    assert main([*arguments, "--normalizer", "whispered"]) == 2
    assert "whispered" in capsys.readouterr().err
    assert main([*arguments, "--heard", f"copied={tmp_path / 'heard'}"]) == 0
    report = json.loads((tmp_path / "out" / "speech.json").read_text())
    assert report["judge"] == "ears"
    assert [report["systems"][name]["cer"]["rate"] for name in ("recorded", "copied")] == [0, 1]


def test_from_the_command_line(tmp_path, data_dir, verifier, wavs, capsys):
    models = tmp_path / "run"
    save_model(models / "model", verifier.model, verifier.tokenizer)
    save_tiny_model(tmp_path / "judge")
    save_wavs(tmp_path / "copied", wavs)
    arguments = ["tts", "score", str(data_dir), str(tmp_path / "out"), "--judge", str(tmp_path / "judge"), "--verifier"]
    system = ["--system", f"copied={tmp_path / 'copied'}"]
    assert main([*arguments, str(models / "model"), *system]) == 0
    assert "copied: CER 0.00" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "speech.json").read_text())
    assert (report["judge"], report["verifier"]) == ("judge", "run/model")
    assert report["systems"]["copied"]["mcd_db"]["value"] == 0
    assert report["systems"]["copied"]["cer"]["rate"] == 0
    assert len((tmp_path / "out" / "utterances.jsonl").read_text().splitlines()) == 12
    assert len(list((tmp_path / "out" / "log_mels").iterdir())) == 5
    assert main([*arguments, str(tmp_path / "nowhere"), *system]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert main([*arguments, str(models / "model"), "--system", "unnamed"]) == 2


@pytest.fixture(scope="module")
def tts(tmp_path_factory):
    return save_tiny_tts(tmp_path_factory.mktemp("tts"))


def write_dir(folder, speakers, text="the cat sat"):
    utterances = []
    folder.mkdir()
    for number, speaker in enumerate(speakers):
        path = folder / f"{speaker}-{number}.wav"
        soundfile.write(path, speechlike(1.5, seed=number), RATE)
        utterances.append(Utterance(path.stem, path, text, speaker, 1.5))
    write_kaldi_dir(folder / "data", utterances)
    return folder / "data"


def test_texts_are_spoken_in_the_voices_of_their_speakers(tts, tmp_path):
    data = write_dir(tmp_path / "test", ["ann", "bob", "bob"])
    voices = write_dir(tmp_path / "voices", ["ann", "bob", "bob"])
    arguments = ["tts", "decode", str(tts), str(data), str(tmp_path / "out"), "--steps", "2", "--seed", "5"]
    assert main([*arguments, "--voices", str(voices)]) == 0
    synthesizer = Synthesizer.load(tts, precision="fp32")
    reference = read_kaldi_dir(voices)[1]
    voice = synthesizer.voice(read_utterance(reference, RATE), text=reference.text, sample_rate=RATE)
    expected = synthesizer.synthesize("the cat sat", voice=voice, steps=2, seed=7)
    written, rate = soundfile.read(tmp_path / "out/bob-2.wav", dtype="float32")
    assert rate == RATE
    torch.testing.assert_close(torch.from_numpy(written), torch.from_numpy(expected.samples), atol=1e-4, rtol=0)
    assert main(arguments) == 0  # in the model's own voice
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ann-0.wav", "bob-1.wav", "bob-2.wav"]


def test_recordings_pass_through_the_vocoder_or_the_codec_as_well(tts, tmp_path):
    data = write_dir(tmp_path / "test", ["ann"])
    model = load_model(tts).model
    wav = torch.from_numpy(read_utterance(read_kaldi_dir(data)[0], RATE))[None]
    lens = torch.tensor([wav.size(1)])
    with torch.no_grad():
        expected = {
            "vocoded": model.vocoder(*model.codec.frontend(wav, lens))[0][0],
            "coded": model.vocoder(*model.codec.decode(*model.codec.encode(wav, lens)))[0][0],
        }
    assert not torch.equal(expected["vocoded"][:1000], expected["coded"][:1000])
    for system, samples in expected.items():
        assert main(["tts", "decode", str(tts), str(data), str(tmp_path / system), "--system", system]) == 0
        written, _ = soundfile.read(tmp_path / system / "ann-0.wav", dtype="float32")
        torch.testing.assert_close(torch.from_numpy(written), samples.clamp(-1, 1), atol=1e-4, rtol=0)


def test_errors_name_what_is_wrong(tts, tmp_path, capsys):
    data, voices = write_dir(tmp_path / "test", ["ann"]), write_dir(tmp_path / "voices", ["bob"])
    assert main(["tts", "decode", str(tts), str(data), str(tmp_path / "out"), "--voices", str(voices)]) == 1
    assert "speaker 'ann' of utterance 'ann-0' has no recording among voices" in capsys.readouterr().err
    other = save_tiny_model(tmp_path / "asr")
    assert main(["tts", "decode", str(other), str(data), str(tmp_path / "out"), "--system", "coded"]) == 2
    assert "must be a model of kind tts" in capsys.readouterr().err
