"""Clips to tokens: batches, specials, and the language of what is heard in many windows."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from speechnar.asr.clips import ClipDecoder, DecodeOptions, translation_targets
from speechnar.asr.transcriber import Transcriber
from speechnar.decode.align import CtcPath
from speechnar.decode.lm import TokenNgram, WordNgram
from speechnar.errors import ConfigError
from speechnar.models.asr.owsm_ctc import OwsmCtc
from speechnar.models.base import LoadedModel, load_model
from speechnar.text.byte_pairs import BYTE_LETTERS
from tests.unit.tiny import LANGUAGES, RATE, save_tiny_model, save_tiny_whisper, speechlike, vowels


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> LoadedModel:
    return load_model(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def whisper(tmp_path_factory) -> LoadedModel:
    """A model on a Whisper trunk, with byte-level pieces."""
    return load_model(save_tiny_whisper(tmp_path_factory.mktemp("models") / "whisper"))


def windows_of(wav: np.ndarray, window_s: float, context_s: float) -> list[np.ndarray]:
    """Cut windows that overlap by two contexts, all of whole frames of 80 ms, as long as there is more to hear."""
    window, shift = round(window_s * RATE), round((window_s - 2 * context_s) * RATE)
    starts = [0]
    while starts[-1] + window < len(wav):
        starts.append(starts[-1] + shift)
    return [wav[start : start + window] for start in starts]


@pytest.mark.parametrize("batch_seconds", [1.0, 15.0, 120.0])
def test_the_language_is_that_of_all_windows_together(loaded, batch_seconds):
    """The mass of a recording is the sum of those of its windows, each decoded alone, however many go together."""
    wav = speechlike(26.0, seed=5)
    decoder = ClipDecoder(loaded, options=DecodeOptions(window_s=6.24, batch_seconds=batch_seconds))
    windows = windows_of(wav, 6.24, 1.04)
    assert len(windows) == 6
    masses = [decoder.decode([window])[0].language_mass for window in windows]
    assert min(mass.sum() for mass in masses) > 0
    shares = np.array([mass / mass.sum() for mass in masses])
    assert np.ptp(shares, axis=0).max() > 0.01  # the windows do not agree
    found, num_samples = decoder.decode_windows(iter([wav[:7000], wav[7000:]]))
    assert num_samples == len(wav)
    np.testing.assert_allclose(found.language_mass, sum(masses), rtol=1e-4)
    language, probability = decoder.decide_language(found.language_mass)
    assert LANGUAGES.index(language) == int(sum(masses).argmax())
    assert probability == pytest.approx(sum(masses).max() / sum(masses).sum(), rel=1e-4)


def test_a_long_recording_says_the_language_of_all_its_windows(loaded):
    wav = vowels(26.0, seed=5)
    options = DecodeOptions(window_s=6.24, vad=False)
    transcript = Transcriber(loaded).transcribe(wav, sample_rate=RATE, options=options)
    decoder = ClipDecoder(loaded, options=options)
    mass = sum(decoded.language_mass for decoded in decoder.decode(windows_of(wav, 6.24, 1.04)))
    assert transcript.language == LANGUAGES[int(mass.argmax())]
    assert transcript.language_probability == pytest.approx(mass.max() / mass.sum(), rel=1e-4)


def test_mass_is_the_sum_of_probabilities_over_real_positions(loaded):
    decoder = ClipDecoder(loaded)
    ids = list(decoder.language_ids.values())
    probs = torch.full((2, 4, loaded.tokenizer.vocab_size), 1e-9)
    probs[0, 0, ids[0]], probs[0, 3, ids[0]], probs[0, 2, ids[2]] = 0.5, 0.25, 0.125
    probs[1, 1, ids[1]], probs[1, 2:, ids[1]] = 0.75, torch.nan  # beyond its end
    out = SimpleNamespace(log_probs=probs.log(), lens=torch.tensor([4, 2]))
    np.testing.assert_allclose(decoder.language_mass(out), [[0.75, 0, 0.125], [0, 0.75, 0]], atol=1e-7)


def test_clips_come_back_in_their_order_whatever_goes_together(loaded):
    clips = [speechlike(seconds, seed=i) for i, seconds in enumerate((2.0, 0.5, 3.0, 1.0))]
    alone = ClipDecoder(loaded)
    expected = [alone.decode([clip])[0] for clip in clips]
    assert len({tuple(decoded.path.tokens) for decoded in expected}) == 4
    for batch_seconds in (3.0, 6.0, 120.0):
        found = ClipDecoder(loaded, options=DecodeOptions(batch_seconds=batch_seconds)).decode(clips)
        assert [decoded.path.tokens for decoded in found] == [decoded.path.tokens for decoded in expected]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.language_mass, other.language_mass, rtol=1e-3)
    assert ClipDecoder(loaded).decode([]) == []


def test_sizes_in_samples(loaded):
    decoder = ClipDecoder(loaded, options=DecodeOptions(window_s=2.5, batch_seconds=10.0))
    assert (decoder.window_samples, decoder.batch_samples) == (40_000, 160_000)
    usual = ClipDecoder(loaded)
    assert usual.batch_seconds == 30.0
    usual.device = torch.device("cuda")
    assert usual.batch_seconds == 120.0
    assert decoder.shortest_samples == round(4 * 0.08 * RATE)  # four frames of 10 ms, eight times subsampled
    padded = ClipDecoder(loaded, options=DecodeOptions(window_s=2.5, pad=True))
    clip = speechlike(1.0)
    silent = np.concatenate([clip, np.zeros(24_000, dtype=np.float32)])
    (bare,), (whole,) = padded.decode([clip]), decoder.decode([silent])
    assert bare.path.tokens == whole.path.tokens


def test_models_of_padded_clips_are_given_them(loaded):
    config = loaded.config.model_copy(update={"clip_s": 2.0})
    trained = OwsmCtc(config, loaded.tokenizer).eval()
    trained.load_state_dict(loaded.model.state_dict())
    padded = replace(loaded, model=trained)
    clip = speechlike(1.0)
    silent = np.concatenate([clip, np.zeros(RATE, dtype=np.float32)])
    for options, of_clip, heard in (
        (DecodeOptions(), padded, silent),
        (DecodeOptions(pad=True), padded, silent),
        (DecodeOptions(pad=False), padded, clip),
        (DecodeOptions(), loaded, clip),
    ):
        decoder = ClipDecoder(of_clip, options=options)
        assert decoder.pads == (heard is silent)
        (found,), (expected,) = decoder.decode([clip]), ClipDecoder(loaded).decode([heard])
        assert found.path.tokens == expected.path.tokens
    # A recording that is decoded in windows is padded to whole ones.
    (windowed, _), (whole, _) = (
        ClipDecoder(model, options=DecodeOptions(window_s=2.0, pad=pad)).decode_windows([clip])
        for model, pad in ((padded, None), (loaded, True))
    )
    assert windowed.path.tokens == whole.path.tokens


def test_specials_are_dropped_and_unknown_pieces_kept(loaded):
    decoder, tokenizer = ClipDecoder(loaded), loaded.tokenizer
    cat = tokenizer.encode("cat")[0]
    tokens = [decoder.language_ids["eng"], tokenizer.id_of("<asr>"), cat, tokenizer.unk_id, tokenizer.id_of("<na>")]
    path = CtcPath(tokens, [0, 1, 2, 6, 9], [1, 2, 4, 7, 10], [-1.0, -2.0, -3.0, -4.0, -5.0], -15.0)
    kept = decoder.text_path(path)
    assert kept == CtcPath([cat, tokenizer.unk_id], [0, 4], [2, 5], [-3.0, -4.0], -15.0)  # two positions of prefix
    assert decoder.text_path(path, num_prefix=0).starts == [2, 6]


def test_what_is_asked_reaches_the_model(loaded):
    id_of = loaded.tokenizer.id_of
    assert ClipDecoder(loaded).target_head("fra") == [id_of("<fra>"), id_of("<asr>")]
    german = ClipDecoder(loaded, task="st_deu", language="fr")
    assert german.target_head("eng") == [id_of("<eng>"), id_of("<st_deu>")]
    assert german.decide_language(np.array([1.0, 0.0, 0.0])) == ("fra", None)
    assert ClipDecoder(loaded).decide_language(np.zeros(3)) == ("und", 0.0)
    clip = speechlike(1.0)
    out = german.encode([clip])
    with torch.inference_mode():
        prefix = torch.tensor([[id_of("<fra>"), id_of("<st_deu>")]])
        wanted = loaded.model.encode(torch.from_numpy(clip)[None], torch.tensor([RATE]), prefix=prefix)
    assert torch.equal(out.log_probs, wanted.log_probs)


def test_text_that_cannot_be_spelled(loaded):
    decoder = ClipDecoder(loaded)
    assert loaded.tokenizer.decode(decoder.spell("the cat", "text")) == "the cat"
    with pytest.raises(ConfigError, match="hotword must not be empty, got ' '"):
        decoder.spell(" ", "hotword")
    with pytest.raises(ConfigError, match=r"text has letters that model .* cannot spell: 'Ω'$"):
        decoder.spell("the Ω", "text")
    with pytest.raises(ConfigError, match=r"cannot spell: 'T', 'H', 'E'; it knows small letters$"):
        decoder.spell("THE", "text")
    with pytest.raises(ConfigError, match=r"must be UTF-8, got 'a \\udcff b', whose letter 3 is none"):
        decoder.spell("a \udcff b", "text")


@pytest.mark.parametrize("phrase", ["THE CAT", "The cat", "the-cat", "the cat!", "ｔｈｅ cat"])
def test_hotwords_are_brought_to_the_models_letters(loaded, phrase):
    decoder = ClipDecoder(loaded, options=DecodeOptions(hotwords=(phrase,)))
    assert "the" in loaded.tokenizer.decode(decoder._spell_hotwords()[0])


def test_hotwords_that_cannot_be_spelled_are_named_and_left_out(loaded, caplog):
    decoder = ClipDecoder(loaded, options=DecodeOptions(hotwords=("Ωmega", "the cat")))
    assert [loaded.tokenizer.decode(tokens) for tokens in decoder._spell_hotwords()] == ["the cat"]
    assert "hotword 'Ωmega' is left out: model tiny cannot spell 'Ω'" in caplog.text
    without = ClipDecoder(loaded, options=DecodeOptions(hotwords=("Ωmega",)))
    clip = speechlike(1.0)
    assert without.decode([clip])[0].path.tokens  # nothing else changes
    with pytest.raises(ConfigError, match="hotword must not be empty"):
        ClipDecoder(loaded, options=DecodeOptions(hotwords=(" ",)))


def test_targets_of_translation_are_told_by_the_vocabulary():
    assert translation_targets(["<st_deu>", "a", "<asr>", "<st_fra>", "<st_x", "st_eng>"]) == ["deu", "fra"]


# Decoders on a Whisper trunk.


@pytest.mark.parametrize("decoder", ["refiner", "transformer_ar"])
def test_decoders_of_a_whisper_trunk_write_each_clip_as_if_alone(whisper, decoder):
    clips = [speechlike(seconds, seed=i) for i, seconds in enumerate((2.0, 0.05, 1.2))]
    model = ClipDecoder(whisper, options=DecodeOptions(decoder=decoder))
    together = model.decode(clips)
    assert any(decoded.path.tokens for decoded in together)
    for clip, decoded in zip(clips, together, strict=True):
        assert model.decode([clip])[0].path.tokens == decoded.path.tokens
    transcript = Transcriber(whisper).transcribe(
        clips[0], sample_rate=RATE, word_timestamps=True, options=DecodeOptions(decoder=decoder)
    )
    words = [word for segment in transcript.segments for word in segment.words]
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times) and all(0 <= time <= 2.0 for time in times)


def test_the_refiner_honours_no_option_of_a_search(whisper):
    assert whisper.model.decoder_names == ("ctc", "refiner", "transformer_ar")
    for options, others in (
        ({"beam_size": 4}, "ctc or transformer_ar"),
        ({"hotwords": ("cat",)}, "ctc"),
        ({"lm": "words.arpa"}, "ctc"),
    ):
        with pytest.raises(ConfigError, match=f"is not for decoder refiner of model .*; use {others}$"):
            ClipDecoder(whisper, options=DecodeOptions(decoder="refiner", **options))


# Language models and hotwords over byte-level pieces.


def heard(loaded: LoadedModel, *frames: dict[str, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return posteriors of CTC: of each piece its probability, frame by frame, with blanks between them."""
    probs = torch.full((1, 2 * len(frames), loaded.tokenizer.vocab_size), 1e-9)
    probs[0, 1::2, loaded.tokenizer.blank_id] = 1.0
    for place, pieces in enumerate(frames):
        for piece, prob in pieces.items():
            probs[0, 2 * place, loaded.tokenizer.id_of(piece)] = prob
    return probs.log(), torch.tensor([2 * len(frames)])


