"""CASS-NAT and UniEnc as whole models: from waveforms to tokens."""

from dataclasses import replace

import pytest
import torch

from speechnar import DecodeOptions, Transcriber
from speechnar.data.batch import SpeechBatch
from speechnar.errors import ConfigError
from speechnar.models import MODELS
from speechnar.models.asr.cassnat import CassNat, CassNatConfig
from speechnar.models.asr.unienc import UniEnc, UniEncConfig
from speechnar.models.base import AsrModel, Trainable, load_model, save_model
from speechnar.text.tokenizer import CharTokenizer
from tests.contracts import check_gradients_reach_all
from tests.unit.tiny import speechlike

PIECES = ("<blank>", "<sos>", "<eos>", "<unk>", "▁", *"abcdefgh")
KINDS = {"cassnat": (CassNat, CassNatConfig), "unienc": (UniEnc, UniEncConfig)}
SIZES = (17000, 9000, 700)
TOKENS = torch.tensor([[5, 6, 6, 4, 7], [8, 9, 0, 0, 0], [0, 0, 0, 0, 0]])
TOKEN_LENS = torch.tensor([5, 2, 0])


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def build(kind, **changes):
    torch.manual_seed(0)
    model_cls, config_cls = KINDS[kind]
    model = model_cls.from_config(config_cls.debug().model_copy(update=changes), CharTokenizer(PIECES)).eval()
    with torch.no_grad():
        model.trunk.ctc.proj.weight.mul_(6.0)  # many tokens, and unsure frames
        model.trunk.ctc.proj.bias[[1, 2]] = -99.0  # a trained CTC names no sentence start or end
        (model.head if kind == "cassnat" else model).out.bias[2] = -2.0  # chance must not end every sentence at once
        model.trunk.normalizer.mean.fill_(8.0)
        model.trunk.normalizer.std.fill_(4.0)
    return model


def make_batch(rows=(0, 1, 2), *, valid=(True, True, True)):
    rows = list(rows)
    sizes = [SIZES[row] for row in rows]
    wav = torch.full((len(rows), max(sizes)), torch.nan)
    for i, row in enumerate(rows):
        wav[i, : SIZES[row]] = torch.from_numpy(speechlike(2.0, seed=row)[: SIZES[row]])
    width = int(TOKEN_LENS[rows].max())
    return SpeechBatch(
        wav=wav,
        wav_lens=torch.tensor(sizes),
        tokens=TOKENS[rows, :width],
        token_lens=TOKEN_LENS[rows],
        asr_tokens=TOKENS[rows, :width],
        asr_token_lens=TOKEN_LENS[rows],
        tokens_valid=torch.tensor(valid)[rows],
        asr_valid=torch.tensor(valid)[rows],
        utt_ids=tuple("abc"[row] for row in rows),
    )


def test_published_sizes():
    tokenizer = CharTokenizer([*PIECES[:4], *(chr(0x4E00 + i) for i in range(1020))])
    with torch.device("meta"):
        models = [CassNat(CassNatConfig.published(), tokenizer), UniEnc(UniEncConfig.published(), tokenizer)]
    sizes = []
    for model in models:  # the authors count their tables of distances as parameters
        tables = sum(table.numel() for name, table in model.named_buffers() if name.endswith("distances"))
        sizes.append(tables + sum(parameter.numel() for parameter in model.parameters()))
    assert sizes == [95_143_936, 63_567_872]


def test_the_table_of_models_has_it(kind):
    assert MODELS[kind].config_cls is KINDS[kind][1]
    model = build(kind)
    assert isinstance(model, Trainable) and isinstance(model, AsrModel)
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000
    assert model.frame_shift_s == pytest.approx(0.04)


@torch.no_grad()
def test_decoding_in_a_batch_equals_decoding_alone(kind):
    model, batch = build(kind), make_batch()
    for options in ({}, {"num_alignments": 8, "threshold": 0.95}):
        paths = model.decode(model.encode(batch.wav, batch.wav_lens), **options)
        assert len(paths[0].tokens) > 1
        for row, path in enumerate(paths):
            alone = make_batch([row])
            (single,) = model.decode(model.encode(alone.wav, alone.wav_lens), **options)
            assert (single.tokens, single.starts, single.ends) == (path.tokens, path.starts, path.ends)
            assert single.total == pytest.approx(path.total, abs=1e-3)
    assert model.recognize(batch) == [p.tokens for p in model.decode(model.encode(batch.wav, batch.wav_lens))]


