import pytest
import torch

from speechnar.decode.retranslation import Previous
from speechnar.errors import ConfigError, DataError
from speechnar.models.mt.fretna import EditBias, Fretna, FretnaConfig
from speechnar.models.mt.fretna_ctc import FretnaCtc, FretnaCtcConfig
from speechnar.models.mt.reta import Reta, RetaConfig
from speechnar.models.mt.wait_k import WaitK, WaitKConfig
from speechnar.mt.stream import MAX_SOURCE_TOKENS, TranslationStream
from speechnar.mt.systems import Editing, OnePass, Retranslating, Verifying, Waiting
from tests.unit.models.texts import TOKENIZER

WORDS = ["abc", "d", "ab", "cd", "a", "bcd"]
EOS = TOKENIZER.id_of("<eos>")


def make(model_cls, config_cls):
    torch.manual_seed(0)
    model = model_cls.from_config(config_cls.debug(), TOKENIZER).eval()
    with torch.no_grad():  # so that random models say much, and change their minds
        for parameter in model.parameters():
            parameter.mul_(1.6)
    return model


RETA, FRETNA = make(Reta, RetaConfig), make(Fretna, FretnaConfig)
CTC, WAIT_K = make(FretnaCtc, FretnaCtcConfig), make(WaitK, WaitKConfig)
with torch.no_grad():
    FRETNA.insert.bias[1] += 3.0
SYSTEMS = {
    "greedy": lambda: Retranslating(RETA),
    "beam": lambda: Retranslating(RETA, beam_size=3, token_reward=0.2),
    "biased": lambda: Retranslating(RETA, bias=0.5),
    "verified": lambda: Verifying(RETA),
    "drafted": lambda: Verifying(RETA, drafter=CTC),
    "self_speculative": lambda: Verifying(RETA, bias=0.5),
    "edited": lambda: Editing(FRETNA, bias=EditBias(delete=1.0)),
    "forgetful": lambda: Editing(FRETNA, forget=2),
    "named": lambda: OnePass(CTC, bias=1.0),
    "wait_k": lambda: Waiting(WAIT_K, TOKENIZER, delay=2),
}


def play(system, words=WORDS, **options):
    stream = TranslationStream(system, TOKENIZER, **options)
    updates = [stream.push(word) for word in words]
    return stream, [*updates, stream.finish()]


@pytest.mark.parametrize("name", SYSTEMS)
def test_what_is_shown_is_what_is_logged(name):
    stream, updates = play(SYSTEMS[name])
    log = stream.log()
    assert [update.num_read for update in log.updates] == [1, 2, 3, 4, 5, 6, 6]
    assert [" ".join(update.shown) for update in log.updates] == [update.text for update in updates]
    assert [update.seconds for update in log.updates] == [update.seconds for update in updates]
    assert log.final and stream.evaluations > 0
    shown = ()
    for update, logged in zip(updates, log.updates, strict=True):
        stable = tuple(update.stable.split())
        assert stable == shown[: len(stable)] == logged.shown[: len(stable)]
        assert update.erased == len(shown) - len(stable)
        shown = logged.shown
    assert stream.finish().text == updates[-1].text


def said(system, words, *, is_final):
    tokens = TOKENIZER.encode(" ".join(words)) + [EOS] * is_final
    return system().update(tokens, is_final=is_final)


def test_what_is_forgotten_is_written_anew():
    words = [WORDS[: count + 1] for count in range(len(WORDS))]

    def all_said(forget: int) -> list[list[int]]:
        system = Editing(FRETNA, forget=forget)
        return [system.update(TOKENIZER.encode(" ".join(some)), is_final=False) for some in words]

    anew = [Editing(FRETNA).update(TOKENIZER.encode(" ".join(some)), is_final=False) for some in words]
    assert all_said(1000) == anew != all_said(0)
    with pytest.raises(ConfigError, match="forget must be at least 0"):
        Editing(FRETNA, forget=-1)


