from pathlib import Path

import pytest
import torch
from torch import nn

from speechnar.audio.augment import SpecAugmentConfig
from speechnar.config import parse_config
from speechnar.data.batch import SpeechBatch
from speechnar.decode.ctc import greedy
from speechnar.errors import ConfigError
from speechnar.models.asr.ctc_embedder import CtcEmbedderConfig
from speechnar.models.asr.paraformer import Paraformer, ParaformerConfig
from speechnar.models.asr.paraformer_head import (
    ParaformerHeadConfig,
)
from speechnar.models.base import load_model, save_model
from speechnar.nn.encoder import ConformerConfig
from speechnar.nn.lengths import valid_mask
from speechnar.nn.sanm import WindowConfig
from speechnar.text.tokenizer import CharTokenizer
from tests.contracts import check_gradients_reach_all


def test_tokens_cut_by_ctc() -> None:
    head = ParaformerHeadConfig.debug().model_copy(update={"embedder": CtcEmbedderConfig(), "dropout": 0.0})
    model = make_model(head=head, ctc_weight=0.5).train()
    batch = make_batch([40000, 23000, 9000])
    out = model.loss(batch)
    torch.testing.assert_close(out.total, 0.5 * out.parts["ce"] + 0.5 * out.parts["ctc"])
    check_gradients_reach_all(model, out.total)
    model.eval()
    assert model.ctc is not None
    speech = model.encode(batch.wav, batch.wav_lens)
    assert speech.log_probs is not None
    for path, ctc_path in zip(model.head.decode(speech), greedy(speech.log_probs, speech.lens, 0), strict=True):
        assert (path.starts, path.ends) == (ctc_path.starts, ctc_path.ends)
    with pytest.raises(ConfigError, match="ctc_weight"):
        parse_config({"head": {"embedder": {"kind": "ctc"}}}, ParaformerConfig)


class _Pieces:
    """What a model asks of a tokenizer."""

    blank_id = 0

    def __init__(self, vocab_size: int = 12) -> None:
        self.vocab_size = vocab_size

    def id_of(self, piece: str) -> int:
        return {"<sos>": 1, "<eos>": 2}[piece]


def make_batch(lens: list[int], *, learn: list[bool] | None = None, with_task: bool = False) -> SpeechBatch:
    generator = torch.Generator().manual_seed(0)
    wav = 0.3 * torch.randn(len(lens), max(lens), generator=generator)
    wav_lens = torch.tensor(lens)
    wav = wav.masked_fill(~valid_mask(wav_lens, max(lens)), torch.nan)
    tokens = torch.tensor([[3, 4, 4, 5], [6, 7, 0, 0], [8, 9, 10, 0]])[: len(lens)]
    token_lens = torch.tensor([4, 2, 3])[: len(lens)]
    if with_task:
        tokens, token_lens = torch.cat([torch.full((len(lens), 2), 11), tokens], 1), token_lens + 2
    valid = torch.tensor(learn or [True] * len(lens))
    return SpeechBatch(
        wav=wav,
        wav_lens=wav_lens,
        tokens=tokens,
        token_lens=token_lens,
        asr_tokens=tokens,
        asr_token_lens=token_lens,
        tokens_valid=valid,
        asr_valid=valid,
        utt_ids=tuple("abc"[: len(lens)]),
        prefix=tokens[:, :2] if with_task else None,
    )


CONFORMER = ConformerConfig(model_dim=16, num_layers=1, num_heads=2, ff_dim=32, kernel_size=3, subsampling_channels=4)


def make_model(**changes: object) -> Paraformer:
    torch.manual_seed(0)
    model = Paraformer.from_config(ParaformerConfig.debug().model_copy(update=changes), _Pieces())  # type: ignore[arg-type]
    with torch.no_grad():
        model.head.output.bias[:3] = -9.0  # chance must not make it silent
    return model


def test_published_sizes() -> None:
    with torch.device("meta"):
        large = Paraformer(ParaformerConfig.large(), _Pieces(8404))  # type: ignore[arg-type]
        aishell = Paraformer(ParaformerConfig.aishell(), _Pieces(4234))  # type: ignore[arg-type]
        v2 = Paraformer(ParaformerConfig.large_v2(), _Pieces(8404))  # type: ignore[arg-type]
        debug = Paraformer(ParaformerConfig.debug(), _Pieces(1000))  # type: ignore[arg-type]
    head = large.head
    parts = (large.encoder, head.embedder, nn.ModuleList([head.decoder, head.token_embed, head.output]), large)
    counts = [sum(p.numel() for p in part.parameters()) for part in parts]
    # Counted on FunASR 1.4.16's SANMEncoder, CifPredictorV2 and ParaformerSANMDecoder.
    assert counts == [157_975_648, 787_457, 61_321_428, 220_084_533]
    assert v2.head.config.embedder.kind == "ctc"
    assert 43e6 < sum(p.numel() for p in aishell.parameters()) < 46.5e6
    assert sum(p.numel() for p in debug.parameters()) < 1e6


