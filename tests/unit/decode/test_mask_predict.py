"""The golden tables are those of generation by MAGNeT with spans of 3 frames, computed apart from this code."""

import itertools
import math

import pytest
import torch

from speechnar.decode.mask_predict import (
    MaskPredictConfig,
    draw_codes,
    draw_spans,
    guidances,
    mask_predict,
    masked_chunks,
    span_starts,
    temperatures,
)
from speechnar.errors import ConfigError, ShapeError

MASK = 8
SETTINGS = MaskPredictConfig(steps=(4, 3), temperature=1.0, top_p=0.9, guidance=(3.0, 1.0))


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [
        (500, {1: 2, 5: 9, 10: 18, 25: 46, 50: 103, 75: 185, 90: 268, 95: 316, 99: 392, 100: 498}),
        (250, {10: 9, 25: 23, 50: 52, 75: 93, 90: 134}),
        (1500, {10: 52, 25: 138, 50: 310, 75: 555, 90: 804}),
    ],
)
def test_the_table_of_starts(num_frames, expected):
    table = span_starts(num_frames, 3)
    assert len(table) == 101
    assert table[0] == 0
    assert {percent: table[percent] for percent in expected} == expected


def test_the_rate_of_the_formula():
    """One start short of the table is too few, by 1 - C(T - L, n) / C(T, n)."""
    for percent, count in enumerate(span_starts(40, 3)):
        rates = [1 - math.comb(37, n) / math.comb(40, n) for n in (max(count - 1, 0), count)]
        assert rates[1] >= percent / 100 - 1e-9
        assert count == 0 or rates[0] < percent / 100


def test_drawn_spans_have_their_rates():
    generator = torch.Generator().manual_seed(0)
    for rate, expected in ((0.1, 0.104), (0.25, 0.252), (0.5, 0.5), (0.75, 0.751), (0.9, 0.9)):
        mask = draw_spans(torch.full((400,), rate), 500, 3, generator)
        assert float(mask.float().mean()) == pytest.approx(expected, abs=0.004)
    few = draw_spans(torch.zeros(50), 20, 3, generator)
    for row in few.tolist():  # one span, which ends with the last frame at the latest
        lengths = [len(list(group)) for value, group in itertools.groupby(row) if value]
        assert len(lengths) == 1
        assert lengths == [3] or row[-1]
    assert draw_spans(torch.ones(3), 20, 3, generator).float().mean() > 0.85


def test_a_span_is_shorter_than_the_window():
    with pytest.raises(ConfigError, match=r"span_len must lie in \[1, 3\), the frames of a window; got 3"):
        span_starts(3, 3)


def test_the_schedules():
    chunks = [166, 165, 163, 160, 157, 152, 145, 138, 130, 122, 112, 101, 90, 79, 66, 53, 40, 27, 13, 1]
    assert masked_chunks(166, 20) == chunks
    assert masked_chunks(166, 10) == [166, 163, 155, 143, 127, 106, 83, 56, 28, 1]
    long = masked_chunks(500, 60)
    assert (long[:5], long[-5:]) == ([500, 499, 499, 498, 497], [53, 39, 26, 13, 1])
    assert masked_chunks(7, 1) == [7]
    falling = temperatures(3.0, 20)
    assert (falling[:2], falling[-2:]) == (pytest.approx([2.85, 2.7]), pytest.approx([0.15, 0.0]))
    weights = guidances(10.0, 1.0, 20)
    assert weights[:5] == pytest.approx([10, 9.969, 9.877, 9.725, 9.512], abs=1e-3)
    assert weights[-3:] == pytest.approx([2.481, 1.743, 1.0], abs=1e-3)


def test_codes_are_drawn_from_the_most_probable():
    probs = torch.tensor([0.1, 0.5, 0.15, 0.25]).expand(1, 1000, 4)
    uniforms = torch.arange(1000)[None] / 1000
    shares = draw_codes(probs, uniforms, 0.7)[0].bincount(minlength=4) / 1000
    torch.testing.assert_close(shares, torch.tensor([0, 2 / 3, 0, 1 / 3]), atol=2e-3, rtol=0)
    shares = draw_codes(probs, uniforms, 1.0)[0].bincount(minlength=4) / 1000
    torch.testing.assert_close(shares, probs[0, 0], atol=2e-3, rtol=0)
    sharp = torch.tensor([0.0, 1.0, 0.0, 0.0]).expand(1, 1000, 4)
    assert (draw_codes(sharp, uniforms, 0.9) == 1).all()


