"""The recipe of many voices: what its data stages choose, and what they keep out."""

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from speechnar.config import load_config
from speechnar.data.kaldi import Utterance, read_kaldi_dir, write_kaldi_dir
from speechnar.errors import DataError
from speechnar.models.tts.tts import Tts, TtsConfig
from speechnar.text.phonemes import PhonemeTokenizer
from speechnar.train.run import RunConfig
from tests.recipes.test_commonvoice import client, write_release
from tests.recipes.test_recipes import RECIPES, run, run_well, write_tone

RECIPE = RECIPES / "voices/tts"
MEGABYTE = 1_000_000


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"voices_{name}", RECIPE / "local" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def utterance(name: str, seconds: float, text: str = "one two three four", speaker: str = "a") -> Utterance:
    return Utterance(name, Path(f"/{name}.wav"), text, speaker, seconds, lang="eng")


@pytest.mark.slow
def test_data_stages_on_small_trees(tmp_path):
    for number in range(40):
        write_tone(tmp_path / f"kathleen/data/arctic_{number:04d}.wav", 2.0, rate=48000)
        (tmp_path / f"kathleen/data/arctic_{number:04d}.txt").write_text(f"Sentence {number} is read.\n")
    for reader in ("19", "26", "27"):
        for number in range(3):
            write_tone(tmp_path / f"librispeech/{reader}/{reader}-{number}.wav", 4.0 + number)
            (tmp_path / f"librispeech/{reader}/{reader}-{number}.lab").write_text(
                f"READER {reader} SAYS THIS {number}\n"
            )
    release = tmp_path / "cv/en"
    release.mkdir(parents=True)
    rows = [(client(n), f"common_voice_en_{100 * n + i}.mp3", f"Clip {i}.") for n in range(8) for i in range(2)]
    write_release(release, rows, clips="clips")
    for clip in (release / "clips").iterdir():
        shutil.copyfile(tmp_path / "kathleen/data/arctic_0000.wav", clip)
    (tmp_path / "held_out.txt").write_text(client(3) + "\n")
    data = tmp_path / "data"
    opinions = [
        f"{client(n)[:16]}-common_voice_en_{100 * n + i} {3.5 if i else 1.5}\n" for n in range(8) for i in range(2)
    ]
    data.mkdir()
    (data / "opinions.tsv").write_text("".join(opinions))
    options = ["--stage", "1", "--stop_stage", "2", "--data", str(data), "--downloads", str(tmp_path / "downloads")]
    options += ["--corpus_kathleen", str(tmp_path / "kathleen"), "--corpus_librispeech", str(tmp_path / "librispeech")]
    options += ["--corpus_commonvoice", str(release), "--exclude", str(tmp_path / "held_out.txt")]
    out = run_well("voices/tts", *options, "--corpus_ljspeech", "", "--corpus_an4", "", "--eval_minutes", "0.1")
    chosen = read_kaldi_dir(data / "commonvoice/eng/chosen")
    assert chosen and all(one.utt_id.endswith("1") for one in chosen), "those that DNSMOS thinks well of"
    assert "below 2.8" in out
    trained = [
        one
        for name in ("kathleen/train", "librispeech/train", "commonvoice/eng/chosen")
        for one in read_kaldi_dir(data / name)
    ]
    assert not {one.spk_id for one in trained} & {client(3)[:16], "librispeech-27"}
    test, voices = read_kaldi_dir(data / "test"), read_kaldi_dir(data / "voices")
    assert not {one.spk_id for one in trained} & {one.spk_id for one in test}
    assert {one.spk_id for one in test} == {one.spk_id for one in voices} and len(voices) == len(
        {one.spk_id for one in voices}
    )
    assert (data / "tokenizer/tokens.txt").is_file()


def test_a_recipe_without_a_corpus_says_so(tmp_path):
    finished = run("voices/tts", "--stage", "2", "--data", str(tmp_path / "data"))
    assert finished.returncode == 2 and "needs at least one corpus" in finished.stderr


def test_clips_are_chosen_by_length_and_what_is_said(tmp_path):
    choose = load_script("choose_clips")
    kept = [choose.is_usable(utterance("a", seconds)) for seconds in (0.5, 2.0, 16.0)]
    assert kept == [False, True, False]
    assert not choose.is_usable(utterance("a", 10.0)) and not choose.is_usable(utterance("a", 1.0, "a b c d e f g h"))
    path = tmp_path / "opinions.tsv"
    path.write_text("a 3.1\nb 2.0\nc 1.")
    assert choose.read_opinions(path) == {"a": 3.1, "b": 2.0}, "a line that was cut off is asked again"
    path.write_text("a b c\n")
    with pytest.raises(DataError, match=":1: must be an utterance and a number"):
        choose.read_opinions(path)


def test_a_stranger_has_a_reference_and_others_to_compare():
    take = load_script("take_references").take_references
    clips = [
        utterance(f"{speaker}{i}", seconds, speaker=speaker)
        for speaker in "ab"
        for i, seconds in enumerate((4.0, 5.2, 9.0, 2.0, 2.5))
    ]
    references, tests = take([*clips, utterance("c1", 5.0, speaker="c"), utterance("d1", 20.0, speaker="d")], 20)
    assert [one.utt_id for one in references] == ["a1", "b1"]
    assert [one.utt_id for one in tests] == ["a0", "a2", "a3", "b0", "b2", "b3"]
    assert len(take(clips, 1)[0]) == 1


def test_what_is_spoken_by_whom_follows_from_the_text(tmp_path):
    speak = load_script("speak_kokoro")
    texts = [f"Sentence number {number} is here." for number in range(50)]
    voices = ["af_a", "am_b", "bf_c"]
    lines = list(speak.plan(texts, voices, ["SENTENCE number 7 is here"]))
    assert lines == list(speak.plan([*reversed(texts), texts[0]], voices, ["sentence NUMBER seven is here."]))
    assert len(lines) == 49 and len({line.utt_id for line in lines}) == 49
    assert {line.voice for line in lines} == set(voices) and {line.speed for line in lines} == {0.9, 1.0, 1.1}
    for name in ("x/train", "x/test", "kokoro"):
        write_tone(tmp_path / f"{name}.wav", 1.0)
        one = Utterance("u", tmp_path / f"{name}.wav", f"From {name}.", "s", 1.0, lang="eng")
        write_kaldi_dir(tmp_path / name, [one])
    (tmp_path / "more.txt").write_text("More.\n")
    assert speak.read_texts(tmp_path, [tmp_path / "more.txt"]) == (["From x/train.", "More."], ["From x/test."])


def test_the_model_fits_its_size_and_its_students_are_like_it():
    config = load_config(RECIPE / "conf/ardit.yaml", RunConfig).model
    assert isinstance(config, TtsConfig)
    model = Tts.from_config(config, PhonemeTokenizer())
    assert 2 * sum(value.numel() for value in model.state_dict().values()) < 60 * MEGABYTE
    assert model.sample_rate == 24000
    for name in ("regression", "matching", "energy"):
        student = load_config(RECIPE / f"conf/{name}.yaml", RunConfig).model
        assert student.tts == config
    vocoder = load_config(RECIPE / "conf/vocos.yaml", RunConfig).model
    assert vocoder.codec == config.codec
    assert vocoder.vocos.model_dim == config.vocoder.model_dim
    assert vocoder.vocos.phase_iterations == config.vocoder.phase_iterations > 0
