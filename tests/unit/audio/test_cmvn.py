import struct

import numpy as np
import pytest
import torch

from speechnar.audio.cmvn import (
    GlobalCmvn,
    PeakRange,
    UtteranceCmvn,
    compute_cmvn,
    read_am_mvn,
    read_kaldi_cmvn,
)
from speechnar.audio.fbank import LogMel, LogMelConfig, slaney_mel_matrix
from speechnar.errors import DataError

FEATS = np.random.default_rng(0).normal(3.0, 2.0, (50, 4)).astype(np.float32)
MEAN, STD = FEATS.mean(0), FEATS.std(0)


def sums():
    return np.stack([np.append(FEATS.sum(0), len(FEATS)), np.append((FEATS.astype(float) ** 2).sum(0), 0.0)])


def check(stats):
    np.testing.assert_allclose(stats[0], MEAN, rtol=1e-4)
    np.testing.assert_allclose(stats[1], STD, rtol=1e-4)


def test_readers_agree_with_numpy(tmp_path):
    matrix = sums()
    path = tmp_path / "stats"
    for key in (b"", b"global "):
        for kind, dtype in ((b"FM ", "<f4"), (b"DM ", "<f8")):
            path.write_bytes(key + b"\0B" + kind + struct.pack("<bibi", 4, 2, 4, 5) + matrix.astype(dtype).tobytes())
            check(read_kaldi_cmvn(path))
    path.write_text("global  [\n  " + "\n  ".join(" ".join(map(repr, row)) for row in matrix.tolist()) + " ]\n")
    check(read_kaldi_cmvn(path))
    shift, scale = (" ".join(repr(float(v)) for v in values) for values in (-MEAN, 1 / STD))
    learn = "<LearnRateCoef> 0 "
    path.write_text(f"<Nnet>\n<AddShift> 4 4\n{learn}[ {shift} ]\n<Rescale> 4 4\n{learn}[ {scale} ]\n</Nnet>\n")
    check(read_am_mvn(path))


def test_damaged_statistics_are_refused(tmp_path):
    path = tmp_path / "bad.npz"
    for content in (
        b"",
        b"PK\3\4",
        b"[ 1 2\n 3 ]",
        b"\0BFM \4",
        b"x [ 0 0\n 0 0 ]",
        b"\0BFM " + struct.pack("<bibi", 4, 9, 4, 9),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"bad\.npz"):
            read_kaldi_cmvn(path)
        with pytest.raises(DataError, match=r"bad\.npz"):
            read_am_mvn(path)


def test_global_and_utterance_normalisation_ignore_padding():
    feats = torch.tensor(np.stack([FEATS, FEATS[::-1].copy()]))
    feats[1, 30:] = torch.nan
    lens = torch.tensor([50, 30])
    mean, std = compute_cmvn([(feats, lens)])
    real = np.concatenate([FEATS, FEATS[::-1][:30]])
    np.testing.assert_allclose(mean, real.mean(0), rtol=1e-5)
    np.testing.assert_allclose(std, real.std(0), rtol=1e-5)
    layer = GlobalCmvn(4)
    layer.mean.copy_(torch.tensor(mean))
    layer.std.copy_(torch.tensor(std))
    normalized = layer(feats, lens)
    assert (normalized[1, 30:] == 0).all()
    np.testing.assert_allclose(normalized[0], (FEATS - mean) / std, atol=1e-5)
    own = UtteranceCmvn()(feats, lens)
    assert (own[1, 30:] == 0).all()
    torch.testing.assert_close(own[1, :30].mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(own[1, :30].std(0, correction=0), torch.ones(4), atol=1e-5, rtol=0)
    with pytest.raises(DataError, match="at least one frame"):
        compute_cmvn([])


def test_deviations_of_other_toolkits_by_their_definitions():
    feats, lens = torch.tensor(FEATS[None, :30]) * 1e-3, torch.tensor([30])
    centred = feats - feats.mean(1)
    sample = UtteranceCmvn(correction=1, std_offset=1e-2)(feats, lens)
    torch.testing.assert_close(sample, centred / (feats.std(1) + 1e-2))
    offset = UtteranceCmvn(variance_offset=1e-7)(feats, lens)
    torch.testing.assert_close(offset, centred / (feats.var(1, correction=0) + 1e-7).sqrt())
    assert not UtteranceCmvn(correction=1)(feats[:, :1], torch.tensor([1])).any()  # one frame is no sample of any


def whisper_features(wav, num_mels=80):
    """Whisper's ``log_mel_spectrogram`` line by line (openai/whisper, ``audio.py``, MIT), with our mel matrix."""
    window = torch.hann_window(400)
    stft = torch.stft(wav, 400, 160, window=window, return_complex=True)
    magnitudes = stft[..., :-1].abs() ** 2
    filters = torch.from_numpy(slaney_mel_matrix(16000, 400, num_mels, 0.0, 8000.0)).T
    log_spec = torch.clamp(filters @ magnitudes, min=1e-10).log10()
    log_spec = torch.maximum(log_spec, log_spec.max() - 8.0)
    return ((log_spec + 4.0) / 4.0).T


def test_features_and_peak_range_are_whispers():
    generator = torch.Generator().manual_seed(0)
    frontend, normalizer = LogMel(LogMelConfig.for_whisper()), PeakRange()
    for num_samples, loudness in ((16000, 1.0), (12345, 1e-3), (480000, 0.1)):
        wav = loudness * torch.randn(num_samples, generator=generator) * torch.linspace(0, 1, num_samples) ** 8
        feats, lens = frontend(wav[None], torch.tensor([num_samples]))
        assert lens.tolist() == [num_samples // 160]
        torch.testing.assert_close(normalizer(feats, lens)[0], whisper_features(wav), atol=2e-4, rtol=1e-4)


def test_the_peak_is_that_of_the_utterance_alone():
    frontend, normalizer = LogMel(LogMelConfig.for_whisper()), PeakRange()
    wav = torch.randn(2, 8000) * torch.tensor([[1e-4], [1.0]])
    wav[0, 4000:] = torch.nan
    lens = torch.tensor([4000, 8000])
    feats, feat_lens = frontend(wav, lens)
    garbage = feats.clone()
    garbage[0, int(feat_lens[0]) :] = torch.nan
    both = normalizer(garbage, feat_lens)
    alone_feats, alone_lens = frontend(wav[:1, :4000], lens[:1])
    torch.testing.assert_close(both[0, :25], normalizer(alone_feats, alone_lens)[0])
    assert not both[0, 25:].any()
    assert float(both[1].max() - both[1].min()) <= 2.0  # 8 decades, in fours
