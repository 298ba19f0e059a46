"""The refiner: how many tokens it can say, where they stand, and that it learns to mend what was heard."""

import pytest
import torch

from speechnar.decode.align import CtcPath
from speechnar.errors import ConfigError
from speechnar.models.asr.refiner import RefinerHead, RefinerHeadConfig
from speechnar.nn.ctc import NEVER
from speechnar.nn.embedder import EncodedSpeech

VOCAB, DIM, STATES = 12, 8, 16


def build(**changes) -> RefinerHead:
    torch.manual_seed(0)
    config = RefinerHeadConfig.debug().model_copy(update={"decoder": "whisper", "dropout": 0.0, **changes})
    width = STATES if config.decoder == "whisper" else DIM
    return RefinerHead(config, width, vocab_size=VOCAB, sos_id=1, eos_id=2, blank_id=0, enc_dim=DIM)


both_decoders = pytest.mark.parametrize("decoder", ["whisper", "transformer"])


def hear(*paths: list[int], width: int | None = None) -> EncodedSpeech:
    """Speech of which CTC is sure that each frame says the given label."""
    lens = torch.tensor([len(path) for path in paths])
    width = width or int(lens.max())
    labels = torch.zeros(len(paths), width, dtype=torch.long)
    for row, path in enumerate(paths):
        labels[row, : len(path)] = torch.tensor(path)
    torch.manual_seed(1)
    valid = torch.arange(width) < lens[:, None]
    return EncodedSpeech(
        enc=torch.randn(len(paths), width, DIM) * valid[..., None],
        lens=lens,
        log_probs=torch.nn.functional.one_hot(labels, VOCAB).float().mul(20).log_softmax(2),
        states=torch.randn(len(paths), 2 * width, STATES) * valid.repeat_interleave(2, 1)[..., None],
        state_lens=2 * lens,
    )


def test_a_pass_has_so_many_states_for_each_heard_token():
    head = build(num_splits=3, num_passes=1)
    (said,) = head.refine(hear([0, 4, 4, 0, 5], [6, 0, 0, 0, 0]))
    assert said.speech.lens.tolist() == [6, 3]
    assert said.speech.log_probs.shape == (2, 6, VOCAB)
    torch.testing.assert_close(said.speech.log_probs.exp().sum(2), torch.ones(2, 6))
    assert said.starts[0].tolist() == [1, 1, 1, 4, 4, 4]
    assert said.ends[0].tolist() == [3, 3, 3, 5, 5, 5]


@torch.no_grad()
def test_frames_are_those_of_the_heard_token_through_all_passes():
    head = build(num_passes=2)
    head.blank_bias.copy_(torch.tensor([-30.0, 30.0]))  # one token for each
    (path,) = head.decode(hear([0, 4, 4, 0, 5, 0, 0, 7]))
    spans = dict(zip(path.starts, path.ends, strict=True))
    assert set(spans.items()) <= {(1, 3), (4, 5), (7, 8), (1, 5), (4, 8), (1, 8)}, "merged repeats span both"
    assert len(path.tokens) == len(path.scores) == len(path.starts)
    assert 0 not in path.tokens


@torch.no_grad()
def test_blank_is_decided_apart_from_the_tokens():
    head = build()
    states, probs = torch.randn(1, 2, 2, STATES), torch.rand(1, 2, VOCAB)
    sure = head.log_probs(states, probs)
    head.output.weight.mul_(50)
    torch.testing.assert_close(head.log_probs(states, probs)[..., 0], sure[..., 0])
    expected = torch.nn.functional.logsigmoid(torch.tensor([-2.0, 2.0, -2.0, 2.0]))
    torch.testing.assert_close(sure[0, :, 0], expected)


@both_decoders
@torch.no_grad()
def test_utterances_are_refined_as_if_they_were_alone(decoder):
    head = build(decoder=decoder)
    torch.nn.init.normal_(head.acoustic.weight)
    torch.nn.init.normal_(head.split.weight, std=0.1)
    torch.nn.init.normal_(head.blank.weight)
    together = hear([0, 4, 4, 0, 5, 6], [6, 0, 3])
    noisy = EncodedSpeech(
        enc=together.enc,
        lens=together.lens,
        log_probs=together.log_probs.masked_fill(~together.valid[..., None], NEVER / 7),
        states=together.states,
        state_lens=together.state_lens,
    )
    expected = head.decode(together)
    assert head.decode(noisy) == expected
    alone = EncodedSpeech(
        enc=together.enc[1:, :3],
        lens=together.lens[1:],
        log_probs=together.log_probs[1:, :3],
        states=together.states[1:, :6],
        state_lens=together.state_lens[1:],
    )
    (path,) = head.decode(alone)
    assert path.tokens == expected[1].tokens
    assert path.starts == expected[1].starts
    assert path.scores == pytest.approx(expected[1].scores, abs=1e-5)


@torch.no_grad()
def test_of_nothing_it_says_nothing():
    assert build().decode(hear([0, 0, 0])) == [CtcPath([], [], [], [], 0.0)]
    paths = build().decode(hear([0, 0, 0], [4, 0, 0]))
    assert paths[0].tokens == []


def test_it_needs_posteriors():
    speech = hear([4, 5])
    without = EncodedSpeech(enc=speech.enc, lens=speech.lens, states=speech.states, state_lens=speech.state_lens)
    with pytest.raises(ConfigError, match="CTC"):
        build().refine(without)


@both_decoders
def test_it_learns_to_drop_to_replace_and_to_insert(decoder):
    """Heard: one token too many, a wrong one, and one too few."""
    speech = hear([4, 0, 5, 0, 6], [7, 0, 8, 0, 0], [9, 0, 10, 0, 0])
    tokens = torch.tensor([[4, 6, 0], [7, 3, 0], [9, 11, 10]])
    token_lens = torch.tensor([2, 2, 3])
    head = build(decoder=decoder)
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    first = float(head.loss(speech, tokens, token_lens).total)
    for _ in range(150):
        loss = head.loss(speech, tokens, token_lens)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    assert float(loss.total) < 0.1 < first
    assert [path.tokens for path in head.eval().decode(speech)] == [[4, 6], [7, 3], [9, 11, 10]]


def test_what_cannot_fit_counts_nothing_and_gradients_stay_finite():
    speech = hear([4, 0], [0, 0])
    tokens, token_lens = torch.tensor([[4, 5, 6], [4, 5, 6]]), torch.tensor([3, 1])
    head = build()
    output = head.loss(speech, tokens, token_lens)
    assert float(output.total) == 0.0
    assert float(output.parts["unfit"]) == 1.0
    output.total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


def test_no_gradient_flows_into_what_was_heard():
    speech = hear([4, 0, 5])
    speech.log_probs.requires_grad_()
    speech.enc.requires_grad_()
    head = build()
    torch.nn.init.normal_(head.acoustic.weight)
    head.loss(speech, torch.tensor([[4, 6]]), torch.tensor([2])).total.backward()
    assert speech.log_probs.grad is None
    assert speech.enc.grad.abs().sum() > 0
