"""A hidden Markov model of sounds: its densities, its states, and what it finds."""

import pytest
import torch

from speechnar.models.tts.monophones import STATES, Monophones, MonophonesConfig, features
from tests.unit.models.sounds import LETTERS


def make_model() -> Monophones:
    return Monophones.from_config(MonophonesConfig(), LETTERS)


def test_a_density_is_that_of_a_mixture_of_normals():
    model = make_model()
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(1, model.num_states, (4000,), generator=generator)
    feats = torch.randn(4000, 3, generator=generator) * 2 + labels[:, None]
    model.init_densities(feats)
    model.fit([(feats, labels)])
    model.split()
    model.fit([(feats, labels)])
    x = feats[:5]
    found = model.score(x)
    assert (found[:, 0] == -torch.inf).all()
    state = 1 + STATES * 3
    components = torch.distributions.Independent(
        torch.distributions.Normal(model.means[state], model.variances[state].sqrt()), 1
    )
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(model.weights[state]), components)
    torch.testing.assert_close(found[:, state], mixture.log_prob(x), atol=1e-3, rtol=1e-4)


def test_sounds_have_two_states_and_silences_one():
    states, owners = make_model().states_of(LETTERS.encode("a b"))
    assert owners.tolist() == [0, 0, 1, 2, 2]
    assert len(set(states.tolist())) == 5


def test_a_repeated_mark_lasts_no_time():
    model, tokens = make_model(), LETTERS.encode("ab")
    tokens = [*tokens[:1], *LETTERS.encode("a b")[1:2] * 3, *tokens[1:]]
    assert model.states_of(tokens)[1].tolist() == [0, 0, 1, 4, 4]
    found = model.durations(torch.randn(16000), tokens)
    assert found[2] == found[3] == 0
    assert min(found[0], found[1], found[4]) > 0
    assert sum(found) == pytest.approx(1.0)


@pytest.mark.parametrize("num_samples", [512, 16000])
def test_features_are_torchaudio_s(num_samples):
    torchaudio = pytest.importorskip("torchaudio", reason="torchaudio is not installed")
    generator = torch.Generator().manual_seed(0)
    wav = torch.randn(num_samples, generator=generator) * torch.linspace(0, 0.3, num_samples)
    sizes = {"n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 40, "f_min": 40.0}
    mfcc = torchaudio.transforms.MFCC(16000, 13, log_mels=True, melkwargs=sizes)
    cepstra = mfcc(wav + 1e-5 * torch.randn(num_samples, generator=torch.Generator().manual_seed(0)))
    cepstra[0] -= cepstra[0].quantile(0.95)
    cepstra[1:] -= cepstra[1:].mean(1, keepdim=True)
    slopes = torchaudio.functional.compute_deltas(cepstra)
    wanted = torch.cat([cepstra, slopes, torchaudio.functional.compute_deltas(slopes)]).T
    torch.testing.assert_close(features(wav), wanted, atol=1e-4, rtol=1e-5)
