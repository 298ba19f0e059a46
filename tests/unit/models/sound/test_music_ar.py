import pytest
import torch

from speechnar.errors import ConfigError, ShapeError
from speechnar.models.sound.music_ar import ArSamplingConfig, MusicAr, MusicArConfig, _draw_top_k, delayed
from tests.unit.models.generators import WORDS, make_generator, narrow, shift_code


def condition_of(model, *texts):
    return model.condition.of_texts(texts, torch.device("cpu"))


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_the_published_size_is_that_of_musicgen():
    with torch.device("meta"):
        model = MusicAr(MusicArConfig.published(), WORDS)
    count = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("codec."))
    assert count == 420_371_456


def test_codebooks_come_one_after_another():
    codes = torch.tensor([[[1, 2, 3], [4, 5, 6]]])
    assert delayed(codes, 9).tolist() == [[[1, 2, 3, 9], [9, 4, 5, 6]]]


@torch.no_grad()
def test_a_code_depends_on_those_before_it():
    model = make_generator("music_ar")
    codes, condition = shift_code(1).codes, condition_of(model, "dog")
    before = model(codes, condition)
    for codebook in range(4):
        other = codes.clone()
        other[0, codebook, 10] = (other[0, codebook, 10] + 1) % 16
        changed = (model(other, condition) - before).abs().sum((0, 3)) > 1e-6
        for k in range(4):  # predicted at step t + k, given the codes up to step t + k - 1
            assert changed[k].nonzero().flatten().tolist() == list(range(10 + codebook - k + 1, 24))


@torch.no_grad()
@pytest.mark.parametrize("num_known", [0, 1, 7])
def test_cached_steps_are_the_whole_pass(num_known):
    """Greedy codes are the most probable ones given all before them, by the pass over everything."""
    model = make_generator("music_ar")
    condition, unconditional = condition_of(model, "dog", "cat"), condition_of(model, None, None)
    prompt = shift_code(2).codes[..., :num_known]
    greedy = ArSamplingConfig(top_k=1, guidance=2.0)
    ticks = []
    codes = model.generate(
        prompt,
        20,
        condition,
        unconditional=unconditional,
        generators=generators(0, 1),
        sampling=greedy,
        progress=lambda done, total: ticks.append((done, total)),
    )
    assert codes.shape == (2, 4, 20)
    assert torch.equal(codes[..., :num_known], prompt)
    without = model(codes, unconditional)
    logits = without + (model(codes, condition) - without) * 2
    assert torch.equal(codes[..., num_known:], logits.argmax(-1)[..., num_known:])
    assert ticks[-1] == (23 - num_known, 23 - num_known)
    assert len(ticks) == 23 - num_known


@torch.no_grad()
def test_an_utterance_depends_on_its_own_seed_only():
    model = make_generator("music_ar")
    empty = torch.zeros(2, 4, 0, dtype=torch.int64)
    condition = condition_of(model, "dog", "dog")
    both = model.generate(empty, 12, condition, unconditional=None, generators=generators(3, 4))
    for i, seed in enumerate((3, 4)):
        alone = model.generate(
            empty[:1], 12, condition_of(model, "dog"), unconditional=None, generators=generators(seed)
        )
        assert torch.equal(alone[0], both[i])
    assert not torch.equal(both[0], both[1])


def test_codes_are_drawn_from_the_best():
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log().expand(1, 1000, 4)
    picks = _draw_top_k(logits, torch.arange(1000)[None] / 1000, 2)
    shares = picks[0].bincount(minlength=4) / 1000
    torch.testing.assert_close(shares, torch.tensor([0, 4 / 7, 0, 3 / 7]), atol=2e-3, rtol=0)


@torch.no_grad()
def test_the_rescorer_gives_probabilities_of_codes():
    model = make_generator("music_ar")
    codes = shift_code(2).codes
    codes[:, 1:] = model.embed.mask_id
    condition = condition_of(model, "dog", "cat")
    positions = torch.tensor([[0, 5, 6], [1, 2, 23]])
    found = model.rescorer(condition)(codes, 0, positions)
    probs = model(codes, condition)[:, 0].softmax(-1)
    for row in range(2):
        for column, frame in enumerate(positions[row].tolist()):
            assert float(found[row, column]) == pytest.approx(float(probs[row, frame, codes[row, 0, frame]]))


def test_what_does_not_fit_is_refused():
    model = make_generator("music_ar")
    prompt, condition = shift_code(1).codes, condition_of(model, "dog")
    with pytest.raises(ShapeError, match=r"need a prompt shorter than 24 frames .* got \(1, 4, 24\) and 1"):
        model.generate(prompt, 24, condition, unconditional=None, generators=generators(0))
    with pytest.raises(ConfigError, match="at most 24 frames at one go, got 25"):
        model.generate(prompt, 25, condition, unconditional=None, generators=generators(0))


@pytest.mark.slow
def test_it_learns_the_rule():
    torch.manual_seed(0)
    model = make_generator("music_ar", network=narrow(model_dim=64, ff_dim=128, num_heads=4)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for step in range(150):
        loss = model.loss(shift_code(32, seed=step))
        optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    truth = shift_code(16, seed=999)
    condition = condition_of(model, *["dog" if word == 2 else "cat" for word in truth.tokens[:, 0]])
    codes = model.generate(
        truth.codes[..., :2],
        24,
        condition,
        unconditional=None,
        generators=generators(*range(16)),
        sampling=ArSamplingConfig(top_k=1),
    )
    assert float((codes == truth.codes).float().mean()) > 0.9
