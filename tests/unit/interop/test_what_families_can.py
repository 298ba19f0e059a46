"""Word times, languages and streaming of every family that hears, from its published files."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from speechnar import Transcriber, Transcript
from speechnar.asr.clips import ClipDecoder
from speechnar.errors import ConfigError
from speechnar.interop import FAMILIES, convert, family_of
from speechnar.interop.espnet_names import MODULE_NAMES
from speechnar.interop.espnet_options import parse_options
from speechnar.interop.family import FolderListing
from speechnar.models.asr.owsm_ctc import OwsmCtc
from speechnar.models.asr.paraformer_stream import missing_to_stream
from speechnar.models.base import load_model
from speechnar.text.tokenizer import CharTokenizer
from tests.reference import funasr_folders
from tests.unit.interop import (
    test_cassnat,
    test_espnet,
    test_granite,
    test_icefall,
    test_parakeet,
    test_wav2vec2,
    test_wav2vec2_bert,
)
from tests.unit.interop.layouts import in_their_layout
from tests.unit.tiny import RATE, vowels

GOLDEN = Path(__file__).parents[2] / "reference" / "golden"


def read_golden(name: str) -> tuple[dict[str, np.ndarray], dict[str, torch.Tensor]]:
    """Return a golden file and the weights in it."""
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        golden = dict(file)
    return golden, {k[6:]: torch.from_numpy(v).float() for k, v in golden.items() if k.startswith("state/")}


def owsm_ctc(folder: Path) -> Path:
    golden, state = read_golden("owsm_ctc")
    return test_espnet.write(folder, json.loads(str(golden["options"])), state)


def espnet_asr(folder: Path) -> Path:
    given = json.loads(str(read_golden("owsm_ctc")[0]["options"]))
    options = {name: given[name] for name in ("token_list", "token_type", "normalize", "normalize_conf")}
    specials = ("<blank>", "<unk>", "<sos>", "<eos>")
    options["token_list"] = [piece for piece in given["token_list"] if piece in specials or not piece.startswith("<")]
    sizes = {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 2}
    options |= {"encoder": "transformer", "encoder_conf": sizes}
    model = OwsmCtc(parse_options(options).to_config(), CharTokenizer(options["token_list"]))
    names = {theirs: ours for theirs, ours in MODULE_NAMES.items() if not theirs.startswith("decoder.")}
    constants = {theirs: names[theirs] for theirs in ("frontend.logmel.melmat", "normalize.mean", "normalize.std")}
    state = in_their_layout(model, names) | {k: model.state_dict()[ours] for k, ours in constants.items()}
    return test_espnet.write(folder, options, state)


def paraformer(name: str) -> Callable[[Path], Path]:
    return lambda folder: funasr_folders.write_folder(funasr_folders.read_golden(name), folder)


def cassnat(name: str) -> Callable[[Path], Path]:
    return lambda folder: test_cassnat.write(folder, read_golden(name)[0])


def wav2vec2(kind: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        options = test_wav2vec2.make_options("large", model_type=kind, pad_token_id=0)
        state = test_wav2vec2.with_head(test_wav2vec2.make_state("large"), kind)
        return test_wav2vec2.write_folder(folder, options, state, vocab=test_wav2vec2.vocabulary())

    return write


def icefall(folder: Path) -> Path:
    golden, state = read_golden("zipformer")
    steep = {f"ctc_output.1.{name}": torch.from_numpy(golden[f"steep/{name}"]).float() for name in ("weight", "bias")}
    return test_icefall.write(folder, state | steep)


CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "OWSM-CTC": owsm_ctc,
    "ESPnet ASR": espnet_asr,
    "Paraformer": paraformer("conformer"),
    "SeACo Paraformer": paraformer("seaco"),
    "online Paraformer": paraformer("online"),
    "SenseVoice": paraformer("sensevoice"),
    "CASS-NAT": cassnat("cassnat"),
    "UniEnc-CASSNAT": cassnat("unienc"),
    "wav2vec 2.0": wav2vec2("wav2vec2"),
    "HuBERT": wav2vec2("hubert"),
    "w2v-BERT 2.0": lambda folder: test_wav2vec2_bert.write_folder(folder, test_wav2vec2_bert.make_options()),
    "Parakeet": test_parakeet.write_folder,
    "Granite Speech": test_granite.write,
    "Zipformer": icefall,
}
DEAF = {"audiocraft", "Whisper"}
"""Families that make sound, or that are here as a trunk and as a judge."""
LANGUAGES = {"OWSM-CTC": ("eng", "deu"), "SenseVoice": ("zho", "eng", "yue", "jpn", "kor")}
"""Of those that tell which one they hear."""
ARE_CHINESE = {"Paraformer", "SeACo Paraformer", "online Paraformer"}
"""Their pieces say so; all others are of the language of their card."""


@pytest.fixture(scope="module")
def recording() -> np.ndarray:
    return np.concatenate([np.zeros(8000, dtype=np.float32), vowels(1.6), np.zeros(12000, dtype=np.float32)])


@pytest.fixture(params=CHECKPOINTS)
def heard(request, hub, tmp_path) -> tuple[str, Transcriber]:
    """A checkpoint, and its transcriber by the name of its repository."""
    source = CHECKPOINTS[request.param](tmp_path / "theirs")
    (source / "README.md").write_text("---\nlanguage: fr\n---\n")
    hub.add("owner/name", source)
    return request.param, Transcriber.load("owner/name", device="cpu", precision="fp32")


def test_every_family_that_hears_is_here(tmp_path):
    made = [make(tmp_path / str(number)) for number, make in enumerate(CHECKPOINTS.values())]
    families = {family_of(FolderListing(folder)).name for folder in made}
    assert families == {family.name for family in FAMILIES} - DEAF


def check_words(transcript: Transcript) -> None:
    """Words are those of the text, inside the recording, and none begins before another one has ended."""
    assert transcript.text
    words = [word for segment in transcript.segments for word in segment.words]
    shown = transcript.text.replace("⁇", "")  # what has no spelling has no times
    assert "".join(word.word for word in words) == "".join(shown.split())
    assert all(word.start <= word.end for word in words)
    assert all(one.end <= other.start for one, other in pairwise(words))
    assert words[0].start >= 0 and words[-1].end <= transcript.duration


def stream(transcriber: Transcriber, wav: np.ndarray, size: int) -> tuple[Transcript, list[str]]:
    """Push ``wav`` in pieces; what is final on the way is what the transcript begins with."""
    running = transcriber.stream(word_timestamps=True)
    early, partial = [], []
    for begin in range(0, len(wav), size):
        early += running.push(wav[begin : begin + size])
        partial.append(running.partial())
    transcript = running.finish()
    assert tuple(early) == transcript.segments[: len(early)]
    return transcript, partial


def test_word_times_languages_and_streams(heard, recording):
    name, transcriber = heard
    transcript = transcriber.transcribe(recording, sample_rate=RATE, word_timestamps=True)
    check_words(transcript)
    assert transcriber.languages == LANGUAGES.get(name, ())
    if name in LANGUAGES:
        assert transcript.language in LANGUAGES[name]
        told = transcriber.detect_language(recording, sample_rate=RATE)
        assert set(told.probabilities) == set(LANGUAGES[name])
        for language in LANGUAGES[name]:
            given = transcriber.transcribe(recording, sample_rate=RATE, language=language)
            assert (given.language, given.language_probability) == (language, None)
    else:
        assert transcript.language == ("zho" if name in ARE_CHINESE else "fra")
        with pytest.raises(ConfigError, match="language"):
            transcriber.detect_language(recording, sample_rate=RATE)
    streamed, partial = stream(transcriber, recording, 4000)
    check_words(streamed)
    assert any(partial), "something can be read while somebody speaks"
    assert stream(transcriber, recording, len(recording))[0] == streamed, "however samples come"
    assert streamed.language == transcript.language or name in LANGUAGES


def test_long_form_settings_come_with_the_checkpoint(tmp_path):
    owsm, online = (
        load_model(convert(CHECKPOINTS[name](tmp_path / name), tmp_path / f"our {name}").destination)
        for name in ("OWSM-CTC", "online Paraformer")
    )
    assert owsm.config.clip_s == 30.0
    assert ClipDecoder(owsm).pads
    assert not missing_to_stream(online.model)