class Oracle:
    """Knows the codes, and looks at what it is given."""

    mask_id = MASK

    def __init__(self, truth, sharpness=50.0, is_guided=False):
        self.truth, self.sharpness, self.is_guided = truth, sharpness, is_guided
        self.masked = []
        self.begun = []

    def begin(self, codes, codebook):
        self.begun.append(codebook)
        assert torch.equal(codes[:, :codebook], self.truth[:, :codebook])
        assert (codes[:, codebook + 1 :] == MASK).all()

    def __call__(self, codes, codebook, positions, *, is_guided=True):
        given = codes[:, codebook]
        self.masked.append((codebook, [row.tolist() for row in positions]))
        wrong = (given != MASK) & (given != self.truth[:, codebook])
        assert not wrong.any()
        logits = self.sharpness * torch.nn.functional.one_hot(self.truth[:, codebook], MASK).float()
        wanted = logits.gather(1, positions[..., None].expand(-1, -1, MASK))
        return wanted, 0.5 * wanted if self.is_guided else None


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def make_truth(num_frames=24):
    return torch.randint(MASK, (2, 2, num_frames), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("is_guided", [False, True])
def test_whoever_knows_the_codes_writes_them(is_guided):
    truth = make_truth()
    oracle, ticks = Oracle(truth, is_guided=is_guided), []
    found = mask_predict(
        oracle,
        torch.zeros_like(truth),
        torch.zeros(24, dtype=torch.bool),
        SETTINGS,
        span_len=3,
        generators=generators(0, 1),
        progress=lambda done, total: ticks.append((done, total)),
    )
    assert torch.equal(found, truth)
    assert oracle.begun == [0, 1]
    assert ticks == [(i, 7) for i in range(1, 8)]
    assert [len(rows[0]) // 3 for _, rows in oracle.masked] == masked_chunks(8, 4) + masked_chunks(8, 3)
    assert [codebook for codebook, _ in oracle.masked] == [0] * 4 + [1] * 3


def test_what_is_kept_once_stays():
    truth = make_truth()
    oracle = Oracle(truth, sharpness=2.0)
    oracle.begin = lambda codes, codebook: None
    seen = []

    class Noisy(Oracle):
        def begin(self, codes, codebook):
            seen.append([])

        def __call__(self, codes, codebook, positions, *, is_guided=True):
            seen[-1].append((codes[:, codebook].clone(), positions))
            return torch.randn(*positions.shape, MASK, generator=torch.Generator().manual_seed(len(seen[-1]))), None

    known = torch.zeros(24, dtype=torch.bool)
    found = mask_predict(Noisy(truth), truth, known, SETTINGS, span_len=3, generators=generators(0, 1))
    for codebook, steps in enumerate(seen):
        for (_, before), (given, now) in itertools.pairwise(steps):
            for old, new, row, final in zip(before, now, given, found[:, codebook], strict=True):
                assert set(new.tolist()) <= set(old.tolist())  # masks are nested
                assert (row == MASK).nonzero().flatten().tolist() == new.tolist()
                kept = row != MASK
                assert torch.equal(row[kept], final[kept])
        spans = steps[-1][1].view(2, -1, 3)
        assert torch.equal(spans[..., 0] % 3, torch.zeros_like(spans[..., 0]))


def test_known_frames_stay_wherever_they_are():
    truth = make_truth()
    known = torch.zeros(24, dtype=torch.bool)
    known[:7] = known[20:] = True  # no multiples of a span
    prompt = (truth + 1) % MASK
    masked = []

    class Wild(Oracle):
        def begin(self, codes, codebook):
            assert torch.equal(codes[:, codebook][:, known], prompt[:, codebook][:, known])

        def __call__(self, codes, codebook, positions, *, is_guided=True):
            masked.append(positions)
            assert torch.equal(codes[:, codebook][:, known], prompt[:, codebook][:, known])
            return torch.zeros(*positions.shape, MASK), None

    found = mask_predict(Wild(truth), prompt, known, SETTINGS, span_len=3, generators=generators(0, 1))
    assert torch.equal(found[..., known], prompt[..., known])
    assert found.max() < MASK
    assert all(positions.min() >= 6 and positions.max() < 21 for positions in masked)
    assert masked[0].shape == (2, 15)


def test_guidance_is_asked_for_until_it_says_nothing():
    truth, asked = make_truth(), []

    class Guided(Oracle):
        def __call__(self, codes, codebook, positions, *, is_guided=True):
            asked.append(is_guided)
            return super().__call__(codes, codebook, positions)

    known = torch.zeros(24, dtype=torch.bool)
    for end in (1.0, 2.0):
        settings = SETTINGS.model_copy(update={"guidance": (3.0, end)})
        mask_predict(Guided(truth), truth, known, settings, span_len=3, generators=generators(0, 1))
    assert asked == [True, True, True, False, True, True, False] + [True] * 7


def test_an_utterance_depends_on_its_own_seed_only():
    class Flat(Oracle):
        def begin(self, codes, codebook):
            pass

        def __call__(self, codes, codebook, positions, *, is_guided=True):
            return torch.zeros(*positions.shape, MASK), None

    def fill(*seeds):
        codes = torch.zeros(len(seeds), 2, 24, dtype=torch.int64)
        known = torch.zeros(24, dtype=torch.bool)
        return mask_predict(Flat(codes), codes, known, SETTINGS, span_len=3, generators=generators(*seeds))

    both = fill(3, 4)
    assert torch.equal(both[0], fill(3)[0])
    assert torch.equal(both[1], fill(4)[0])
    assert not torch.equal(both[0], both[1])


def test_another_model_has_a_say_in_what_is_kept():
    """The network finds all equally likely; the other one is sure of the second half."""
    truth = make_truth()
    masked = []

    class Flat(Oracle):
        def begin(self, codes, codebook):
            pass

        def __call__(self, codes, codebook, positions, *, is_guided=True):
            if codebook == 0:
                masked.append(positions)
            return torch.zeros(*positions.shape, MASK), None

    def rescore(codes, codebook, positions):
        assert codebook == 0
        assert (codes[:, 0] != MASK).all()
        assert (codes[:, 1] == MASK).all()
        return (positions >= 12).float()

    known = torch.zeros(24, dtype=torch.bool)
    mask_predict(Flat(truth), truth, known, SETTINGS, span_len=3, generators=generators(0, 1), rescore=rescore)
    assert masked[2].shape == (2, 12)
    assert masked[2].max() == 11


def test_what_does_not_fit_is_refused():
    truth = make_truth(23)
    with pytest.raises(ShapeError, match="T a multiple of 3, and a generator for each of 2 utterances"):
        mask_predict(Oracle(truth), truth, torch.zeros(23).bool(), SETTINGS, span_len=3, generators=generators(0, 1))
    truth = make_truth()
    with pytest.raises(ShapeError, match="and 1 generators"):
        mask_predict(Oracle(truth), truth, torch.zeros(24).bool(), SETTINGS, span_len=3, generators=generators(0))
    with pytest.raises(ConfigError, match="all codes are known, there is nothing to generate"):
        mask_predict(Oracle(truth), truth, torch.ones(24).bool(), SETTINGS, span_len=3, generators=generators(0, 1))
    three = SETTINGS.model_copy(update={"steps": (1, 1, 1)})
    with pytest.raises(ConfigError, match=r"one number for each of 2 codebooks, got \[1, 1, 1\]"):
        mask_predict(Oracle(truth), truth, torch.zeros(24).bool(), three, span_len=3, generators=generators(0, 1))


class Guess:
    """Predicts anything."""

    mask_id = MASK

    def begin(self, codes, codebook):
        self.generator = torch.Generator().manual_seed(codebook)

    def __call__(self, codes, codebook, positions, *, is_guided=True):
        return torch.randn(*positions.shape, MASK, generator=self.generator), None


def test_whoever_watches_sees_what_stays_stay():
    truth, shown = make_truth(), []
    found = mask_predict(
        Guess(),
        truth,
        torch.arange(24) < 6,
        SETTINGS,
        span_len=3,
        generators=generators(0, 1),
        watch=lambda codes, stays: shown.append((codes.clone(), stays)),
    )
    assert len(shown) == 7
    assert shown[-1][1].all() and torch.equal(shown[-1][0], found)
    for (codes, stays), (_, later) in itertools.pairwise(shown):
        assert torch.equal(codes[stays], found[stays]), "what stays is what comes out"
        assert (later | ~stays).all(), "and is not taken back"
        assert stays[:, :, :6].all()
    # Of the first codebook, drafts are what the next step masks.
    drafts = [int((~stays[0, 0]).sum()) // 3 for _, stays in shown[:4]]
    assert drafts == [*masked_chunks(6, 4)[1:], 0]
    assert (shown[0][0][:, 1, 6:] == MASK).all(), "the second codebook is not tried yet"
