import zipfile

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from speechnar.audio.fbank import (
    KaldiFbank,
    KaldiFbankConfig,
    LogMel,
    LogMelConfig,
    Waveform,
    WaveformConfig,
    build_frontend,
    htk_mel_matrix,
    kaldi_mel_matrix,
    slaney_mel_matrix,
    stack_frames,
)
from speechnar.errors import ConfigError


def speechlike(num_samples, seed=0):
    torch.manual_seed(seed)
    t = torch.arange(num_samples) / 16000
    return 0.3 * torch.sin(2 * torch.pi * 180 * t) * torch.sin(2 * torch.pi * 3 * t) + 0.01 * torch.randn(num_samples)


@pytest.mark.parametrize("num_mels", [80, 128])
def test_mel_matrix_equals_librosa(num_mels):
    librosa = pytest.importorskip("librosa")
    layer = LogMel(LogMelConfig(num_mels=num_mels))
    expected = librosa.filters.mel(sr=16000, n_fft=512, n_mels=num_mels, htk=False, norm="slaney")
    np.testing.assert_allclose(layer.mel_matrix.numpy().T, expected, atol=1e-7)


@pytest.mark.parametrize(("sample_rate", "n_fft", "num_mels"), [(16000, 512, 80), (24000, 1024, 100)])
def test_mel_matrix_equals_torchaudio(sample_rate, n_fft, num_mels):
    functional = pytest.importorskip("torchaudio.functional")
    expected = functional.melscale_fbanks(
        n_fft // 2 + 1, 0.0, sample_rate / 2, num_mels, sample_rate, norm="slaney", mel_scale="slaney"
    )
    ours = slaney_mel_matrix(sample_rate, n_fft, num_mels, 0.0, sample_rate / 2)
    np.testing.assert_allclose(ours, expected.numpy(), atol=1e-6)
    expected = functional.melscale_fbanks(n_fft // 2 + 1, 0.0, sample_rate / 2, num_mels, sample_rate)
    ours = htk_mel_matrix(sample_rate, n_fft, num_mels, 0.0, sample_rate / 2)
    np.testing.assert_allclose(ours, expected.numpy(), atol=2e-5)


def test_frames_are_even_where_pairs_are_wanted():
    """A frame that is added is that of the same sound, or of one with a silent sample more where there is no other."""
    even, centred = LogMel(LogMelConfig.for_granite()), LogMel(LogMelConfig(mel_scale="htk"))
    for num_samples, num_frames in ((3200, 20), (3359, 20), (3360, 22), (3361, 22), (100, 0), (160, 2)):
        wav, lens = speechlike(num_samples)[None], torch.tensor([num_samples])
        feats, feat_lens = even(wav, lens)
        assert feats.size(1) == int(feat_lens) == num_frames
        if num_frames:
            missing = max(0, (num_frames - 1) * 160 + 1 - num_samples)
            longer = torch.nn.functional.pad(wav, (0, missing))
            expected, _ = centred(longer, lens + missing)
            torch.testing.assert_close(feats, expected[:, :num_frames])


@pytest.mark.parametrize("num_samples", [16000, 16001, 5555, 400, 257])
def test_log_mel_equals_its_definition(num_samples):
    wav = speechlike(num_samples)
    feats, lens = LogMel(LogMelConfig())(wav[None], torch.tensor([num_samples]))
    window = torch.hann_window(400)
    spectrum = torch.stft(wav, 512, 160, 400, window, center=True, pad_mode="reflect", return_complex=True)
    mel = LogMel(LogMelConfig()).mel_matrix.T @ spectrum.abs().square()
    expected = mel.clamp(min=1e-10).log().T
    assert int(lens) == num_samples // 160 + 1 == feats.size(1)
    torch.testing.assert_close(feats[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("num_samples", [16000, 16001, 5555, 160])
def test_features_of_nemo_equal_their_definition(num_samples):
    """Pre-emphasis, zeros at the edges, a symmetric window, 2**-24 in the logarithm, a frame for each whole hop."""
    wav = speechlike(num_samples)
    layer = LogMel(LogMelConfig.for_nemo())
    feats, lens = layer(F.pad(wav, (0, 500), value=torch.nan)[None], torch.tensor([num_samples]))
    emphasized = torch.cat([wav[:1], wav[1:] - 0.97 * wav[:-1]])
    window = torch.hann_window(400, periodic=False)
    spectrum = torch.stft(emphasized, 512, 160, 400, window, center=True, pad_mode="constant", return_complex=True)
    expected = (layer.mel_matrix.T @ spectrum.abs().square() + 2**-24).log().T
    assert int(lens) == num_samples // 160
    torch.testing.assert_close(feats[0, : int(lens)], expected[: int(lens)], atol=1e-4, rtol=1e-4)
    assert not feats[0, int(lens) :].any()


@pytest.mark.parametrize("num_samples", [16000, 16001, 12345, 257])
def test_log_mel_equals_espnet(num_samples, tmp_path, monkeypatch):
    # Parts of ESPnet fetch two nltk files when imported, unless they are found; they are not used here.
    for name in ("taggers/averaged_perceptron_tagger_eng.zip", "corpora/cmudict.zip"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        zipfile.ZipFile(tmp_path / name, "w").close()
    monkeypatch.setenv("NLTK_DATA", str(tmp_path))
    espnet = pytest.importorskip("espnet2.asr.frontend.default")
    wav, lens = speechlike(num_samples)[None], torch.tensor([num_samples])
    expected, expected_lens = espnet.DefaultFrontend(n_fft=512, win_length=400, hop_length=160, n_mels=80)(wav, lens)
    feats, feat_lens = LogMel(LogMelConfig())(wav, lens)
    assert torch.equal(feat_lens, expected_lens)
    torch.testing.assert_close(feats, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_samples", [1, 2, 3, 100, 256])
def test_short_utterances_are_reflected_repeatedly(num_samples):
    wav = speechlike(num_samples)
    feats, lens = LogMel(LogMelConfig())(wav[None], torch.tensor([num_samples]))
    padded = torch.from_numpy(np.pad(wav.numpy(), 256, mode="reflect"))
    spectrum = torch.stft(padded, 512, 160, 400, torch.hann_window(400), center=False, return_complex=True)
    expected = (LogMel(LogMelConfig()).mel_matrix.T @ spectrum.abs().square()).clamp(min=1e-10).log().T
    assert int(lens) == num_samples // 160 + 1
    torch.testing.assert_close(feats[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        LogMelConfig(),
        LogMelConfig.for_granite(),
        LogMelConfig.for_vocoder(24000),
        LogMelConfig.for_vocoder(16000),
        KaldiFbankConfig(),
        KaldiFbankConfig(lfr_window=7, lfr_shift=6),
        KaldiFbankConfig(snip_edges=False),
    ],
    ids=["mel", "granite", "vocoder_24k", "vocoder_16k", "kaldi", "lfr", "icefall"],
)
def test_an_utterance_has_the_same_features_in_any_batch(config):
    frontend = build_frontend(config)
    lens = torch.tensor([16000, 9999, 5120, 401, 100, 1])
    wav = torch.full((6, 16000), torch.nan)
    for i, num_samples in enumerate(lens.tolist()):
        wav[i, :num_samples] = speechlike(num_samples, seed=i)
    feats, feat_lens = frontend(wav, lens)
    assert feats.isfinite().all()
    assert feats.size(2) == frontend.num_features
    for i, num_samples in enumerate(lens.tolist()):
        alone, alone_lens = frontend(wav[i : i + 1, :num_samples], lens[i : i + 1])
        assert int(alone_lens) == int(feat_lens[i])
        torch.testing.assert_close(feats[i, : feat_lens[i]], alone[0, : feat_lens[i]], atol=1e-4, rtol=1e-4)
        assert (feats[i, feat_lens[i] :] == 0).all()


@pytest.mark.parametrize("num_samples", [16000, 16079, 16080, 799, 400, 170])
def test_frames_of_mirrored_edges_equal_kaldi_native_fbank(num_samples):
    """As icefall has them: samples in [-1, 1], and bands that end 400 Hz below half the sample rate."""
    knf = pytest.importorskip("kaldi_native_fbank")
    wav = speechlike(num_samples)
    config = KaldiFbankConfig(window="povey", snip_edges=False, high_freq=-400.0, scale=1.0)
    feats, lens = KaldiFbank(config)(wav[None], torch.tensor([num_samples]))
    options = knf.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = 80
    options.mel_opts.high_freq = -400.0
    native = knf.OnlineFbank(options)
    native.accept_waveform(16000, wav.tolist())
    native.input_finished()
    expected = np.stack([native.get_frame(i) for i in range(native.num_frames_ready)])
    assert int(lens) == len(expected) == (num_samples + 80) // 160
    np.testing.assert_allclose(feats[0].numpy(), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("num_samples", [16000, 16123, 799, 400])
@pytest.mark.parametrize("window", ["hamming", "povey"])
def test_kaldi_fbank_equals_torchaudio_and_kaldi_native_fbank(num_samples, window):
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    knf = pytest.importorskip("kaldi_native_fbank")
    wav = speechlike(num_samples)
    feats, lens = KaldiFbank(KaldiFbankConfig(window=window))(wav[None], torch.tensor([num_samples]))
    expected = kaldi.fbank(wav[None] * 32768, num_mel_bins=80, window_type=window, dither=0.0, sample_frequency=16000)
    assert int(lens) == len(expected)
    torch.testing.assert_close(feats[0, : len(expected)], expected, atol=1e-3, rtol=1e-4)
    options = knf.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.window_type = window
    options.mel_opts.num_bins = 80
    native = knf.OnlineFbank(options)
    native.accept_waveform(16000, (wav * 32768).tolist())
    native.input_finished()
    frames = np.stack([native.get_frame(i) for i in range(native.num_frames_ready)])
    np.testing.assert_allclose(feats[0, : len(frames)].numpy(), frames, atol=1e-3, rtol=1e-4)


def test_features_of_double_precision_are_those_of_numpy():
    """A tone leaves next to nothing in the bands far from it: there the logarithm shows how float32 rounds."""
    wav = (0.5 * np.sin(2 * np.pi * 300 * np.arange(8000) / 16000)).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(wav.astype(np.float64) * 32768, 400)[::160]
    frames = frames - frames.mean(1, keepdims=True)
    emphasized = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    power = np.abs(np.fft.rfft(emphasized * window, 512)) ** 2
    expected = np.log(np.maximum(power @ kaldi_mel_matrix(16000, 512, 80, 20.0, 8000.0), np.finfo(np.float32).eps))
    errors = []
    for double_precision in (False, True):
        frontend = KaldiFbank(KaldiFbankConfig(window="povey", double_precision=double_precision))
        feats, _ = frontend(torch.from_numpy(wav)[None], torch.tensor([len(wav)]))
        assert (feats.dtype, feats.shape) == (torch.float32, (1, *expected.shape))
        errors.append(np.abs(feats[0].numpy() - expected).max())
    assert errors[0] > 1e-4
    assert errors[1] < 3e-6


@pytest.mark.parametrize("num_frames", [1, 2, 6, 7, 12, 13, 50])
def test_stacking_equals_funasr_rule_written_as_a_loop(num_frames):
    feats = torch.randn(num_frames, 3)
    window, shift = 7, 6
    padded = torch.cat([feats[:1].expand((window - 1) // 2, 3), feats])
    rows = []
    for start in range(0, -(-num_frames // shift) * shift, shift):
        rows.append(torch.cat([padded[min(start + k, len(padded) - 1)] for k in range(window)]))
    stacked, lens = stack_frames(feats[None], torch.tensor([num_frames]), window, shift)
    assert int(lens) == len(rows)
    torch.testing.assert_close(stacked[0], torch.stack(rows))


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError):
        LogMelConfig(f_min=9000.0)
    with pytest.raises(ValueError):
        LogMelConfig(win_length=600)
    with pytest.raises((ConfigError, ValueError)):
        KaldiFbankConfig(high_freq=9000.0)


# What vocoders are given


@pytest.mark.parametrize(("sample_rate", "num_mels", "frames_per_s"), [(24000, 100, 93.75), (16000, 80, 100.0)])
def test_vocoder_features_equal_librosa_on_reflected_edges(sample_rate, num_mels, frames_per_s):
    librosa = pytest.importorskip("librosa")
    config = LogMelConfig.for_vocoder(sample_rate)
    wav = speechlike(12345)
    feats, lens = LogMel(config)(wav[None], torch.tensor([12345]))
    assert int(lens) == feats.size(1) == 12345 // config.hop_length
    assert feats.size(2) == num_mels
    assert sample_rate / config.hop_length == frames_per_s
    padded = np.pad(wav.numpy(), (config.n_fft - config.hop_length) // 2, mode="reflect")
    mel = librosa.feature.melspectrogram(
        y=padded,
        sr=sample_rate,
        n_fft=config.n_fft,
        hop_length=config.hop_length,
        win_length=config.win_length,
        center=False,
        power=1.0,
        n_mels=num_mels,
    )
    expected = np.log(np.maximum(mel, 1e-5)).T
    np.testing.assert_allclose(feats[0].numpy(), expected, atol=1e-3)


def test_vocoder_features_equal_torchaudio_up_to_the_root_of_the_floor():
    torchaudio = pytest.importorskip("torchaudio")
    config = LogMelConfig.for_vocoder(24000)
    wav = speechlike(9999)
    feats, _ = LogMel(config)(wav[None], torch.tensor([9999]))
    mel = torchaudio.transforms.MelSpectrogram(
        24000, 1024, 1024, 256, n_mels=100, power=1.0, center=False, norm="slaney", mel_scale="slaney"
    )
    padded = torch.nn.functional.pad(wav[None, None], (384, 384), mode="reflect")[0, 0]
    torch.testing.assert_close(feats[0], mel(padded).clamp(min=1e-5).log().T, atol=1e-3, rtol=0)


def test_a_frame_of_a_vocoder_stands_for_the_hop_it_covers():
    config = LogMelConfig.for_vocoder(16000)
    wav = torch.zeros(1, 1600)
    wav[0, 4 * 160 + 80] = 1.0  # the middle of the fifth hop
    feats, _ = LogMel(config)(wav, torch.tensor([1600]))
    loudness = feats[0].exp().sum(-1)
    assert int(loudness.argmax()) == 4
    torch.testing.assert_close(loudness[2], loudness[6])  # the window is symmetric around it


def test_vocoder_features_have_a_gradient_in_silence():
    wav = torch.zeros(1, 3200, requires_grad=True)
    frontend = LogMel(LogMelConfig.for_vocoder(16000).model_copy(update={"log_floor": 1e-12}))
    feats, _ = frontend(wav, torch.tensor([3200]))
    feats.sum().backward()
    assert wav.grad.isfinite().all()


def test_impossible_vocoder_settings_are_refused():
    with pytest.raises(ConfigError, match=r"sample_rate must be one of \[16000, 24000\], got 8000"):
        LogMelConfig.for_vocoder(8000)
    with pytest.raises(ValueError, match="hop_length must be even and at most n_fft 512 with padding same, got 161"):
        LogMelConfig(padding="same", hop_length=161)


def test_waveforms_are_frames_of_one_feature():
    frontend = build_frontend(WaveformConfig(sample_rate=8000))
    assert isinstance(frontend, Waveform)
    assert (frontend.num_features, frontend.frame_shift_s) == (1, 1 / 8000)
    wav = torch.tensor([[0.5, -0.25, 1.0], [0.125, torch.nan, torch.nan]], dtype=torch.float64)
    feats, lens = frontend(wav, torch.tensor([3, 1]))
    assert feats.dtype == torch.float32
    assert feats[..., 0].tolist() == [[0.5, -0.25, 1.0], [0.125, 0.0, 0.0]]
    assert lens.tolist() == [3, 1]
