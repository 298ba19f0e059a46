"""What decoders show of how they cut speech, against what they decode."""

import numpy as np
import pytest

from speechnar import AudioError, DecodeOptions, Transcriber
from tests.unit.tiny import RATE, save_tiny_joint, save_tiny_model, save_tiny_paraformer, speechlike


@pytest.fixture(scope="module")
def joint(tmp_path_factory) -> Transcriber:
    return Transcriber.load(save_tiny_joint(tmp_path_factory.mktemp("models") / "joint"), device="cpu")


def spelled(cut) -> str:
    return "".join(cut.tokens).replace("▁", " ").strip()


def test_each_decoder_shows_the_tokens_that_it_writes(joint):
    wav = speechlike(3.0)
    cuts = {cut.decoder: cut for cut in joint.cuts(wav, sample_rate=RATE)}
    assert list(cuts) == ["ctc", "cassnat", "paraformer"], "others cut nothing"
    for name, cut in cuts.items():
        text = joint.transcribe(wav, sample_rate=RATE, options=DecodeOptions(decoder=name)).text
        assert spelled(cut).split() == text.split() and len(cut.spans) == len(cut.tokens) > 0
        assert all(0 <= start <= end <= 3.1 for start, end in cut.spans)
        assert np.all((cut.weights >= 0) & (cut.weights <= 1 + 1e-6))
        assert abs(len(cut.weights) * cut.frame_shift_s - 3.0) < 4 * cut.frame_shift_s


def test_ctc_emits_where_blank_is_improbable(joint):
    (cut, *_) = joint.cuts(speechlike(3.0), sample_rate=RATE)
    for start, end in cut.spans:
        if start == end:  # of a token that an untrained model emits on the positions of its prefix
            continue
        frames = slice(round(start / cut.frame_shift_s), round(end / cut.frame_shift_s))
        assert cut.weights[frames].min() > 1 / 60, "the best label of 60 is not blank"


def test_the_trigger_mask_covers_all_frames_in_order(joint):
    cut = joint.cuts(speechlike(3.0), sample_rate=RATE)[1]
    assert cut.windows[0][0] == 0 and cut.windows[-1][1] == pytest.approx(len(cut.weights) * cut.frame_shift_s)
    starts, ends = zip(*cut.windows, strict=True)
    assert list(starts) == sorted(starts) and list(ends) == sorted(ends)
    assert all(start <= end for start, end in zip(starts[1:], ends, strict=False)), "no frame is left out"


def test_a_paraformer_fires_where_its_weights_reach_one_more(tmp_path):
    model = Transcriber.load(save_tiny_paraformer(tmp_path / "paraformer"), device="cpu")
    (cut,) = model.cuts(speechlike(2.0), sample_rate=RATE)
    assert cut.decoder == "paraformer" and cut.windows == ()
    assert len(cut.tokens) == np.ceil(cut.weights.sum() - 1e-4)
    assert "".join(cut.tokens).replace("@@", "") == model.transcribe(speechlike(2.0), sample_rate=RATE).text.replace(
        " ", ""
    )


def test_a_model_with_ctc_alone_and_a_prefix_has_one(tmp_path):
    model = Transcriber.load(save_tiny_model(tmp_path / "ctc"), device="cpu")
    (cut,) = model.cuts(speechlike(1.0), sample_rate=RATE, language="deu")
    assert spelled(cut).split() == model.transcribe(speechlike(1.0), sample_rate=RATE, language="deu").text.split()
    with pytest.raises(AudioError, match="up to 30 s"):
        model.cuts(speechlike(31.0), sample_rate=RATE)