CAR = [{"Ġcar": 0.6, "Ġcat": 0.4}, {",": 1.0}, {"Ġcar": 1.0}]
BAD = [
    {"ä½ł": 1.0},
    {"å": 1.0},  # the first byte of "坏" and of "好"
    {BYTE_LETTERS[0x9D]: 0.6, "¥": 0.4},
    {BYTE_LETTERS[0x8F]: 0.6, "½": 0.4},
    {"ä½ł": 1.0},
]


@pytest.mark.parametrize(
    ("frames", "phrase", "texts"),
    [(CAR, "cat", ["car, car", "cat, car"]), (BAD, "好", ["你坏你", "你好你"]), (BAD, "你好", ["你坏你", "你好你"])],
)
def test_hotwords_of_bytes_are_found_amid_a_text(whisper, frames, phrase, texts):
    found = []
    for options in (DecodeOptions(beam_size=8), DecodeOptions(hotwords=(phrase,))):
        (path,) = ClipDecoder(whisper, options=options).search(*heard(whisper, *frames), ["eng"])
        found.append(whisper.tokenizer.decode(path.tokens))
    assert found == texts


def write_arpa(path, **log_probs: float):
    """Write a unigram model with log-probabilities to base 10."""
    lines = [f"{log_prob}\t{word}" for word, log_prob in log_probs.items()]
    path.write_text("\n".join(["\\data\\", f"ngram 1={len(lines)}", "\\1-grams:", *lines, "\\end\\", ""]), "utf-8")
    return path


def test_language_models_are_of_words_or_of_byte_pieces(whisper, tmp_path):
    words = write_arpa(tmp_path / "words.arpa", car=-3.0, cat=-1.0, 你=-1.0, 好=-1.0, 坏=-3.0)
    pieces = write_arpa(tmp_path / "pieces.arpa", **{"Ġcar": -3.0, "Ġcat": -1.0, ",": -1.0})
    for path, kind in ((words, WordNgram), (pieces, TokenNgram)):
        decoder = ClipDecoder(whisper, options=DecodeOptions(lm=path))
        assert isinstance(decoder.search.lm, kind)
        (found,) = decoder.search(*heard(whisper, *CAR), ["eng"])
        assert whisper.tokenizer.decode(found.tokens) == "cat, car"
    (found,) = ClipDecoder(whisper, options=DecodeOptions(lm=words)).search(*heard(whisper, *BAD), ["eng"])
    assert whisper.tokenizer.decode(found.tokens) == "你好你"