def test_systems_say_what_their_models_say():
    tokens = torch.tensor([[*TOKENIZER.encode(" ".join(WORDS)), EOS]])
    lens = torch.tensor([tokens.size(1)])
    assert [said(SYSTEMS["greedy"], WORDS, is_final=True)] == RETA.decode(tokens, lens)
    assert [said(SYSTEMS["beam"], WORDS, is_final=True)] == RETA.decode(tokens, lens, beam_size=3, token_reward=0.2)
    assert [said(SYSTEMS["named"], WORDS, is_final=True)] == CTC.merge(CTC.name_slots(tokens, lens))
    assert [said(SYSTEMS["wait_k"], WORDS, is_final=True)] == WAIT_K.decode(tokens, lens, delay=2)


def test_a_biased_system_leans_to_what_it_said():
    system = SYSTEMS["biased"]()
    first = system.update(TOKENIZER.encode("abc"), is_final=False)
    src = torch.tensor([TOKENIZER.encode("abc d")])
    previous = Previous(tokens=torch.tensor([first]), lens=torch.tensor([len(first)]), bias=0.5)
    expected = RETA.decode(src, torch.tensor([src.size(1)]), previous=previous)
    assert [system.update(src[0].tolist(), is_final=False)] == expected


def test_verified_texts_are_the_greedy_ones_in_fewer_evaluations():
    greedy, expected = play(SYSTEMS["greedy"])
    for name in ("verified", "drafted"):
        stream, updates = play(SYSTEMS[name])
        assert [update.text for update in updates] == [update.text for update in expected]
        assert stream.evaluations < greedy.evaluations


def test_wait_k_takes_nothing_back_and_shows_whole_words_only():
    _, updates = play(SYSTEMS["wait_k"])
    assert not any(update.erased for update in updates)
    final = updates[-1].text.split()
    for update in updates:
        assert update.text.split() == final[: len(update.text.split())]


def test_the_last_words_are_hidden_until_the_end():
    _, plain = play(SYSTEMS["greedy"])
    _, hidden = play(SYSTEMS["greedy"], num_masked=2)
    for a, b in zip(plain[:-1], hidden[:-1], strict=True):
        assert b.text.split() == a.text.split()[:-2]
    assert hidden[-1].text == plain[-1].text
    assert sum(update.erased for update in hidden) <= sum(update.erased for update in plain)
    with pytest.raises(ConfigError, match="num_masked"):
        TranslationStream(SYSTEMS["greedy"], TOKENIZER, num_masked=-1)


def test_the_last_words_may_come_with_the_end():
    stream, updates = play(SYSTEMS["greedy"])
    stream.start()
    assert stream.finish(" ".join(WORDS)).text == updates[-1].text
    assert len(stream.log().updates) == 1 and stream.finish("more").text == updates[-1].text


def test_a_stream_begins_anew():
    stream, first = play(SYSTEMS["edited"])
    stream.start()
    again = [stream.push(word) for word in WORDS]
    assert [update.text for update in [*again, stream.finish()]] == [update.text for update in first]


@pytest.mark.parametrize("name", SYSTEMS)
def test_odd_sources_do_no_harm(name):
    stream = TranslationStream(SYSTEMS[name], TOKENIZER)
    assert stream.finish().text == "" and stream.finish().num_read == 0
    with pytest.raises(DataError):
        stream.log()
    # A word of control characters alone is none.
    for odd, num_words in (("привет 你好 \u200b\u0007", 2), ("\x00\x1b[31m", 1), ("a" * 60, 1)):
        stream.start()
        stream.push("  \n\t ")
        stream.push(odd)
        stream.push("ab c")  # two words at once
        assert stream.finish().num_read == num_words + 2
        stream.log()


def test_sources_end_and_have_a_length():
    stream = TranslationStream(SYSTEMS["greedy"], TOKENIZER)
    with pytest.raises(ConfigError, match="up to 400 tokens, got 19999; finish it"):
        stream.push("a " * 10_000)
    assert MAX_SOURCE_TOKENS == 400
    stream.push("a")
    stream.finish()
    with pytest.raises(ConfigError, match="takes no more words"):
        stream.push("b")
