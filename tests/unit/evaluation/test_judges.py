"""Judges with weights of others: their numbers beside those of the packages that they come from."""

import importlib.util
import sys

import numpy as np
import pytest

from speechnar.errors import DataError, MissingExtraError
from speechnar.evaluation.judges import RATE, Dnsmos, VoiceEncoder
from tests.unit.tiny import speechlike


def installed(*names: str) -> pytest.MarkDecorator:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


@installed("speechmos", "onnxruntime")
def test_opinions_are_those_of_the_package():
    dnsmos = pytest.importorskip("speechmos.dnsmos")
    judge = Dnsmos()
    for seconds in (2.0, 9.1):
        wav = speechlike(seconds, rate=RATE)
        theirs, ours = dnsmos.run(wav, RATE), judge.judge(wav)
        assert (ours.overall, ours.signal, ours.background) == pytest.approx(
            (theirs["ovrl_mos"], theirs["sig_mos"], theirs["bak_mos"]), abs=1e-3
        )


@installed("speechmos", "onnxruntime")
def test_silence_is_no_opinion():
    with pytest.raises(DataError, match="needs speech"):
        Dnsmos().judge(np.zeros(0, dtype=np.float32))


@installed("resemblyzer")
def test_a_voice_is_a_unit_vector_and_does_not_depend_on_loudness():
    encoder = VoiceEncoder()
    wav = speechlike(3.0, rate=RATE)
    voice = encoder.embed(wav)
    assert voice.shape == (256,) and np.linalg.norm(voice) == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(
        encoder.embed((0.003 * wav).astype(np.float32)), encoder.embed((0.001 * wav).astype(np.float32)), atol=1e-3
    )
    assert encoder.embed(wav[: RATE // 2]).shape == (256,)
    with pytest.raises(DataError, match="needs speech"):
        encoder.embed(wav[:0])


@pytest.mark.parametrize(("judge", "package"), [(Dnsmos, "speechmos"), (VoiceEncoder, "resemblyzer")])
def test_a_judge_that_is_not_installed_says_so(monkeypatch, judge, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=package):
        judge()
