"""OWSM-CTC: its losses by their definitions, self-conditioning, and the consistency of two masked copies."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from speechnar.data.batch import Example, SpeechBatch, SpeechCollator
from speechnar.errors import ConfigError
from speechnar.models.asr.owsm_ctc import OwsmCtc, OwsmCtcConfig
from speechnar.nn.positions import sinusoids
from speechnar.text.tokenizer import SentencePieceTokenizer, task_specials
from tests.contracts import check_gradients_reach_all
from tests.unit.tiny import LANGUAGES, TEXTS, speechlike


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer.train(TEXTS, 60, task_specials(LANGUAGES, ("deu",)))


def build(tokenizer, **changes) -> OwsmCtc:
    torch.manual_seed(0)
    return OwsmCtc(OwsmCtcConfig.debug().model_copy(update=changes), tokenizer).eval()


def make_batch(tokenizer, **changes) -> SpeechBatch:
    """Return an utterance to be transcribed and a longer one to be translated, with a text before it."""
    examples = [
        Example("a", speechlike(1.2, seed=1), "the cat sat", lang="eng"),
        Example(
            "b",
            speechlike(2.0, seed=2),
            "a dog ran home",
            lang="fra",
            translate_to="deu",
            translation="the dog",
            prev_text="he said good day",
        ),
    ]
    return replace(SpeechCollator(tokenizer)(examples), **changes)


def nats(log_probs, lens, tokens, token_lens) -> list[float]:
    """Return the CTC loss of each utterance alone, without its padding."""
    return [
        float(F.ctc_loss(row[:t].detach(), target[:u], t[None], u[None], reduction="sum"))
        for row, t, target, u in zip(log_probs, lens, tokens, token_lens, strict=True)
    ]


# Losses.


def test_the_last_head_learns_the_task_and_the_others_what_they_are_for(tokenizer):
    """Peng et al. 2024, equation 4: a share of the mean of the intermediate losses, and the rest of the last one."""
    model, batch = build(tokenizer, interctc_weight=0.3), make_batch(tokenizer)
    assert batch.tokens.tolist() != batch.asr_tokens.tolist()
    loss, out = model.loss_and_output(batch)
    asr = (batch.asr_tokens, batch.asr_token_lens)
    task = (batch.tokens, batch.token_lens)
    wanted = {
        "ctc": sum(nats(out.log_probs, out.lens, *task)) / 2,
        "interctc1": sum(nats(out.inter_log_probs[0], out.lens, *asr)) / 2,
        "interctc2": sum(nats(out.inter_log_probs[1], out.lens, *task)) / 2,
        "unfit": 0.0,
    }
    assert {name: float(part) for name, part in loss.parts.items()} == pytest.approx(wanted, rel=1e-5)
    total = 0.7 * wanted["ctc"] + 0.3 * (wanted["interctc1"] + wanted["interctc2"]) / 2
    assert float(loss.total.detach()) == pytest.approx(total, rel=1e-5)
    assert float(loss.weight) == 2


def test_a_text_that_is_missing_does_not_count(tokenizer):
    model, batch = build(tokenizer), make_batch(tokenizer, tokens_valid=torch.tensor([True, False]))
    loss, out = model.loss_and_output(batch)
    first, _ = nats(out.log_probs, out.lens, batch.tokens, batch.token_lens)
    assert float(loss.parts["ctc"]) == pytest.approx(first, rel=1e-5)
    both = nats(out.inter_log_probs[0], out.lens, batch.asr_tokens, batch.asr_token_lens)
    assert float(loss.parts["interctc1"]) == pytest.approx(sum(both) / 2, rel=1e-5)
    nothing = model.loss(replace(batch, tokens_valid=torch.tensor([False, False])))
    assert float(nothing.parts["ctc"]) == 0.0


def test_texts_that_no_path_fits_are_counted(tokenizer):
    model, batch = build(tokenizer), make_batch(tokenizer)
    _, out = model.loss_and_output(batch)
    many = int(out.lens[0]) + 1
    tokens = torch.arange(2, 2 + many).expand(2, -1) % 40 + 10
    loss, _ = model.loss_and_output(replace(batch, tokens=tokens, token_lens=torch.tensor([many, 3])))
    _, second = nats(out.log_probs, out.lens, tokens, torch.tensor([many, 3]))
    assert float(loss.parts["unfit"]) == 0.5
    assert float(loss.parts["ctc"]) == pytest.approx(second / 2, rel=1e-5)


# Consistency (Yao et al. 2025, equation 5).


def divergence(log_probs: torch.Tensor, lens: torch.Tensor) -> float:
    """Return half of both Kullback-Leibler divergences, summed over real positions, mean over utterances."""
    count = len(lens) // 2
    first, second = log_probs.detach().double().chunk(2)
    sums = []
    for left, right, num_frames in zip(first, second, lens.tolist(), strict=False):
        p, q = left[:num_frames], right[:num_frames]
        sums.append(0.5 * (p.exp() * (p - q)).sum() + 0.5 * (q.exp() * (q - p)).sum())
    return float(sum(sums)) / count


def test_consistency_is_the_mean_divergence_of_an_utterance(tokenizer):
    batch = make_batch(tokenizer)
    model = build(tokenizer, consistency_weight=0.25).train()
    torch.manual_seed(3)
    loss, out = model.loss_and_output(batch)
    assert len(out.log_probs) == 4
    assert int(out.lens[0]) < int(out.lens[1])  # padding, whose posteriors differ too, must not count
    wanted = divergence(out.log_probs, out.lens)
    assert wanted > 0.01
    assert float(loss.parts["consistency"]) == pytest.approx(wanted, rel=1e-4)
    parts = loss.parts
    supervised = 0.5 * parts["ctc"] + 0.5 * (parts["interctc1"] + parts["interctc2"]) / 2
    torch.testing.assert_close(loss.total.detach(), supervised + 0.25 * parts["consistency"])
    # Both copies learn the same targets: their losses are means over all four.
    twice = (batch.tokens.repeat(2, 1), batch.token_lens.repeat(2))
    assert float(parts["ctc"]) == pytest.approx(sum(nats(out.log_probs, out.lens, *twice)) / 4, rel=1e-4)
    assert float(loss.weight) == 2


def test_each_copy_is_pulled_to_the_other_as_it_is(tokenizer):
    """The gradient of one side's divergence with the other's posteriors q as constants is -q for each log-posterior."""
    batch, gradients = make_batch(tokenizer), []
    for weight in (1.0, 2.0):
        model = build(tokenizer, consistency_weight=weight).train()
        torch.manual_seed(3)
        loss, out = model.loss_and_output(batch)
        gradients.append(torch.autograd.grad(loss.total, out.log_probs)[0])
    probs = torch.cat(out.log_probs.detach().exp().chunk(2)[::-1])
    is_real = torch.arange(probs.size(1)) < out.lens[:, None]
    torch.testing.assert_close(gradients[1] - gradients[0], -probs * is_real[..., None] / 4, atol=1e-5, rtol=1e-3)


def test_one_copy_is_enough_to_evaluate(tokenizer):
    batch = make_batch(tokenizer)
    loss, out = build(tokenizer, consistency_weight=0.2).loss_and_output(batch)
    assert len(out.log_probs) == 2
    assert "consistency" not in loss.parts
    assert torch.equal(loss.total, build(tokenizer).loss(batch).total)
    assert len(build(tokenizer).train().loss_and_output(batch)[1].log_probs) == 2


# What is encoded.


@torch.no_grad()
def test_posteriors_of_a_head_are_fed_back(tokenizer):
    """Nozaki and Komatsu 2021, equations 10 and 11."""
    model = build(tokenizer)
    x, inter = torch.randn(2, 5, 48), []
    assert model.condition(3, x, inter) is x
    assert inter == []
    y = model.condition(2, x, inter)
    probs = (x @ model.ctc.proj.weight.T + model.ctc.proj.bias).softmax(2)
    torch.testing.assert_close(inter[0].log_probs.exp(), probs)
    torch.testing.assert_close(y, x + probs @ model.conditioning.weight.T + model.conditioning.bias)


@torch.no_grad()
def test_the_prompt_encoder_scales_embeddings_and_adds_positions(tokenizer):
    encoder = build(tokenizer).prompt_encoder
    prompt, lens = torch.tensor([[7, 8, 9], [5, 6, 0]]), torch.tensor([3, 2])
    embedded = encoder.embed.weight[prompt] * 32**0.5 + sinusoids(torch.arange(3), 32)
    wanted = encoder.encoder(embedded, lens) @ encoder.memory_proj.weight.T + encoder.memory_proj.bias
    torch.testing.assert_close(encoder(prompt, lens), wanted)
    wanted = encoder.embed.weight[prompt[:, :2]] @ encoder.prefix_proj.weight.T + encoder.prefix_proj.bias
    torch.testing.assert_close(encoder.embed_prefix(prompt[:, :2]), wanted)


@torch.no_grad()
def test_nothing_given_means_an_unknown_language_to_recognise_and_no_text_before(tokenizer):
    model, batch = build(tokenizer), make_batch(tokenizer)
    given = {
        "prefix": torch.tensor([[tokenizer.id_of("<nolang>"), tokenizer.id_of("<asr>")]]).expand(2, 2),
        "prompt": torch.tensor([[tokenizer.id_of("<na>")]] * 2),
        "prompt_lens": torch.tensor([1, 1]),
    }
    bare = model.encode(batch.wav, batch.wav_lens)
    told = model.encode(batch.wav, batch.wav_lens, **given)
    torch.testing.assert_close(bare.log_probs, told.log_probs)
    frames = model.encoder.subsampling.out_lens(model.features(batch.wav, batch.wav_lens)[1])
    assert torch.equal(bare.lens, frames + model.num_prefix)
    for name, value in (("prefix", given["prefix"].flip(1)), ("prompt", given["prompt"] + 9)):
        other = model.encode(batch.wav, batch.wav_lens, **{**given, name: value})
        assert not torch.allclose(other.log_probs, told.log_probs, atol=1e-4)


@torch.no_grad()
def test_an_utterance_is_the_same_alone_and_in_a_batch(tokenizer):
    model, batch = build(tokenizer), make_batch(tokenizer)
    conditions = {"prefix": batch.prefix, "prompt": batch.prompt, "prompt_lens": batch.prompt_lens}
    together = model.encode(batch.wav, batch.wav_lens, **conditions)
    for row, (size, words) in enumerate(zip(batch.wav_lens.tolist(), batch.prompt_lens.tolist(), strict=True)):
        one = slice(row, row + 1)
        alone = model.encode(
            batch.wav[one, :size],
            batch.wav_lens[one],
            prefix=batch.prefix[one],
            prompt=batch.prompt[one, :words],
            prompt_lens=batch.prompt_lens[one],
        )
        num_frames = int(alone.lens)
        assert int(together.lens[row]) == num_frames
        torch.testing.assert_close(together.log_probs[row, :num_frames], alone.log_probs[0], atol=2e-5, rtol=1e-4)


def test_a_model_without_a_prompt_takes_none(tokenizer):
    model, batch = build(tokenizer, prompt=None), make_batch(tokenizer)
    assert model.num_prefix == 0
    with pytest.raises(ConfigError, match="takes neither language and task nor a prompt; leave them out"):
        model.encode(batch.wav, batch.wav_lens, prefix=batch.prefix)
    loss, out = model.loss_and_output(batch)  # which a batch may hold all the same
    assert torch.equal(out.lens, model.encoder.subsampling.out_lens(model.features(batch.wav, batch.wav_lens)[1]))
    assert model.recognize(batch) == model.best_tokens(model.encode(batch.wav, batch.wav_lens))
    assert loss.total.isfinite()


def test_gradients_reach_every_parameter(tokenizer):
    model = build(tokenizer, consistency_weight=0.2).train()
    torch.manual_seed(0)
    check_gradients_reach_all(model, model.loss(make_batch(tokenizer)).total)


def test_wrong_layers_are_refused():
    with pytest.raises(ValueError, match="interctc_asr_only needs 1 values, one for each of interctc_layers"):
        OwsmCtcConfig(interctc_layers=(3,))
    for layers in ((6, 3), (3, 3), (3, 9)):
        with pytest.raises(ValueError, match="interctc_layers must rise and stay below num_layers=9"):
            OwsmCtcConfig(interctc_layers=layers)
    halving = OwsmCtcConfig.debug().encoder.model_copy(update={"num_adapters": 1})
    for changes in ({"interctc_layers": (), "interctc_asr_only": ()}, {"prompt": None, "interctc_layers": (1, 2)}):
        with pytest.raises(ValueError, match="behind num_adapters positions are others than behind blocks"):
            OwsmCtcConfig(encoder=halving, **changes)
