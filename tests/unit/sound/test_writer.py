"""Codes of any length, window by window."""

import numpy as np
import torch

from speechnar.sound.options import GeneratorOptions
from tests.unit.sound.test_generator import make


def test_a_window_may_be_longer_than_what_was_learned_from():
    assert make("magnet", window_frames=48, piece_frames=12).generate("dog", seconds=48 / 50).joins == ()


def test_windows_begin_with_the_end_of_the_one_before():
    """A model that repeats what it is given goes on and on with the same codes."""
    generator = make("magnet")
    model = generator._model
    seen = []

    class Repeat:
        mask_id = model.embed.mask_id

        def begin(self, codes, codebook):
            if codebook == 0:
                seen.append(codes[0, 0].clone())

        def __call__(self, codes, codebook, positions, *, is_guided=True):
            return 50 * torch.nn.functional.one_hot(positions % 16, 16).float(), None

    model.predictor = lambda condition, unconditional: Repeat()
    audio = generator.generate(seconds=1.0)
    assert len(audio.samples) == 16000
    assert len(seen) == 4  # 24 frames, then 12 more each time
    assert (seen[0] == Repeat.mask_id).all()
    for codes in seen[1:]:
        assert (codes[:12] != Repeat.mask_id).all()
        assert (codes[12:] == Repeat.mask_id).all()
    assert seen[1][:12].tolist() == [i % 16 for i in range(12, 24)]


def test_a_partner_leads_and_has_a_say():
    generator = make("magnet", partner=True)
    plain = generator.generate("dog", seconds=0.4)
    led = generator.generate("dog", seconds=0.4, options=GeneratorOptions(lead_seconds=0.2))
    rescored = generator.generate("dog", seconds=0.4, options=GeneratorOptions(rescore=True))
    assert not np.array_equal(plain.samples, led.samples)
    assert not np.array_equal(plain.samples, rescored.samples)
    codes = generator._partner.generate(
        torch.zeros(1, 4, 0, dtype=torch.int64),
        10,
        generator._partner.condition.of_texts(["dog"], torch.device("cpu")),
        unconditional=generator._partner.condition.of_texts([None], torch.device("cpu")),
        generators=[torch.Generator().manual_seed(0)],
    )
    seen = []
    decode = generator._model.codec.decode
    generator._model.codec.decode = lambda given: seen.append(given) or decode(given)
    generator.generate("dog", seconds=0.4, options=GeneratorOptions(lead_seconds=0.2))
    assert torch.equal(seen[0][..., :10], codes)
    assert (plain.joins, led.joins) == ((), (0.2,))


def test_a_window_is_rounded_up_to_whole_spans():
    """Ten seconds of a model that learned from ten seconds are one window, though no multiple of a span."""
    generator, ticks = make("magnet", window_frames=25), []
    audio = generator.generate("dog", seconds=0.5, progress=lambda *tick: ticks.append(tick))
    assert len(audio.samples) == 8000
    assert len(ticks) == 10
    assert audio.joins == ()


def test_an_autoregressive_model_sketches_nothing():
    shown = []
    make("music_ar").generate("dog", seconds=0.3, watch=shown.append)
    assert shown == []
