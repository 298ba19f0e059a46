import dataclasses

import pytest
import torch
from torch import nn

from speechnar.data.latents import LatentBatch, linear_positions
from speechnar.errors import ConfigError, ShapeError
from speechnar.models.tts.ardit import Ardit, ArditConfig, BlockVelocity, Middle, SpokenText, blur, draw_middle, visible
from speechnar.nn.lengths import valid_mask
from speechnar.text.tokenizer import CharTokenizer
from tests.contracts import check_gradients_reach_all

VOCAB, CHANNELS = 9, 4
BLOCK_SIZES = [1, 4, None]


def make_model(block_size: int | None = 4, *, is_new: bool = False, **changes) -> Ardit:
    torch.manual_seed(0)
    changes = {"block_size": block_size, "aligned_text": True, **changes}
    model = Ardit(ArditConfig.debug().model_copy(update=changes), VOCAB).eval()
    for parameter in () if is_new else model.parameters():
        if not parameter.any():  # what adaLN-Zero begins with: layers that do nothing
            nn.init.normal_(parameter, std=0.3)
    return model


def make_speech(token_lens=(5, 3, 7), latent_lens=(13, 6, 18), padding=0.0) -> LatentBatch:
    generator = torch.Generator().manual_seed(3)
    token_lens, latent_lens = torch.tensor(token_lens), torch.tensor(latent_lens)
    tokens = torch.randint(VOCAB, (len(token_lens), int(token_lens.max())), generator=generator)
    latents = torch.randn(len(token_lens), int(latent_lens.max()), CHANNELS, generator=generator)
    valid = valid_mask(latent_lens, latents.size(1))
    return LatentBatch(
        tokens=tokens.masked_fill(~valid_mask(token_lens, tokens.size(1)), -1),
        token_lens=token_lens,
        latents=latents.masked_fill(~valid[..., None], padding),
        latent_lens=latent_lens,
        positions=linear_positions(token_lens, latent_lens).masked_fill(~valid, padding),
    )


def alone(speech: LatentBatch, i: int) -> LatentBatch:
    """Return utterance ``i`` without padding."""
    num_tokens, num_latents = int(speech.token_lens[i]), int(speech.latent_lens[i])
    return LatentBatch(
        tokens=speech.tokens[i : i + 1, :num_tokens],
        token_lens=speech.token_lens[i : i + 1],
        latents=speech.latents[i : i + 1, :num_latents],
        latent_lens=speech.latent_lens[i : i + 1],
        positions=speech.positions[i : i + 1, :num_latents],
    )


STARTS, LENS = torch.tensor([2, 0, 5]), torch.tensor([9, 6, 13])  # in the middle, everything, to the end


