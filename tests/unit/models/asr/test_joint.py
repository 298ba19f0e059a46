"""The joint recogniser: what its decoders see, learn from and share."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from speechnar.data.batch import Example, SpeechCollator
from speechnar.errors import ConfigError
from speechnar.models.asr.joint import Joint, JointConfig, _fold
from speechnar.models.asr.owsm_ctc import OwsmCtc, OwsmCtcConfig
from speechnar.models.base import load_model, load_state, save_model
from speechnar.text.tokenizer import SentencePieceTokenizer, task_specials
from speechnar.train.run import init_model
from tests.unit.tiny import LANGUAGES, TEXTS, speechlike

HEADS = ("cassnat", "paraformer", "refiner", "transformer_ar")


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer.train(TEXTS, 60, task_specials(LANGUAGES, ("deu",)))


def build(tokenizer, **changes) -> Joint:
    torch.manual_seed(0)
    model = Joint(JointConfig.debug().model_copy(update=changes), tokenizer).eval()
    with torch.no_grad():
        model.trunk.ctc.proj.weight.mul_(4.0)  # peaky posteriors: tokens come out, and no ties for batches to break
    return model


@pytest.fixture(scope="module")
def model(tokenizer):
    return build(tokenizer)


def make_batch(tokenizer, translate=(False, False), texts=("the cat sat", "a dog ran home")):
    examples = [
        Example(
            utt_id=str(i),
            wav=speechlike(1.5 + i, seed=i),
            asr_text=text,
            lang="eng",
            translate_to="deu" if translate[i] else None,
            translation="the dog" if translate[i] else None,
        )
        for i, text in enumerate(texts)
    ]
    return SpeechCollator(tokenizer)(examples)


def gradients(module: nn.Module) -> float:
    return sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)


def test_debug_is_small_and_has_every_decoder(model):
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    assert model.decoder_names == ("ctc", *HEADS)


def test_special_pieces_count_as_blank():
    log_probs = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()  # blank, special, text, special
    folded = _fold(log_probs, torch.tensor([False, True, False, True]), 0)
    torch.testing.assert_close(folded.exp(), torch.tensor([[0.7, 0.0, 0.3, 0.0]]))


def test_decoders_see_frames_without_the_prefix(model, tokenizer):
    batch = make_batch(tokenizer)
    out = model.encode(batch.wav, batch.wav_lens)
    speech = model.encoded_speech(out)
    assert torch.equal(speech.lens, out.lens - 2)
    for row, length in enumerate(speech.lens.tolist()):
        assert torch.equal(speech.enc[row, :length], out.enc[row, 2 : 2 + length])
        assert not speech.enc[row, length:].any()
    specials = [i for i in range(tokenizer.vocab_size) if tokenizer.is_special(i) and i != tokenizer.unk_id]
    specials.remove(tokenizer.blank_id)
    assert specials
    assert (speech.log_probs[..., specials] == -torch.inf).all()
    torch.testing.assert_close(speech.log_probs.exp().sum(-1), torch.ones(speech.log_probs.shape[:2]))


@pytest.mark.parametrize("kept", HEADS)
def test_another_decoder_changes_no_decoders_output(model, tokenizer, kept):
    alone = build(tokenizer, **{name: None for name in HEADS if name != kept})
    state = {name: value for name, value in model.state_dict().items() if name in alone.state_dict()}
    load_state(alone, state, source="the joint model")
    batch = make_batch(tokenizer)
    found, expected = alone.recognize_with(batch), model.recognize_with(batch)
    assert found == {name: expected[name] for name in ("ctc", kept)}
    assert any(expected[kept]), "the random model must say something"


@pytest.mark.parametrize("decoder", HEADS)
def test_decoding_is_the_same_alone_and_in_a_batch(model, tokenizer, decoder):
    batch = make_batch(tokenizer)
    together = model.decode(model.encode(batch.wav, batch.wav_lens), decoder)
    for row, length in enumerate(batch.wav_lens.tolist()):
        (alone,) = model.decode(model.encode(batch.wav[row : row + 1, :length], batch.wav_lens[row : row + 1]), decoder)
        assert together[row].tokens == alone.tokens
        assert together[row].starts == alone.starts
        assert together[row].total == pytest.approx(alone.total, abs=1e-3)


def test_all_losses_reach_the_encoder_and_their_decoder(tokenizer):
    for name in HEADS:
        model = build(tokenizer, trunk_weight=0.0, **{f"{other}_weight": float(other == name) for other in HEADS})
        output = model.loss(make_batch(tokenizer, texts=("a", "a")))  # as short as what a refiner is given to mend
        output.total.backward()
        assert float(output.total.detach()) == pytest.approx(float(output.parts[name]), rel=1e-5)
        assert gradients(model.trunk.encoder) > 0
        assert gradients(model.decoders[name]) > 0
        assert all(gradients(model.decoders[other]) == 0 for other in HEADS if other != name)


def test_decoders_learn_from_transcripts_only(tokenizer):
    model = build(tokenizer)
    mixed = model.loss(make_batch(tokenizer, translate=(True, False)))
    batch = make_batch(tokenizer)
    speech = model.encoded_speech(
        model.encode(batch.wav, batch.wav_lens, prefix=batch.prefix, prompt=batch.prompt, prompt_lens=batch.prompt_lens)
    )
    second = replace(speech, enc=speech.enc[1:], lens=speech.lens[1:], log_probs=speech.log_probs[1:])
    expected = model.head("transformer_ar").loss(second, batch.asr_tokens[1:, 2:], batch.asr_token_lens[1:] - 2)
    assert float(mixed.parts["transformer_ar"]) == pytest.approx(float(expected.total.detach()) / 2, rel=1e-4)

    nothing = model.train().loss(make_batch(tokenizer, translate=(True, True)))
    assert all(float(nothing.parts[name]) == 0 for name in HEADS)
    nothing.total.backward()
    assert gradients(model.decoders) == 0
    assert all(p.grad is not None for p in model.decoders.parameters()), "or parallel training would wait for them"


def test_masked_copies_are_for_the_trunk(tokenizer):
    trunk = OwsmCtcConfig.debug().model_copy(update={"consistency_weight": 0.2, "spec_augment": None})
    model = build(tokenizer, trunk=trunk)
    for module in model.modules():
        if hasattr(module, "p"):
            module.p = 0.0
    once = model.loss(make_batch(tokenizer))
    model.train()
    twice = model.loss(make_batch(tokenizer))
    assert "consistency" in twice.parts
    assert float(twice.parts["transformer_ar"]) == pytest.approx(float(once.parts["transformer_ar"]), rel=0.2)


def test_starts_from_a_plain_recogniser(tokenizer, tmp_path):
    torch.manual_seed(1)
    plain = OwsmCtc(OwsmCtcConfig.debug(), tokenizer)
    save_model(tmp_path / "plain", plain, tokenizer)
    model = build(tokenizer)
    report = init_model(model, tmp_path / "plain")
    assert not report.unknown
    assert not report.mismatched
    assert {name.partition(".")[0] for name in report.missing} == {"decoders"}
    assert torch.equal(model.trunk.ctc.proj.weight, plain.ctc.proj.weight)


def test_comes_back_from_its_folder(model, tokenizer, tmp_path):
    save_model(tmp_path / "joint", model, tokenizer)
    loaded = load_model(tmp_path / "joint")
    batch = make_batch(tokenizer)
    assert loaded.model.recognize_with(batch) == model.recognize_with(batch)
    assert model.recognize_with(batch)["ctc"] == model.recognize(batch)


def test_mistakes_are_told(model, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="joint needs"):
        JointConfig()
    batch = make_batch(tokenizer)
    with pytest.raises(ConfigError, match="ctc, cassnat, paraformer, refiner, transformer_ar; got 'rnnt'"):
        model.decode(model.encode(batch.wav, batch.wav_lens), "rnnt")