@torch.no_grad()
def test_the_loss_of_a_batch_is_made_of_the_losses_alone(kind):
    model = build(kind)
    whole = model.loss(make_batch())
    singles = [model.loss(make_batch([row])) for row in range(3)]
    slots = TOKEN_LENS + 1.0
    for name, value in whole.parts.items():
        parts = torch.stack([single.parts[name] for single in singles])
        mean = (parts * slots).sum() / slots.sum() if name in ("ce", "inter_ce") else parts.mean()
        torch.testing.assert_close(value, mean, atol=1e-4, rtol=1e-4)
    config, parts = model.config, whole.parts
    inter_weight = config.head.inter_ce_weight if kind == "cassnat" else config.inter_ce_weight
    expected = parts["ce"] + inter_weight * parts["inter_ce"] + 0.5 * parts["ctc"] + 0.5 * parts["inter_ctc"]
    if kind == "unienc":
        expected += 0.5 * parts["second_ctc"] + 0.5 * parts["second_inter_ctc"]
    torch.testing.assert_close(whole.total, expected)
    assert float(whole.weight) == 3


@torch.no_grad()
def test_what_has_no_target_does_not_count(kind):
    model = build(kind)
    partly, first = model.loss(make_batch([0, 1], valid=(True, False, True))), model.loss(make_batch([0]))
    torch.testing.assert_close(partly.total, first.total, atol=1e-4, rtol=1e-4)
    none = model.loss(make_batch([0, 1], valid=(False, False, True)))
    assert float(none.total) == 0


def test_gradients_reach_every_parameter(kind):
    model = build(kind).train()
    check_gradients_reach_all(model, model.loss(make_batch([0, 1])).total)


def test_a_model_folder_comes_back_equal(kind, tmp_path):
    model, batch = build(kind), make_batch()
    save_model(tmp_path / "model", model, CharTokenizer(PIECES))
    loaded = load_model(tmp_path / "model").model
    assert loaded.recognize(batch) == model.recognize(batch)


def test_users_transcribe_with_it(kind, tmp_path):
    model, wav = build(kind), speechlike(3.0)
    save_model(tmp_path / "model", model, CharTokenizer(PIECES), card="---\nlanguage: [eng]\ntasks: [asr]\n---\n# it\n")
    transcriber = Transcriber.load(tmp_path / "model", precision="fp32")
    for options in (DecodeOptions(), DecodeOptions(num_alignments=4)):
        found = transcriber.transcribe(wav, sample_rate=16000, options=options)
        with torch.no_grad():
            out = model.encode(torch.from_numpy(wav)[None], torch.tensor([len(wav)]))
            (path,) = model.decode(out, num_alignments=options.num_alignments or 1)
        assert found.text == CharTokenizer(PIECES).decode(path.tokens)


@pytest.mark.slow
def test_two_utterances_are_memorised(kind):
    model = build(kind, spec_augment=None).train()
    with torch.no_grad():
        model.trunk.ctc.proj.weight.div_(6.0)
    expected = [[5, 6, 4, 7], [8, 9]]
    tokens = torch.tensor([[5, 6, 4, 7], [8, 9, 0, 0]])
    batch = replace(make_batch([0, 1]), tokens=tokens, token_lens=torch.tensor([4, 2]))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(200):
        loss = model.loss(batch).total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        if step % 10 == 9 and model.eval().recognize(batch) == expected:
            return
        model.train()
    assert model.eval().recognize(batch) == expected


def test_messages(kind):
    model, batch = build(kind), make_batch([0])
    with pytest.raises(ConfigError, match="decodes with cassnat, ctc; got 'beam'"):
        model.decode(model.encode(batch.wav, batch.wav_lens), "beam")
    with pytest.raises(ValueError, match="interctc_layer must stay below num_layers=3"):
        KINDS[kind][1].debug().model_validate({**KINDS[kind][1].debug().model_dump(), "interctc_layer": 3})
    if kind == "unienc":
        with pytest.raises(ConfigError, match="num_passes must be at least 2"):
            model.decode(model.encode(batch.wav, batch.wav_lens), num_passes=1)
        with pytest.raises(ValueError, match="relative or clipped"):
            values = UniEncConfig.debug().model_dump()
            UniEncConfig.model_validate({**values, "encoder": {**values["encoder"], "positions": "rotary"}})
