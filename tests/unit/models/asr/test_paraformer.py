from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from speechnar.audio.augment import SpecAugmentConfig
from speechnar.config import parse_config
from speechnar.data.batch import SpeechBatch
from speechnar.decode.ctc import greedy
from speechnar.errors import ConfigError
from speechnar.models.asr.bicif import TimestampConfig
from speechnar.models.asr.ctc_embedder import CtcEmbedderConfig
from speechnar.models.asr.paraformer import Paraformer, ParaformerConfig
from speechnar.models.asr.paraformer_head import (
    CifConfig,
    MwerConfig,
    ParaformerHead,
    ParaformerHeadConfig,
    draw_glances,
)
from speechnar.models.base import load_model, save_model
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.encoder import ConformerConfig
from speechnar.nn.lengths import valid_mask
from speechnar.nn.mwer import expected_errors, sample_hypotheses
from speechnar.nn.sanm import WindowConfig
from speechnar.text.tokenizer import CharTokenizer
from tests.contracts import check_gradients_reach_all

SMALL = ParaformerHeadConfig(num_layers=2, num_heads=2, ff_dim=32, dropout=0.0, attention_dropout=0.0)


def make_head(config: ParaformerHeadConfig = SMALL, *, vocab_size: int = 12) -> ParaformerHead:
    torch.manual_seed(0)
    return ParaformerHead(config, 16, vocab_size=vocab_size, sos_id=1, eos_id=2, blank_id=0)


def make_speech(lens: list[int], *, seed: int = 0) -> EncodedSpeech:
    generator = torch.Generator().manual_seed(seed)
    all_lens = torch.tensor(lens)
    enc = torch.randn(len(lens), max(lens), 16, generator=generator)
    return EncodedSpeech(enc=enc * valid_mask(all_lens, max(lens))[..., None], lens=all_lens)


def one_of(speech: EncodedSpeech, index: int) -> EncodedSpeech:
    num = int(speech.lens[index])
    return EncodedSpeech(enc=speech.enc[index : index + 1, :num], lens=speech.lens[index : index + 1])


def test_glances_are_exact_in_number_and_never_on_padding() -> None:
    is_token = valid_mask(torch.tensor([9, 4, 0, 6]), 9)
    counts = torch.tensor([5, 4, 0, 1])
    hits = torch.zeros(4, 9)
    for seed in range(300):
        torch.manual_seed(seed)
        shown = draw_glances(is_token, counts)
        assert shown.sum(1).tolist() == counts.tolist()
        assert not (shown & ~is_token).any()
        hits += shown
    assert (hits[0] / 300 - 5 / 9).abs().max() < 0.15  # five standard deviations


@pytest.mark.parametrize("count_end", [True, False])
@torch.no_grad()
def test_loss_equals_its_definition(count_end: bool) -> None:
    config = SMALL.model_copy(update={"count_end": count_end, "quantity_weight": 0.5})
    head = make_head(config).eval()
    speech = make_speech([20, 13])
    out = head.loss(speech, torch.tensor([[3, 4, 5, 6], [7, 8, -5, 99]]), torch.tensor([4, 2]))
    ce, quantity = 0.0, 0.0
    for i, row in enumerate([[3, 4, 5, 6], [7, 8]]):
        target = torch.tensor([*row, 2] if count_end else row)
        alone = one_of(speech, i)
        cut = head.embedder(alone, target[None], torch.tensor([len(target)]))
        valid = torch.ones(1, len(target), dtype=torch.bool)
        hidden = head.decoder(cut.embeds, valid, head.decoder.project(alone.enc), alone.valid[:, None, None])
        log_probs = head.output(hidden)[0].log_softmax(1)
        smoothed = 0.1 / 12 + 0.9 * F.one_hot(target, 12)
        ce += float(-(smoothed * log_probs).sum()) / 2
        quantity += abs(float(cut.alphas.sum()) - len(target)) / 2
    assert float(out.parts["ce"]) == pytest.approx(ce, rel=1e-4)
    assert float(out.parts["quantity"]) == pytest.approx(quantity, rel=1e-4)
    assert float(out.total) == pytest.approx(ce + 0.5 * quantity, rel=1e-4)
    assert float(out.weight) == 2


def test_second_pass_sees_the_reference_where_the_first_was_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    head = make_head(SMALL.model_copy(update={"glancing_ratio": 1.0})).train()
    inputs = []
    decode = head.decoder.forward

    def spy(x: torch.Tensor, *args: torch.Tensor) -> torch.Tensor:
        inputs.append(x)
        return decode(x, *args)

    monkeypatch.setattr(head.decoder, "forward", spy)
    tokens = torch.tensor([[3, 4, 5, 6]])
    out = head.loss(make_speech([20]), tokens, torch.tensor([4]))
    first, second = inputs
    replaced = (first != second).any(2)[0]
    assert int(replaced.sum()) == int(out.parts["wrong"]) > 0
    targets = torch.tensor([3, 4, 5, 6, 2])
    torch.testing.assert_close(second[0][replaced], head.token_embed(targets)[replaced])


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_reach_every_parameter(autocast: bool) -> None:
    head = make_head().train()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = head.loss(make_speech([20, 13]), torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]]), torch.tensor([4, 2]))
    assert out.total.dtype == torch.float32
    check_gradients_reach_all(head, out.total)


