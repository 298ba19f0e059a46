from dataclasses import replace

import pytest
import torch

from speechnar.data.latents import LatentBatch, aligned_positions, linear_positions
from speechnar.errors import DataError


def test_latents_pass_through_the_text_evenly():
    positions = linear_positions(torch.tensor([10, 3]), torch.tensor([20, 4]))
    assert positions.shape == (2, 20)
    assert float(positions[0, 7]) == 3.5
    assert positions[1, :4].tolist() == [0.0, 0.75, 1.5, 2.25]


def test_latents_stand_within_the_token_they_are_spoken_in():
    positions = aligned_positions(torch.tensor([[2, 0, 3]]), torch.tensor([3]), torch.tensor([5]))
    torch.testing.assert_close(positions, torch.tensor([[0.25, 0.75, 2 + 1 / 6, 2.5, 2 + 5 / 6]]))


def test_tokens_of_even_length_give_the_even_positions_of_the_centres():
    token_lens, latent_lens = torch.tensor([4]), torch.tensor([10])
    aligned = aligned_positions(torch.ones(1, 4), token_lens, latent_lens)
    torch.testing.assert_close(aligned, linear_positions(token_lens, latent_lens) + 0.5 * 4 / 10)


def test_durations_are_scaled_to_the_utterance():
    token_lens, latent_lens = torch.tensor([3]), torch.tensor([7])
    seconds = torch.tensor([[0.1, 0.35, 0.2]])
    of_seconds = aligned_positions(seconds, token_lens, latent_lens)
    torch.testing.assert_close(of_seconds, aligned_positions(seconds * 8.1, token_lens, latent_lens))
    assert (of_seconds.diff() > 0).all()
    assert of_seconds[0, 0] > 0
    assert of_seconds[0, -1] < 3


def test_padding_of_durations_does_not_matter():
    durations = torch.tensor([[1.0, 2.0, torch.nan, 5.0], [1.0, 1.0, 3.0, 2.0]])
    token_lens, latent_lens = torch.tensor([2, 4]), torch.tensor([6, 9])
    batch = aligned_positions(durations, token_lens, latent_lens)
    for i, (num_tokens, num_latents) in enumerate([(2, 6), (4, 9)]):
        alone = aligned_positions(durations[i : i + 1, :num_tokens], token_lens[i : i + 1], latent_lens[i : i + 1])
        torch.testing.assert_close(batch[i, :num_latents], alone[0])


@pytest.mark.parametrize("durations", [[0.0, 0.0], [2.0, -1.0], [torch.nan, 1.0], [torch.inf, 1.0]])
def test_impossible_durations_are_refused(durations):
    with pytest.raises(DataError, match="durations must be finite and at least 0"):
        aligned_positions(torch.tensor([durations]), torch.tensor([2]), torch.tensor([3]))


def test_a_batch_moves_as_a_whole():
    lens = torch.tensor([2])
    batch = LatentBatch(
        tokens=torch.zeros(1, 2, dtype=torch.int64),
        token_lens=lens,
        latents=torch.zeros(1, 2, 3),
        latent_lens=lens,
        positions=linear_positions(lens, lens),
    )
    assert batch.to("meta").weights is None
    batch = replace(batch, weights=torch.ones(3))
    moved = batch.to("meta")
    assert all(getattr(moved, name).is_meta for name in vars(batch))
