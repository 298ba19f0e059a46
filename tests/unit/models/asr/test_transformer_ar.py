import math

import pytest
import torch

from speechnar.decode.align import viterbi_align
from speechnar.errors import ConfigError, ShapeError
from speechnar.models.asr.transformer_ar import TransformerArHead, TransformerArHeadConfig
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.lengths import valid_mask
from tests.contracts import check_gradients_reach_all

VOCAB, DIM, BLANK, SOS, EOS = 9, 32, 0, 7, 8


def make_head(**changes):
    torch.manual_seed(0)
    config = TransformerArHeadConfig.debug().model_copy(update=changes)
    head = TransformerArHead(config, DIM, vocab_size=VOCAB, sos_id=SOS, eos_id=EOS, blank_id=BLANK).eval()
    with torch.no_grad():
        head.decoder.output.bias[EOS] = -0.5  # some hypotheses end early, some at the limit
    return head


def make_speech(lens, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lens = torch.tensor(lens)
    enc = torch.randn(len(lens), int(lens.max()), DIM, generator=generator)
    log_probs = torch.randn(len(lens), int(lens.max()), VOCAB, generator=generator).log_softmax(-1)
    return EncodedSpeech(enc=enc * valid_mask(lens, enc.size(1))[..., None], lens=lens, log_probs=log_probs)


def cut(speech, i):
    num_frames = int(speech.lens[i])
    return EncodedSpeech(
        enc=speech.enc[i : i + 1, :num_frames],
        lens=speech.lens[i : i + 1],
        log_probs=speech.log_probs[i : i + 1, :num_frames],
    )


def fill_padding(speech, value):
    padding = ~speech.valid[..., None]
    return EncodedSpeech(
        enc=speech.enc.masked_fill(padding, value),
        lens=speech.lens,
        log_probs=speech.log_probs.masked_fill(padding, value),
    )


TOKENS = torch.tensor([[1, 2, 3, 4], [5, 5, -1, -1], [-1, -1, -1, -1]])
TOKEN_LENS = torch.tensor([4, 2, 0])


def log_prob_by_hand(head, speech, tokens):
    """Feed the history anew for every token of one utterance."""
    memory = head.decoder.project(speech.enc, speech.valid)
    total = 0.0
    for i, target in enumerate([*tokens, EOS]):
        logits = head.decoder(torch.tensor([[SOS, *tokens[:i]]]), memory)
        total += float(logits[0, -1].log_softmax(-1)[target])
    return total


@torch.no_grad()
def test_the_loss_is_the_log_probability_of_the_text_and_its_end():
    speech = make_speech([9, 5, 4])
    texts = [row[:n].tolist() for row, n in zip(TOKENS, TOKEN_LENS, strict=True)]
    head = make_head(label_smoothing=0.0)
    expected = [log_prob_by_hand(head, cut(speech, i), text) for i, text in enumerate(texts)]
    out = head.loss(speech, TOKENS, TOKEN_LENS)
    assert float(out.total) == pytest.approx(-sum(expected) / 3, rel=1e-5)
    assert float(out.weight) == 3


def test_smoothing_spreads_a_share_of_the_target_over_the_vocabulary():
    head = make_head(label_smoothing=0.25)
    torch.nn.init.zeros_(head.decoder.output.weight)
    with torch.no_grad():
        head.decoder.output.bias.copy_(torch.arange(VOCAB) / VOCAB)
    log_probs = head.decoder.output.bias.log_softmax(0)
    expected = -sum(0.75 * log_probs[t] + 0.25 * log_probs.mean() for t in [1, 2, EOS])
    loss = head.loss(make_speech([4]), torch.tensor([[1, 2]]), torch.tensor([2])).total
    torch.testing.assert_close(loss, expected)


@torch.no_grad()
def test_utterances_are_independent_of_their_batch_and_of_its_padding():
    head = make_head()
    speech = make_speech([12, 5, 1], seed=2)
    spoiled = fill_padding(speech, torch.nan)
    alone = [cut(speech, i) for i in range(3)]
    losses = [head.loss(alone[i], TOKENS[i : i + 1, :n], TOKEN_LENS[i : i + 1]).total for i, n in enumerate((4, 2, 0))]
    torch.testing.assert_close(head.loss(spoiled, TOKENS, TOKEN_LENS).total, torch.stack(losses).mean())
    paths = head.decode(spoiled)
    assert [len(path.tokens) for path in paths] == [12, 4, 1]
    for path, (single,) in zip(paths, map(head.decode, alone), strict=True):
        assert (path.tokens, path.starts, path.ends) == (single.tokens, single.starts, single.ends)
        assert path.scores == pytest.approx(single.scores, abs=1e-5) and path.total == pytest.approx(
            single.total, abs=1e-5
        )


@torch.no_grad()
def test_decoding_with_a_cache_takes_the_best_token_again_and_again():
    head = make_head()
    speech = make_speech([7], seed=2)
    memory = head.decoder.project(speech.enc, speech.valid)
    tokens, total = [], 0.0
    while len(tokens) < 7:
        log_probs = head.decoder(torch.tensor([[SOS, *tokens]]), memory)[0, -1].log_softmax(-1)
        log_probs[[BLANK, SOS]] = -torch.inf
        total += float(log_probs.max())
        if log_probs.argmax() == EOS:
            break
        tokens.append(int(log_probs.argmax()))
    (path,) = head.decode(speech)
    assert path.tokens == tokens and path.total == pytest.approx(total, abs=1e-5)
    assert len(path.scores) == len(tokens) > 0


@torch.no_grad()
def test_times_are_those_of_the_ctc_alignment():
    head, speech = make_head(), make_speech([9, 8], seed=1)
    paths = head.decode(speech)
    assert any(len(path.tokens) > 1 and path.ends[0] for path in paths)
    for i, path in enumerate(paths):
        one = cut(speech, i)
        aligned = viterbi_align(
            one.log_probs, one.lens, torch.tensor([path.tokens]), torch.tensor([len(path.tokens)]), BLANK
        )
        assert (path.starts, path.ends) == (aligned.starts[0].tolist(), aligned.ends[0].tolist())
    for without in (
        head.decode(EncodedSpeech(enc=speech.enc, lens=speech.lens)),
        head.decode(speech, times=False),
    ):
        assert [path.tokens for path in without] == [path.tokens for path in paths]
        assert not any(path.starts[i] or path.ends[i] for path in without for i in range(len(path.tokens)))


@torch.no_grad()
def test_candidates_are_scored_in_one_pass():
    head, speech = make_head(), make_speech([9, 5, 7])
    utterances = torch.tensor([2, 0, 2, 2])
    tokens = torch.tensor([[1, 2, 3], [4, 4, 99], [6, -5, -5], [99, 99, 99]])
    token_lens = torch.tensor([3, 2, 1, 0])
    scores = head.score(speech, utterances, tokens, token_lens)
    rows = zip(utterances.tolist(), tokens.tolist(), token_lens.tolist(), strict=True)
    expected = [log_prob_by_hand(head, cut(speech, b), row[:n]) for b, row, n in rows]
    assert scores.tolist() == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ShapeError, match="utterance_index"):
        head.score(speech, utterances[:3], tokens, token_lens)