@pytest.mark.parametrize("encoder", ["sanm", "windows", "conformer"])
def test_recognising_in_a_batch_equals_recognising_alone(encoder: str) -> None:
    model = make_model().eval()
    if encoder == "conformer":
        model = make_model(encoder=CONFORMER).eval()
    elif encoder == "windows":
        windows = ParaformerConfig.debug().encoder.model_copy(update={"windows": WindowConfig()})
        model = make_model(encoder=windows).eval()
    batch = make_batch([40000, 23000, 100])  # the last one is shorter than a frame
    paths = model.head.decode(model.encode(batch.wav, batch.wav_lens))
    assert len(paths[0].tokens) > 3
    for i, num in enumerate(batch.wav_lens.tolist()):
        (alone,) = model.head.decode(model.encode(batch.wav[i : i + 1, :num], batch.wav_lens[i : i + 1]))
        assert (paths[i].tokens, paths[i].starts, paths[i].ends) == (alone.tokens, alone.starts, alone.ends)
        assert paths[i].scores == pytest.approx(alone.scores, abs=1e-3)
    assert model.recognize(batch) == [path.tokens for path in paths]


@pytest.mark.parametrize("encoder", ["sanm", "windows"])
def test_model_gradients_and_parts(encoder: str) -> None:
    model = make_model().train()
    if encoder == "windows":
        windows = ParaformerConfig.debug().encoder.model_copy(update={"windows": WindowConfig()})
        model = make_model(encoder=windows).train()
    with torch.autocast("cpu", torch.bfloat16):
        out = model.loss(make_batch([40000, 23000, 9000]))
    parts = out.parts
    assert parts.keys() == {"ce", "quantity", "wrong", "ctc"}
    expected = 0.7 * parts["ce"] + parts["quantity"] + 0.3 * parts["ctc"]
    torch.testing.assert_close(out.total, expected)
    check_gradients_reach_all(model, out.total)


def test_what_has_no_transcript_does_not_count() -> None:
    model = make_model().eval()
    some = model.loss(make_batch([40000, 23000, 9000], learn=[True, False, True]))
    first, third = (
        model.loss(make_batch([40000])),
        model.loss(make_batch([40000, 23000, 9000], learn=[False, False, True])),
    )
    for name in ("ce", "quantity", "ctc"):
        torch.testing.assert_close(some.parts[name], (first.parts[name] + third.parts[name]) / 2, rtol=1e-3, atol=1e-3)
    nothing = model.loss(make_batch([40000, 23000], learn=[False, False]))
    assert nothing.total.tolist() == 0.0


def test_language_and_task_are_not_part_of_the_text() -> None:
    model = make_model().eval()
    plain, tasked = model.loss(make_batch([40000, 23000])), model.loss(make_batch([40000, 23000], with_task=True))
    torch.testing.assert_close(plain.total, tasked.total)


def test_bands_are_masked_alike_in_stacked_frames() -> None:
    model = make_model(spec_augment=SpecAugmentConfig(freq_masks=1, freq_width=40, time_masks=0)).train()
    torch.manual_seed(3)
    masked = model.augment(torch.ones(2, 5, 560), torch.tensor([5, 5])).view(2, 5, 7, 80)
    assert 0 < int((masked == 0).sum()) < masked.numel()
    assert (masked == masked[:, :1, :1]).all()


def test_model_survives_saving(tmp_path: Path) -> None:
    tokenizer = CharTokenizer(("<blank>", "<sos>", "<eos>", "<unk>", *"abcdefg▁"))
    torch.manual_seed(0)
    model = Paraformer(ParaformerConfig.debug(), tokenizer).eval()
    save_model(tmp_path, model, tokenizer)
    loaded = load_model(tmp_path).model
    assert isinstance(loaded, Paraformer)
    batch = make_batch([40000, 23000])
    assert loaded.recognize(batch) == model.recognize(batch)


def test_heads_must_divide_the_encoders_width() -> None:
    with pytest.raises(ConfigError, match="num_heads"):
        parse_config({"encoder": {"kind": "sanm", "model_dim": 18, "num_heads": 2}}, ParaformerConfig)
