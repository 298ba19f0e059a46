from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from speechnar.config import parse_config
from speechnar.data.dataset import DataConfig, SpeechDataset, read_utterance
from speechnar.errors import AudioError, ConfigError, DataError
from speechnar.text.tokenizer import CharTokenizer, task_specials
from tests.unit.data.corpus import LANGUAGES, RATE, make_utterances

LETTERS = "abcdefghijklmnopqrstuvwxyz▁"


@pytest.fixture(scope="module")
def utterances(tmp_path_factory):
    return make_utterances(tmp_path_factory.mktemp("audio"), count=48)


@pytest.fixture(scope="module")
def tokenizer():
    return CharTokenizer(("<blank>", "<unk>", *task_specials(LANGUAGES, LANGUAGES), *LETTERS))


@pytest.fixture
def make(utterances, tokenizer):
    def build(training=True, seed=0, tokenizer=tokenizer, utterances=utterances, **changes):
        values = {"train": "train", "dev": "dev", "batch_seconds": 3.0, "num_buckets": 4, **changes}
        return SpeechDataset(utterances, tokenizer, parse_config(values, DataConfig), training=training, seed=seed)

    return build


def equal(one, two):
    tensors = ("wav", "tokens", "asr_tokens", "prefix", "prompt")
    return one.utt_ids == two.utt_ids and all(torch.equal(getattr(one, n), getattr(two, n)) for n in tensors)


@pytest.mark.parametrize("training", [True, False])
def test_every_utterance_comes_once_an_epoch(make, utterances, training):
    data = make(training=training)
    for epoch in range(3):
        seen = Counter(utt_id for batch in data.batches(epoch) for utt_id in batch.utt_ids)
        assert seen == Counter(utterance.utt_id for utterance in utterances)


def test_a_language_repeated_comes_so_often_varied_each_time_and_resumes(make, utterances):
    options = {"repeat": {"fra": 3}, "noise_prob": 1.0}
    times = Counter({u.utt_id: 3 if u.lang == "fra" else 1 for u in utterances})
    assert set(times.values()) == {1, 3}
    whole = list(make(**options).batches(1))
    assert Counter(utt_id for batch in whole for utt_id in batch.utt_ids) == times
    wavs: dict[str, set[float]] = {}
    for batch in whole:
        for utt_id, wav in zip(batch.utt_ids, batch.wav, strict=True):
            wavs.setdefault(utt_id, set()).add(float(wav.abs().sum()))
    assert {utt_id: len(found) for utt_id, found in wavs.items()} == times
    resumed = make(**options)
    resumed.load_state_dict({"epoch": 1, "batch": 3})
    assert all(equal(one, two) for one, two in zip(resumed.batches(1), whole[3:], strict=True))
    assert {n for batch in make(training=False, **options).batches(0) for n in Counter(batch.utt_ids).values()} == {1}
    with pytest.raises(DataError, match=r"data.repeat names spa"):
        make(repeat={"spa": 2})


def test_batches_name_the_speakers(make, utterances):
    speakers = {utterance.utt_id: utterance.spk_id for utterance in utterances}
    for batch in make().batches(0):
        assert batch.speakers == tuple(speakers[utt_id] for utt_id in batch.utt_ids)


def test_batches_hold_at_most_batch_seconds(make):
    for batch in make(batch_seconds=4.0).batches(0):
        assert batch.wav.numel() / RATE <= 4.0 * 1.01


def test_same_seed_same_batches_and_other_epochs_differ(make):
    options = {"noise_prob": 0.5, "edge_silence_s": 0.1}
    first, again, other = (list(make(seed=seed, **options).batches(epoch)) for seed, epoch in ((1, 2), (1, 2), (1, 3)))
    assert all(equal(one, two) for one, two in zip(first, again, strict=True))
    assert [batch.utt_ids for batch in first] != [batch.utt_ids for batch in other]