def draw_noisy(middle: Middle) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noisy latents (B, M, C) and times (B, M), one for each block."""
    generator = torch.Generator().manual_seed(4)
    noisy = torch.randn(*middle.blocks.shape, CHANNELS, generator=generator)
    return noisy, torch.rand(middle.blocks.shape, generator=generator).gather(1, middle.blocks)


# The mask


def test_the_mask_of_a_noisy_and_of_a_certain_token():
    """Blocks of 2, the first one short by 1: latents 0, 1, ..., 4 are in blocks 0, 1, 1, 2, 2."""
    middle = Middle.of(torch.tensor([0]), torch.tensor([5]), 2, torch.tensor([1]))
    assert middle.blocks.tolist() == [[0, 1, 1, 2, 2]]
    text = torch.zeros(1, 3, dtype=torch.int64)
    orders = torch.cat([text, 4 + 2 * middle.blocks, 3 + 2 * middle.blocks], 1)
    mask = visible(orders, orders)[0]
    text, certain, noisy = range(3), range(3, 8), range(8, 13)
    assert mask[noisy[3]].nonzero().flatten().tolist() == [*text, *certain[:3], *noisy[3:]]
    assert mask[certain[1]].nonzero().flatten().tolist() == [*text, *certain[:3]]
    assert mask[text[0]].nonzero().flatten().tolist() == [*text]
    assert mask[noisy[0]].nonzero().flatten().tolist() == [*text, noisy[0]]


def test_the_mask_around_a_span():
    text, context, certain, noisy, padding = 0, 2, 4, 3, 2**31 - 1
    orders = torch.tensor([[text, context, certain, certain + 2, context, noisy, noisy + 2, padding]])
    mask = visible(orders, orders)[0].int().tolist()
    assert mask[0] == [1, 0, 0, 0, 0, 0, 0, 0]
    assert mask[1] == mask[4] == [1, 1, 0, 0, 1, 0, 0, 0]
    assert mask[2] == [1, 1, 1, 0, 1, 0, 0, 0]
    assert mask[3] == [1, 1, 1, 1, 1, 0, 0, 0]
    assert mask[5] == [1, 1, 0, 0, 1, 1, 0, 0]
    assert mask[6] == [1, 1, 1, 0, 1, 0, 1, 0]
    assert mask[7][0] == 1  # padding sees something, so that its rows stay finite


# Spans


def test_spans_are_cut_anywhere_and_have_any_length():
    latent_lens = torch.tensor([5, 12] * 2000)
    middle = draw_middle(latent_lens, 4, 1.0, torch.Generator().manual_seed(0))
    ends = middle.starts + middle.lens
    assert (middle.starts >= 0).all()
    assert (middle.lens >= 1).all()
    assert (ends <= latent_lens).all()
    spans = set(zip(middle.starts[0::2].tolist(), ends[0::2].tolist(), strict=True))
    assert spans == {(first, end) for first in range(5) for end in range(first + 1, 6)}
    counts = middle.lens[0::2].bincount(minlength=6)[1:]
    assert (counts.float() / 2000 - 1 / 5).abs().max() < 0.04  # lengths are uniform
    in_first_block = (middle.blocks == 0).sum(1)[middle.blocks[:, 4] >= 1].bincount(minlength=5)
    assert (in_first_block[1:].float() / len(latent_lens) - 1 / 4).abs().max() < 0.03  # and so are the offsets


def test_without_infilling_everything_is_generated():
    latent_lens = torch.tensor([5, 12])
    middle = draw_middle(latent_lens, None, 0.0)
    assert middle.starts.tolist() == [0, 0]
    assert middle.lens.tolist() == [5, 12]
    assert not middle.blocks.any()


# One pass over all blocks, and the cached way


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize(("modulation", "aligned_text"), [("shared", True), ("per_layer", False)])
@torch.no_grad()
def test_the_velocity_of_training_is_that_of_generation(block_size, modulation, aligned_text):
    model = make_model(block_size, modulation=modulation, aligned_text=aligned_text)
    speech = make_speech(padding=torch.nan)
    middle = Middle.of(STARTS, LENS, block_size)
    noisy, times = draw_noisy(middle)
    times[:] = times[2]  # generation is at the same time in all utterances
    trained = model.velocity(speech, middle, noisy, times)
    velocity = BlockVelocity(model, speech, middle)
    latents = middle.take(speech.latents)
    first, num_blocks = 0, 0
    while first < noisy.size(1):
        block = velocity.enter(first)
        # The first evaluation, which also fills the cache, and a second one, which does not.
        other = velocity(noisy[:, block].flip(2), 0.3)
        generated = velocity(noisy[:, block], float(times[2, first]))
        valid = middle.valid[:, block]
        torch.testing.assert_close(generated[valid], trained[:, block][valid], atol=2e-5, rtol=1e-4)
        assert (other - generated)[valid].abs().max() > 1e-2
        velocity.settle(latents[:, block])
        first, num_blocks = block.stop, num_blocks + 1
    assert num_blocks == {1: 13, 4: 4, None: 1}[block_size]


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@torch.no_grad()
def test_a_merged_evaluation_equals_the_velocity_of_training(block_size):
    """The first evaluation of each block, in which those before it become certain, with the text and context."""
    model, speech = make_model(block_size), make_speech()
    middle = Middle.of(STARTS, LENS, block_size)
    noisy, _ = draw_noisy(middle)
    trained = model.velocity(speech, middle, noisy, torch.full(middle.blocks.shape, 0.6))
    velocity = BlockVelocity(model, speech, middle)
    for first in range(0, noisy.size(1), block_size or noisy.size(1)):
        block = velocity.enter(first)
        valid = middle.valid[:, block]
        torch.testing.assert_close(
            velocity(noisy[:, block], 0.6)[valid], trained[:, block][valid], atol=2e-5, rtol=1e-4
        )
        velocity.settle(middle.take(speech.latents)[:, block])


@torch.no_grad()
def test_text_is_before_and_the_certain_at_the_beginning_of_the_noisy_time():
    model, speech = make_model(4), make_speech((5,), (6,))
    middle = Middle.of(torch.tensor([0]), torch.tensor([6]), 4)
    noisy, times = draw_noisy(middle)
    seen = []
    model.trunk.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    model.velocity(speech, middle, noisy, times)
    assert torch.equal(seen[0], torch.cat([torch.full((1, 5), -1.0), torch.zeros(1, 6), times], 1))


@torch.no_grad()
def test_a_block_depends_on_what_is_certain_and_on_itself_only():
    model, speech = make_model(4), make_speech((5,), (16,))
    middle = Middle.of(torch.tensor([0]), torch.tensor([16]), 4)
    noisy, times = draw_noisy(middle)
    before = model.velocity(speech, middle, noisy, times)

    def changed(**parts) -> list[bool]:
        """Return which blocks change with the true latents, the noisy ones or the times."""
        given = {"latents": speech.latents, "noisy": noisy, "times": times, **parts}
        other = dataclasses.replace(speech, latents=given["latents"])
        moved = model.velocity(other, middle, given["noisy"], given["times"]) - before
        return (moved.view(4, -1).abs().amax(1) > 1e-5).tolist()

    part = torch.zeros(1, 16, 1)
    part[:, 5] = 1.0  # of block 1
    assert changed(latents=speech.latents + part) == [False, False, True, True]
    assert changed(noisy=noisy + part) == [False, True, False, False]
    assert changed(times=times * (1 - 0.5 * part[..., 0])) == [False, True, False, False]


@torch.no_grad()
@torch.no_grad()
def test_a_latent_is_told_what_is_spoken_around_it_and_no_more():
    """Without attention nothing else can tell it anything about the text."""
    model, speech = make_model(None), make_speech()
    for layer in model.trunk.layers:
        layer.attention.out.weight.zero_()
    middle = Middle.of(STARTS, LENS, None)
    noisy, times = draw_noisy(middle)
    before = model.velocity(speech, middle, noisy, times)
    speech.tokens[0, 4] = (speech.tokens[0, 4] + 1) % VOCAB
    changed = (model.velocity(speech, middle, noisy, times) - before).abs().amax(-1) > 1e-6
    # Two convolutions see two tokens on either side, and token 4 has its centre at 4.5.
    places = middle.take(speech.positions)[0].tolist()
    assert changed[0].tolist() == [abs(place - 4.5) < 3 for place in places]
    assert True in changed[0]
    assert False in changed[0]
    assert not changed[1:].any()


def test_what_is_spoken_goes_over_from_token_to_token():
    text = SpokenText(VOCAB, 8, 0.0)
    speech = make_speech()
    place = speech.positions[0, 0].floor()
    speech.positions[0, :3] = place + torch.tensor([0.5, 1.0, 1.5])
    first, middle, last = text(speech)[0, :3]
    torch.testing.assert_close(middle, (first + last) / 2)
    assert not torch.allclose(first, last)


def test_errors_count_by_the_weights_of_their_channels():
    model, speech = make_model(), make_speech()
    weights = torch.tensor([4.0, 0.0, 0.0, 0.0])
    first = model.loss(dataclasses.replace(speech, weights=weights)).total
    rest = model.loss(dataclasses.replace(speech, weights=(4 - weights) / 3)).total
    torch.testing.assert_close(first / 4 + rest * 3 / 4, model.loss(speech).total)
    assert (first - rest).abs() > 1e-3


def test_padding_and_company_do_not_change_the_velocity():
    model, speech = make_model(), make_speech(padding=torch.nan)
    middle = Middle.of(STARTS, LENS, 4, torch.tensor([1, 3, 0]))
    noisy, times = draw_noisy(middle)
    batch = model.velocity(speech, middle, noisy.masked_fill(~middle.valid[..., None], torch.nan), times)
    assert batch.isfinite().all()
    for i in range(3):
        own = slice(i, i + 1), slice(0, int(LENS[i]))
        single = Middle(STARTS[i : i + 1], LENS[i : i + 1], middle.blocks[own])
        velocity = model.velocity(alone(speech, i), single, noisy[own], times[own])
        torch.testing.assert_close(batch[own], velocity, atol=2e-5, rtol=1e-4)


# Generation


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_a_batch_generates_what_each_utterance_does_alone(block_size):
    model, speech = make_model(block_size), make_speech(padding=torch.nan)
    batch = model.generate(speech, STARTS, LENS, seeds=[5, 6, 7], num_steps=3)
    assert batch.shape == speech.latents.shape
    for i in range(3):
        num_latents = int(speech.latent_lens[i])
        single = model.generate(alone(speech, i), STARTS[i : i + 1], LENS[i : i + 1], seeds=[5 + i], num_steps=3)
        torch.testing.assert_close(batch[i, :num_latents], single[0], atol=1e-4, rtol=1e-3)
        assert not batch[i, num_latents:].any()


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_what_is_known_is_kept_and_what_stood_in_the_span_is_not_looked_at(block_size):
    model, speech = make_model(block_size), make_speech()
    generated = model.generate(speech, STARTS, LENS, seeds=[1, 2, 3], num_steps=2)
    middle = Middle.of(STARTS, LENS, block_size)
    is_new = middle.put(torch.zeros(3, 18, dtype=torch.bool), middle.valid)
    known = ~is_new & valid_mask(speech.latent_lens, 18)
    assert torch.equal(generated[known], speech.latents[known])
    unknown = dataclasses.replace(speech, latents=speech.latents.masked_fill(is_new[..., None], torch.nan))
    assert torch.equal(model.generate(unknown, STARTS, LENS, seeds=[1, 2, 3], num_steps=2), generated)


def test_a_seed_gives_one_sample_and_another_seed_another():
    model, speech = make_model(), make_speech()
    first = model.generate(speech, STARTS, LENS, seeds=[1, 2, 3], num_steps=2)
    torch.manual_seed(99)
    assert torch.equal(model.generate(speech, STARTS, LENS, seeds=[1, 2, 3], num_steps=2), first)
    other = model.generate(speech, STARTS, LENS, seeds=[1, 8, 3], num_steps=2)
    torch.testing.assert_close(other[0], first[0])
    assert (other[1] - first[1]).abs().max() > 0.1


@pytest.mark.parametrize(("block_size", "num_blocks"), [(1, 13), (4, 4), (None, 1)])
@pytest.mark.parametrize("num_steps", [1, 5])
def test_a_block_costs_one_evaluation_per_step_and_nothing_more(block_size, num_blocks, num_steps):
    model, speech = make_model(block_size), make_speech()
    sizes = []
    model.trunk.register_forward_pre_hook(lambda _, args: sizes.append(args[0].size(1)))
    blocks = list(model.stream(speech, STARTS, LENS, seeds=[1, 2, 3], num_steps=num_steps))
    assert len(blocks) == num_blocks
    assert len(sizes) == num_blocks * num_steps
    # Text (7) and known latents (at most 5) enter once, then each block as a noisy one in every evaluation and once
    # more as a certain one, but for the last.
    assert sum(sizes) == 7 + 5 + 13 * num_steps + (13 - blocks[-1].size(1))


def test_blocks_arrive_one_by_one():
    model, speech = make_model(4), make_speech()
    calls = []
    model.trunk.register_forward_hook(lambda *_: calls.append(1))
    stream = model.stream(speech, STARTS, LENS, seeds=[1, 2, 3], num_steps=2)
    first = next(stream)
    assert len(calls) == 2
    whole = model.generate(speech, STARTS, LENS, seeds=[1, 2, 3], num_steps=2)
    blocks = torch.cat([first, *stream], 1)
    middle = Middle.of(STARTS, LENS, 4)
    assert torch.equal(blocks, middle.take(whole))


def test_impossible_spans_are_refused():
    model, speech = make_model(), make_speech()
    with pytest.raises(ShapeError, match=r"got starts \[2, 0, 6\] and lengths \[9, 6, 13\] in \[13, 6, 18\]"):
        model.generate(speech, torch.tensor([2, 0, 6]), LENS, seeds=[1, 2, 3])
    with pytest.raises(ShapeError, match="hold one latent at least"):
        model.generate(speech, STARTS, torch.tensor([9, 0, 13]), seeds=[1, 2, 3])
    with pytest.raises(ShapeError, match="a seed for each of 3 utterances, got 3, 3 and 2"):
        model.generate(speech, STARTS, LENS, seeds=[1, 2])
    silent = dataclasses.replace(speech, token_lens=torch.tensor([5, 0, 7]))
    with pytest.raises(ShapeError, match="one text token at least"):
        model.generate(silent, STARTS, LENS, seeds=[1, 2, 3])
    with pytest.raises(ConfigError, match="num_steps must be at least 1"):
        model.generate(speech, STARTS, LENS, seeds=[1, 2, 3], num_steps=0)


# Training


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_gradients_reach_every_parameter(block_size):
    model = make_model(block_size).train()
    check_gradients_reach_all(model, model.loss(make_speech(padding=torch.nan)).total)


def test_a_new_model_predicts_no_velocity_so_its_loss_is_that_of_the_targets():
    """The target w - z has variance 2 in every channel."""
    model = make_model(is_new=True).train()
    loss = model.loss(make_speech([6] * 200, [40] * 200))
    assert float(loss.total.detach()) == pytest.approx(2.0, abs=0.1)
    assert 0.6 * 200 * 40 < float(loss.weight) < 0.9 * 200 * 40  # half of the utterances whole, the others half


def test_padding_does_not_change_the_loss():
    model = make_model(infill_prob=0.0, block_size=None, is_new=True)
    speech = make_speech((4, 4), (9, 9))
    whole = model.loss(speech)
    longer = dataclasses.replace(
        speech,
        latents=torch.cat([speech.latents, torch.full((2, 30, CHANNELS), torch.nan)], 1),
        positions=torch.cat([speech.positions, torch.full((2, 30), torch.nan)], 1),
    )
    assert int(whole.weight) == int(model.loss(longer).weight) == 18
    torch.testing.assert_close(model.loss(longer).total, whole.total)


def test_held_out_loss_is_the_same_every_time_and_training_loss_is_not():
    model, speech = make_model(), make_speech()
    assert torch.equal(model.loss(speech).total, model.loss(speech).total)
    model.train()
    assert not torch.equal(model.loss(speech).total, model.loss(speech).total)


def test_half_precision_trains_and_generates_nearly_the_same():
    model, speech = make_model(), make_speech()
    loss = model.loss(speech).total
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.loss(speech).total
        generated = model.generate(speech, STARTS, LENS, seeds=[1, 2, 3], num_steps=1)
    assert rough.dtype == generated.dtype == torch.float32
    assert float(rough.detach()) == pytest.approx(float(loss.detach()), rel=0.02)
    exact = model.generate(speech, STARTS, LENS, seeds=[1, 2, 3], num_steps=1)
    torch.testing.assert_close(generated, exact, atol=0.2, rtol=0.1)


def words_in_latents() -> LatentBatch:
    """Return one utterance for each of three tokens, each with its own course of nine latents of variance 1."""
    generator = torch.Generator().manual_seed(8)
    lens = torch.full((3,), 9)
    latents = torch.randn(3, 9, CHANNELS, generator=generator)
    token_lens = torch.tensor([2, 2, 2])
    return LatentBatch(
        tokens=torch.tensor([[1, 4], [2, 4], [3, 4]]),
        token_lens=token_lens,
        latents=(latents - latents.mean((0, 1))) / latents.std((0, 1)),
        latent_lens=lens,
        positions=linear_positions(token_lens, lens),
    )


@pytest.mark.slow
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_a_model_learns_three_words_and_says_and_mends_them(block_size):
    model, speech = make_model(block_size, is_new=True).train(), words_in_latents()
    many = LatentBatch(**{name: x.repeat_interleave(6, 0) for name, x in vars(speech).items() if x is not None})
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=450)
    model.eval()
    before = float(model.loss(many).total.detach())
    model.train()
    for _ in range(450):
        loss = model.loss(many).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    after = float(model.loss(many).total.detach())
    said = model.generate(speech, torch.zeros(3).long(), speech.latent_lens, seeds=[0, 1, 2])
    mended = model.generate(speech, torch.tensor([3, 0, 4]), torch.tensor([4, 3, 5]), seeds=[3, 4, 5])
    errors = [float((latents - speech.latents).square().mean()) for latents in (said, mended)]
    assert after < 0.25 * before
    # Words of variance 1: to say another one would cost 2, and their mean more than 0.6.
    assert max(errors) < 0.3, errors


# Noise in what is certain


def test_half_the_utterances_are_blurred_up_to_the_limit():
    torch.manual_seed(0)
    noise = (blur(torch.ones(2000, 200, 2), 0.2) - 1).flatten(1)
    stds = noise.std(1)
    assert float((stds == 0).float().mean()) == pytest.approx(0.5, abs=0.04)
    blurred = stds[stds > 0]
    assert float(blurred.max()) < 0.22
    assert float(blurred.mean()) == pytest.approx(0.1, abs=0.01)


def test_history_noise_is_in_what_is_certain_in_training_only():
    speech = make_speech()
    clean, noisy = make_model(), make_model(history_noise=0.5)
    assert torch.equal(noisy.loss(speech).total, clean.loss(speech).total)  # in evaluation
    seen = []
    for model in (clean, noisy):
        model.train()
        velocity = model.velocity

        def watch(given, middle, current, times, velocity=velocity):
            seen.append((given.latents, current))
            return velocity(given, middle, current, times)

        model.velocity = watch
        torch.manual_seed(1)
        model.loss(speech)
    assert torch.equal(seen[0][1], seen[1][1])  # what is to be learned stays clean
    assert torch.equal(seen[0][0], speech.latents)
    changes = (seen[1][0] - speech.latents).flatten(1).std(1)
    assert 0 < float(changes.max()) < 0.6


# Sizes


def test_the_published_model_has_the_sizes_of_the_paper():
    config = ArditConfig.published()
    with torch.device("meta"):
        model = Ardit(config, VOCAB)
    dim, ff_dim, layers = 1024, 4096, 12
    weights = 4 * dim**2 + 2 * dim * ff_dim + 6 * dim**2  # attention, perceptron, modulation: "about 226M" in all
    biases = 4 * dim + ff_dim + dim + 6 * dim
    time = 256 * dim + dim + dim**2 + dim
    ends = VOCAB * dim + (16 * dim + dim) + (2 * dim**2 + 2 * dim) + (16 * dim + 16)
    assert layers * weights == 226_492_416
    assert sum(p.numel() for p in model.parameters()) == layers * (weights + biases) + time + ends
    assert (config.num_heads, config.latent_dim, config.block_size, config.infill_prob) == (16, 16, 4, 1.0)


def test_the_default_model_shares_its_modulation():
    model = Ardit(ArditConfig(), VOCAB)
    dim, ff_dim, layers = 256, 1024, 8
    weights = 4 * dim**2 + 2 * dim * ff_dim
    biases = 4 * dim + ff_dim + dim + 6 * dim
    time = 256 * dim + dim + dim**2 + dim + 6 * dim**2 + 6 * dim
    ends = VOCAB * dim + (16 * dim + dim) + (2 * dim**2 + 2 * dim) + (16 * dim + 16)
    assert sum(p.numel() for p in model.parameters()) == layers * (weights + biases) + time + ends
    assert sum(p.numel() for p in Ardit(ArditConfig.debug(), 300).parameters()) < 1_000_000


def test_a_model_is_built_for_its_tokenizer():
    tokenizer = CharTokenizer(("<blank>", "<unk>", *"abc", "<sop>", "<sos>", "<eos>"))
    assert Ardit.from_config(ArditConfig.debug(), tokenizer).embed.num_embeddings == 8
