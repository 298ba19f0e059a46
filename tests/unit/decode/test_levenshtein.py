import itertools
import random

import pytest
import torch

from speechnar.decode.levenshtein import edit_labels, gap_counts, insert, old_len_behind, refine, select
from speechnar.errors import ConfigError, ShapeError

PAD, SOS, EOS, OPEN = 0, 1, 2, 9


def batch_of(rows, fill=-5):
    lens = torch.tensor([len(row) for row in rows])
    tokens = torch.full((len(rows), int(lens.max())), fill)
    for place, row in zip(tokens, rows, strict=True):
        place[: len(row)] = torch.tensor(row)
    return tokens, lens


def random_rows(num, seed, longest=8, letters=3):
    rng = random.Random(seed)
    return [[SOS, *(rng.randint(3, 2 + letters) for _ in range(rng.randint(0, longest))), EOS] for _ in range(num)]


def common_length(a, b):
    """Return the length of the longest common subsequence by trying all subsequences of ``a``."""
    for size in range(min(len(a), len(b)), -1, -1):
        for kept in itertools.combinations(a, size):
            rest = iter(b)
            if all(token in rest for token in kept):
                return size
    raise AssertionError


def labels_by_hand(a, b):
    """Walk the table of suffixes of one pair, as the dossier of the method describes it."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(len(a) - 1, -1, -1):
        for j in range(len(b) - 1, -1, -1):
            longest = max(table[i + 1][j], table[i][j + 1])
            table[i][j] = max(longest, 1 + table[i + 1][j + 1]) if a[i] == b[j] else longest
    deleted, missing = [False] * len(a), [False] * len(b)
    i = j = 0
    while i < len(a) or j < len(b):
        if i < len(a) and j < len(b) and a[i] == b[j]:
            i, j = i + 1, j + 1
        elif j == len(b) or (i < len(a) and table[i + 1][j] >= table[i][j + 1]):
            deleted[i] = True
            i += 1
        else:
            missing[j] = True
            j += 1
    return deleted, missing


def test_labels_are_the_shortest_edit_and_rebuild_the_reference():
    hyps, refs = random_rows(120, 0), random_rows(120, 1)
    (hyp, hyp_lens), (ref, ref_lens) = batch_of(hyps), batch_of(refs, fill=-6)
    labels = edit_labels(hyp, hyp_lens, ref, ref_lens)
    for i, (a, b) in enumerate(zip(hyps, refs, strict=True)):
        deleted, missing = labels_by_hand(a, b)
        assert labels.deleted[i].tolist() == deleted + [False] * (hyp.size(1) - len(a))
        assert labels.missing[i].tolist() == missing + [False] * (ref.size(1) - len(b))
        assert len(a) - sum(deleted) == common_length(a, b) == len(b) - sum(missing)
        assert not deleted[0] and not deleted[-1]

    kept, kept_lens = select(hyp, hyp_lens, ~labels.deleted, pad_id=PAD)
    counts = gap_counts(labels.missing, ref_lens)[:, : kept.size(1) - 1]
    opened, opened_lens = insert(kept, kept_lens, counts, placeholder_id=OPEN, pad_id=PAD)
    assert torch.equal(opened_lens, ref_lens)
    inside = torch.arange(ref.size(1)) < ref_lens[:, None]
    assert torch.equal(opened == OPEN, labels.missing)
    assert torch.equal(opened.where(opened != OPEN, ref).where(inside, PAD), ref.where(inside, PAD))


def test_labels_of_equal_and_of_empty_sentences():
    tokens, lens = batch_of([[SOS, 3, 4, EOS], [SOS, EOS, 7, 7]])
    lens[1] = 2
    labels = edit_labels(tokens, lens, tokens, lens)
    assert not labels.deleted.any() and not labels.missing.any()
    with pytest.raises(ShapeError, match="edit labels need"):
        edit_labels(tokens, lens, tokens[:1], lens[:1])


def test_places_are_opened_in_their_gaps():
    tokens, lens = batch_of([[SOS, 3, 4, EOS], [SOS, EOS]])
    counts = torch.tensor([[0, 2, 1], [1, 5, 5]])  # the second sentence has but one gap
    opened, new_lens = insert(tokens, lens, counts, placeholder_id=OPEN, pad_id=PAD)
    assert opened.tolist() == [[SOS, 3, OPEN, OPEN, 4, OPEN, EOS], [SOS, OPEN, EOS, PAD, PAD, PAD, PAD]]
    assert new_lens.tolist() == [7, 3]


def test_the_old_end_moves_with_what_is_opened_before_it_only():
    counts = torch.tensor([[1, 0, 2, 3], [1, 0, 2, 3], [1, 0, 2, 3]])
    assert old_len_behind(counts, torch.tensor([0, 2, 4])).tolist() == [0, 3, 10]


class Scripted:
    """Edits a sentence towards a goal: one token goes, then all that lacks comes, as far as ``reach`` allows."""

    def __init__(self, goals, *, reach=10):
        self.goal, self.goal_lens = batch_of(goals)
        self.reach = reach
        self.old_lens = []

    def deletions(self, tokens, lens, old_lens):
        self.old_lens.append(old_lens.tolist())
        return edit_labels(tokens, lens, self.goal, self.goal_lens).deleted

    def insertions(self, tokens, lens, old_lens):
        labels = edit_labels(tokens, lens, self.goal, self.goal_lens)
        return gap_counts(labels.missing, self.goal_lens)[:, : tokens.size(1) - 1].clamp(max=self.reach)

    def fill(self, tokens, lens):
        out = tokens.clone()
        for row, goal in zip(out, self.goal, strict=True):
            missing = iter([t for t in goal.tolist() if t not in row.tolist()])
            for place in (row == OPEN).nonzero().flatten().tolist():
                row[place] = next(missing)
        return out


def run(editor, rows, **changes):
    tokens, lens = batch_of(rows)
    options = {"max_iterations": 5, "placeholder_id": OPEN, "pad_id": PAD, **changes}
    max_lens = options.pop("max_lens", torch.full_like(lens, 50))
    refined = refine(editor, tokens, lens, max_lens, **options)
    return [row[:n].tolist() for row, n in zip(refined.tokens, refined.lens, strict=True)], refined


def test_refinement_ends_when_nothing_changes():
    goals = [[SOS, 3, 4, 5, EOS], [SOS, 6, EOS], [SOS, EOS]]
    found, refined = run(Scripted(goals), [[SOS, 3, 8, 5, EOS], [SOS, EOS], [SOS, EOS]])
    assert found == goals
    assert refined.iterations == 2
    assert refined.evaluations == 3 + 2  # delete, open, fill; delete, open
    _, nothing = run(Scripted([[SOS, 4, EOS]]), [[SOS, 4, EOS]])
    assert (nothing.iterations, nothing.evaluations) == (1, 2)


def test_iterations_and_lengths_are_bounded():
    goal = [SOS, 3, 4, 5, 6, EOS]
    found, refined = run(Scripted([goal], reach=1), [[SOS, EOS]], max_iterations=2)
    assert refined.iterations == 2 and len(found[0]) < len(goal)
    found, _ = run(Scripted([goal]), [[SOS, EOS]], max_lens=torch.tensor([4]))
    assert len(found[0]) == 4
    with pytest.raises(ConfigError, match="max_iterations"):
        run(Scripted([goal]), [[SOS, EOS]], max_iterations=0)


def test_a_sentence_that_swings_between_two_is_left():
    class Swinging:
        def deletions(self, tokens, lens, old_lens):
            return tokens == 7

        def insertions(self, tokens, lens, old_lens):
            return (torch.arange(tokens.size(1) - 1) == 0) & (lens == 2)[:, None]

        def fill(self, tokens, lens):
            self.last = 15 - getattr(self, "last", 8)  # 7, 8, 7, ...
            return tokens.masked_fill(tokens == OPEN, self.last)

    class Flipping(Swinging):
        def deletions(self, tokens, lens, old_lens):
            return (tokens == 7) | (tokens == 8)

    _, refined = run(Flipping(), [[SOS, 7, EOS]], max_iterations=9)
    assert refined.iterations < 9


def test_the_old_end_is_followed_through_edits():
    goals = [[SOS, 3, 4, 5, 6, EOS]]
    editor = Scripted(goals)
    run(editor, [[SOS, 8, 3, 5, EOS]])
    # 3 old tokens; one goes, one comes between the others: 3 again; 6 is appended behind.
    assert editor.old_lens == [[3], [3]]