def test_resumes_with_the_very_next_batch(make):
    options = {"noise_prob": 0.5, "edge_silence_s": 0.1}
    whole = list(make(**options).batches(1))
    interrupted = make(**options)
    list(interrupted.batches(0))
    iterator = interrupted.batches(1)
    done = [next(iterator) for _ in range(3)]
    state = interrupted.state_dict()
    resumed = make(**options)
    resumed.load_state_dict(state)
    rest = list(resumed.batches(1))
    assert len(done) + len(rest) == len(whole) > 4
    assert all(equal(one, two) for one, two in zip([*done, *rest], whole, strict=True))
    assert len(list(resumed.batches(2))) > 3


def test_position_behind_the_last_batch_leaves_nothing(make):
    data = make()
    list(data.batches(0))
    resumed = make()
    resumed.load_state_dict(data.state_dict())
    assert list(resumed.batches(0)) == []


def test_validation_is_the_audio_as_it_is(make, utterances, tokenizer):
    by_id = {utterance.utt_id: utterance for utterance in utterances}
    for batch in make(training=False, noise_prob=1.0, edge_silence_s=1.0).batches(0):
        for row, utt_id in enumerate(batch.utt_ids):
            wav = read_utterance(by_id[utt_id], RATE)
            np.testing.assert_allclose(batch.wav[row, : batch.wav_lens[row]], wav, atol=1 / 32768)
            assert tokenizer.decode(batch.tokens[row, : batch.token_lens[row]].tolist()) == by_id[utt_id].text
            assert batch.prefix[row].tolist() == [tokenizer.id_of(f"<{by_id[utt_id].lang}>"), tokenizer.id_of("<asr>")]
            assert batch.prompt[row].tolist() == [tokenizer.id_of("<na>")]


def test_speed_changes_length_and_gain_changes_level(make, utterances):
    plain = {"speed_factors": [2.0], "gain_db": [0, 0]}
    by_id = {utterance.utt_id: utterance for utterance in utterances}
    for batch in make(**plain).batches(0):
        expected = [by_id[utt_id].duration_s * RATE / 2 for utt_id in batch.utt_ids]
        np.testing.assert_allclose(batch.wav_lens, expected, atol=2)
    for batch in make(speed_factors=[1.0], gain_db=[6.0206, 6.0206]).batches(0):
        np.testing.assert_allclose(batch.wav.abs().amax(dim=1), 0.2, atol=2e-3)  # the tones are 0.1 high


def test_silence_stands_at_the_edges(make):
    data = make(speed_factors=[1.0], gain_db=[0, 0], edge_silence_s=0.5)
    longer = 0
    for batch in data.batches(0):
        for row, length in zip(batch.wav, batch.wav_lens, strict=True):
            heard = row[:length].abs() > 0.01
            longer += int(heard.nonzero()[0] > 100) + int(length - heard.nonzero()[-1] > 100)
    assert longer > 60  # of 96 edges


def test_durations_follow_speed_and_silence(make, utterances):
    timed = [replace(u, durations=(0.1, *[0.0] * (len(u.text) - 2), u.duration_s - 0.1)) for u in utterances]
    timed[0] = replace(timed[0], durations=None)
    data = make(utterances=timed, speed_factors=[0.8], edge_silence_s=0.2)
    assert data.dropped == {"no durations of tokens, which others have": 1}
    first = []
    for batch in data.batches(0):
        np.testing.assert_allclose(batch.durations.sum(1), batch.wav_lens / RATE, atol=2e-3)
        assert batch.durations.shape == (len(batch.wav), int(batch.token_lens.max()))
        first += batch.durations[:, 2].tolist()
    assert min(first) == pytest.approx(0.125, abs=0.03)  # the token that lasts 0.1 s at a speed of 0.8
    assert max(first) == pytest.approx(0.325, abs=0.03)
    for batch in make(utterances=timed, training=False).batches(0):
        assert (batch.durations[:, 2] == torch.tensor(0.1)).all()


def shares(data, epochs, tokenizer):
    prefixes = torch.cat([batch.prefix for epoch in range(epochs) for batch in data.batches(epoch)])
    asr = (prefixes[:, 1] == tokenizer.id_of("<asr>")).float().mean()
    hidden = (prefixes[:, 0] == tokenizer.id_of("<nolang>")).float().mean()
    return float(asr), float(hidden)