@pytest.mark.parametrize("feed_forward", ["relu", "swiglu"])
def test_two_utterances_are_memorised_in_bf16(feed_forward):
    head = make_head(dropout=0.0, feed_forward=feed_forward).train()
    speech = make_speech([9, 6])
    tokens, token_lens = torch.tensor([[1, 2, 3, 3, 2], [5, 5, 4, 0, 0]]), torch.tensor([5, 3])
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            out = head.loss(speech, tokens, token_lens)
        assert out.total.dtype == torch.float32
        out.total.backward()
        optimizer.step()
    paths = head.eval().decode(speech)
    assert [path.tokens for path in paths] == [[1, 2, 3, 3, 2], [5, 5, 4]]
    assert all(math.exp(path.total) > 0.3 for path in paths)


def test_gradients_reach_all_parameters_and_the_encoder():
    head, speech = make_head(dropout=0.0).train(), make_speech([9, 6, 4])
    enc = speech.enc.clone().requires_grad_()
    loss = head.loss(EncodedSpeech(enc=enc, lens=speech.lens), TOKENS, TOKEN_LENS).total
    check_gradients_reach_all(head, loss)
    assert (enc.grad.abs().sum(-1) > 0).equal(speech.valid)


def test_ids_must_lie_in_the_vocabulary():
    for ids in ((VOCAB, EOS, BLANK), (SOS, EOS, EOS)):
        with pytest.raises(ConfigError, match="sos_id, eos_id and blank_id"):
            TransformerArHead(
                TransformerArHeadConfig(), DIM, vocab_size=VOCAB, sos_id=ids[0], eos_id=ids[1], blank_id=ids[2]
            )


@torch.no_grad()
def test_a_beam_finds_no_worse_a_hypothesis_and_scores_it_truly():
    head, speech = make_head(), make_speech([12, 9, 8], seed=2)
    utterances = torch.arange(3)
    greedy = head.decode(speech)
    beam = head.decode(speech, beam_size=6, ctc_weight=0.0)
    assert [path.tokens for path in beam] != [path.tokens for path in greedy]
    for path, best, limit in zip(greedy, beam, speech.lens, strict=True):
        assert best.total >= path.total - 1e-5
        assert len(best.tokens) < limit  # so that their end is scored, as `score` does
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(path.tokens) for path in beam], batch_first=True)
    token_lens = torch.tensor([len(path.tokens) for path in beam])
    scores = head.score(speech, utterances, tokens.long(), token_lens)
    assert [path.total for path in beam] == pytest.approx(scores.tolist(), abs=1e-4)


@torch.no_grad()
def test_a_beam_joined_with_ctc_is_independent_of_its_batch():
    head, speech = make_head(), make_speech([12, 5, 8], seed=2)
    together = head.decode(fill_padding(speech, torch.nan), beam_size=4)
    assert any(path.tokens for path in together)
    for i, path in enumerate(together):
        (alone,) = head.decode(cut(speech, i), beam_size=4)
        assert (path.tokens, path.starts, path.ends) == (alone.tokens, alone.starts, alone.ends)
        assert path.total == pytest.approx(alone.total, abs=1e-5)


@pytest.mark.parametrize("beam_size", [1, 3])
@torch.no_grad()
def test_lengths_keep_within_their_ratios(beam_size):
    head, speech = make_head(), make_speech([20, 10])
    paths = head.decode(speech, beam_size=beam_size, min_len_ratio=0.3, max_len_ratio=0.3)
    assert [len(path.tokens) for path in paths] == [6, 3]
    with pytest.raises(ConfigError, match="min_len_ratio"):
        head.decode(speech, beam_size=beam_size, min_len_ratio=0.5, max_len_ratio=0.3)


def test_a_beam_needs_posteriors_for_its_share_of_ctc():
    head, speech = make_head(), make_speech([6])
    without = EncodedSpeech(enc=speech.enc, lens=speech.lens)
    with pytest.raises(ConfigError, match="ctc_weight=0"):
        head.decode(without, beam_size=2)
    assert head.decode(without, beam_size=2, ctc_weight=0.0)[0].tokens == (
        head.decode(speech, beam_size=2, ctc_weight=0.0)[0].tokens
    )