def test_glancing_leaves_the_gradients_of_the_second_pass_alone() -> None:
    """Autocast must not reuse the weights that the first pass cast without gradients."""
    speech, tokens, lens = make_speech([20, 13]), torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]]), torch.tensor([4, 2])
    grads = []
    for ratio in (0.0, 1e-6):  # so small a ratio runs the first pass and shows nothing
        head = make_head(SMALL.model_copy(update={"glancing_ratio": ratio})).train()
        with torch.autocast("cpu", torch.bfloat16):
            out = head.loss(speech, tokens, lens)
        out.total.backward()
        grads.append({name: p.grad for name, p in head.named_parameters() if p.grad is not None})
    assert grads[0].keys() <= grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad)


def test_errors_are_expected_over_samples_of_the_heads_own_output() -> None:
    head = make_head(SMALL.model_copy(update={"mwer": MwerConfig(num_samples=6, mask_prob=0.5)})).eval()
    speech, tokens, lens = make_speech([20, 13]), torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]]), torch.tensor([4, 2])
    torch.manual_seed(5)
    out = head.loss(speech, tokens, lens)
    targets, target_lens = torch.tensor([[3, 4, 5, 6, 2], [7, 8, 2, 2, 2]]), torch.tensor([5, 3])
    cut = head.embedder(speech, targets, target_lens)
    log_probs = head.output(head.decoder(cut.embeds, valid_mask(target_lens, 5), *head.look(speech, cut))).log_softmax(
        2
    )
    torch.manual_seed(5)
    hyps = sample_hypotheses(log_probs, 6, 0.5)
    torch.testing.assert_close(out.parts["mwer"], expected_errors(log_probs, hyps, targets, target_lens).mean())
    torch.testing.assert_close(out.total, 0.01 * out.parts["ce"] + out.parts["quantity"] + out.parts["mwer"])
    check_gradients_reach_all(head, out.total, except_for=("token_embed.weight",))


def test_times_of_tokens() -> None:
    head = make_head(SMALL.model_copy(update={"timestamps": TimestampConfig()})).train()
    speech, tokens, lens = make_speech([20, 13]), torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]]), torch.tensor([4, 2])
    out = head.loss(speech, tokens, lens)
    torch.testing.assert_close(out.total, out.parts["ce"] + out.parts["quantity"] + 0.5 * out.parts["times"])
    check_gradients_reach_all(head, out.total)
    assert head.timestamps is not None
    second = head.timestamps.alphas(speech.enc, speech.lens).sum(1)
    torch.testing.assert_close(out.parts["times"], (second - torch.tensor([5, 3])).abs().mean())
    head.eval()
    paths = head.decode(speech)
    for path, times, num in zip(paths, head.times(speech, paths), speech.lens.tolist(), strict=True):
        assert len(times.starts) == len(times.ends) == len(path.tokens)
        assert all(0 <= s < e <= num for s, e in zip(times.starts, times.ends, strict=True))
    with pytest.raises(ConfigError, match="timestamps"):
        make_head().times(speech, paths)


@pytest.mark.parametrize("threshold", ["dynamic", "rounded", "fixed"])
def test_decoding_in_a_batch_equals_decoding_alone(threshold: str) -> None:
    head = make_head(SMALL.model_copy(update={"embedder": CifConfig(threshold=threshold)})).eval()  # type: ignore[arg-type]
    speech = make_speech([31, 12, 1, 20])
    for i, path in enumerate(head.decode(speech)):
        (alone,) = head.decode(one_of(speech, i))
        assert (path.tokens, path.starts, path.ends) == (alone.tokens, alone.starts, alone.ends)
        assert path.scores == pytest.approx(alone.scores, abs=1e-4)
        assert path.total == pytest.approx(alone.total, abs=1e-3)
        assert all(0 <= s < e <= int(speech.lens[i]) for s, e in zip(path.starts, path.ends, strict=True))
        assert not set(path.tokens) & {0, 1, 2}


def test_an_utterance_in_which_nothing_fires_has_an_empty_hypothesis() -> None:
    head = make_head(SMALL.model_copy(update={"embedder": CifConfig(threshold="fixed")})).eval()
    with torch.no_grad():
        head.embedder.proj.bias.fill_(-20.0)
    for path in head.decode(make_speech([9, 5])):
        assert (path.tokens, path.starts, path.ends, path.scores, path.total) == ([], [], [], [], 0.0)


@pytest.mark.parametrize("count_end", [True, False])
def test_an_utterance_without_text_can_be_trained_on(count_end: bool) -> None:
    head = make_head(SMALL.model_copy(update={"count_end": count_end})).train()
    out = head.loss(make_speech([9, 5]), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    assert out.total.isfinite()
    assert (float(out.parts["ce"]) > 0) == count_end
    out.total.backward()
    assert head.embedder.proj.weight.grad is not None
    assert head.embedder.proj.weight.grad.isfinite().all()


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


@pytest.mark.parametrize(("decoder", "count_end"), [("sanm", True), ("transformer", False)])
def test_head_memorises_two_utterances(decoder: str, count_end: bool) -> None:
    rounded = CifConfig(threshold="rounded")  # a sum a little above the number would be rounded up by the paper's rule
    head = make_head(SMALL.model_copy(update={"count_end": count_end, "decoder": decoder, "embedder": rounded})).train()
    speech, tokens, lens = make_speech([30, 22]), torch.tensor([[3, 4, 4, 5, 6], [7, 8, 9, 0, 0]]), torch.tensor([5, 3])
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(100):
        loss = head.loss(speech, tokens, lens).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    head.eval()
    assert [path.tokens for path in head.decode(speech)] == [[3, 4, 4, 5, 6], [7, 8, 9]]


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