def test_tasks_and_hidden_languages_have_their_shares(make, tokenizer):
    asr, hidden = shares(make(asr_prob=0.5, nolang_prob=0.25, speed_factors=[1.0]), 20, tokenizer)
    # A quarter of the utterances has no translation and is always recognised.
    assert asr == pytest.approx(0.25 + 0.75 * 0.5, abs=0.06)
    assert hidden == pytest.approx(0.25, abs=0.05)
    assert shares(make(asr_prob=1.0, nolang_prob=0.0), 2, tokenizer) == (1.0, 0.0)


def test_previous_text_becomes_the_prompt_where_there_is_one(make, utterances, tokenizer):
    has_previous = {utterance.utt_id for utterance in utterances if utterance.prev_text}
    for batch in make(prompt_prob=1.0).batches(0):
        for row, utt_id in enumerate(batch.utt_ids):
            ids = batch.prompt[row, : batch.prompt_lens[row]].tolist()
            assert ids == (tokenizer.encode("seven six") if utt_id in has_previous else [tokenizer.id_of("<na>")])


def test_translations_are_those_of_the_language_asked_for(make, utterances, tokenizer):
    by_id = {utterance.utt_id: utterance for utterance in utterances}
    for batch in make(asr_prob=0.0).batches(0):
        for row, utt_id in enumerate(batch.utt_ids):
            task = tokenizer.piece_of(int(batch.prefix[row, 1]))
            translations = {f"<st_{lang}>": text for lang, text in by_id[utt_id].translations.items()}
            expected = translations.get(task, by_id[utt_id].text)
            assert (task == "<asr>") == (not translations)
            assert tokenizer.decode(batch.tokens[row, : batch.token_lens[row]].tolist()) == expected


def test_drops_are_counted_by_reason(make, utterances):
    odd = [
        *utterances,
        replace(utterances[0], utt_id="short", duration_s=0.01),
        replace(utterances[0], utt_id="long", duration_s=100.0),
        replace(utterances[0], utt_id="foreign", lang="rus"),
        replace(utterances[0], utt_id="empty", text="<na>", translations={}),
    ]
    data = make(utterances=odd)
    assert len(data) == len(utterances)
    assert sorted(data.dropped.values()) == [1, 1, 1, 1]
    with pytest.raises(DataError, match="none of 1"):
        make(utterances=odd[-1:])
    with pytest.raises(DataError, match="repeated"):
        make(utterances=[*utterances, utterances[0]])


def test_unreadable_audio_is_skipped_in_training_only(make, utterances, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF and nothing else")
    broken = [replace(utterances[0], utt_id="broken", wav_path=tmp_path / "broken.wav"), *utterances]
    data = make(utterances=broken)
    for epoch in range(2):
        seen = [utt_id for batch in data.batches(epoch) for utt_id in batch.utt_ids]
        assert len(seen) == len(utterances)
    assert data.dropped == {"unreadable audio": 1}
    with pytest.raises(AudioError):
        list(make(utterances=broken, training=False).batches(0))
    with pytest.raises(AudioError):
        list(make(utterances=broken[:1]).batches(0))


def test_without_a_cache_the_samples_are_the_same(make):
    kept, fresh = make(), make(cache_bytes=0)
    list(kept.batches(0))
    assert all(equal(one, two) for one, two in zip(kept.batches(1), fresh.batches(1), strict=True))


def test_one_utterance_is_enough(make, utterances):
    assert [batch.utt_ids for batch in make(utterances=utterances[:1]).batches(0)] == [(utterances[0].utt_id,)]


@pytest.mark.parametrize(
    "values",
    [{"asr_prob": 1.5}, {"noise_snr_db": [20, 10]}, {"speed_factors": []}, {"speed_factors": [0.0]}, {"shuffle": True}],
)
def test_config_refuses_nonsense(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        parse_config({"train": "a", "dev": "b", **values}, DataConfig)
