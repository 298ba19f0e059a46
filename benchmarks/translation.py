"""How long an update of a growing translation takes, and a whole sentence, over the length of the source.

The one-pass model against re-translation by an autoregressive one (greedy and with a beam, keys and values cached),
wait-k, and the Levenshtein model, in one process. Sources are of Multi30k's test set; of more words than its sentences
have, they are consecutive sentences joined. Without trained models, models of the default size with random weights are
made. They would end nowhere or at once: all are made to write as many tokens for each source token as the references
have. A one-pass model's work depends on the source alone.
"""

import argparse
import gzip
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.result import RESULTS, load_average, write_result
from speechnar.data.download import find_corpus
from speechnar.data.pairs import EOS
from speechnar.errors import ConfigError, DataError, SpeechnarError
from speechnar.hub import resolve_model
from speechnar.models import MODELS
from speechnar.models.base import LoadedModel, load_model
from speechnar.models.mt import translation
from speechnar.models.mt.fretna import Fretna
from speechnar.models.mt.fretna_ctc import FretnaCtc
from speechnar.mt.systems import System, TranslationOptions, build_system
from speechnar.text.tokenizer import SentencePieceTokenizer, Tokenizer

SYSTEMS = {
    "one pass": ("fretna_ctc", TranslationOptions()),
    "ReTA greedy": ("reta", TranslationOptions()),
    "ReTA beam 4": ("reta", TranslationOptions(beam_size=4, token_reward=0.3)),
    "wait-k": ("wait_k", TranslationOptions()),
    "Levenshtein": ("fretna", TranslationOptions()),
}
SIDES = ("one pass", "ReTA greedy")
KINDS = sorted({kind for kind, _ in SYSTEMS.values()})
LENGTHS = (5, 12, 20, 40, 60, 80)
VOCABULARY = 4000
"""Of recipes/multi30k/mt."""
TEST_SET = "test_2016_flickr"


@dataclass(frozen=True)
class Source:
    """A source, as a system reads it."""

    updates: list[list[int]]
    """Its tokens after each word, and once more with its end."""
    joined: bool
    """Whether it is several sentences."""


def main() -> int:
    """Measure all systems at all lengths; exit status 1 without the corpus, or if a model is of no use."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", default="multi30k", help="its folder, or a name in $SPEECHNAR_CORPORA")
    parser.add_argument(
        "--models", nargs="+", default=[], help=f"trained ones, of kinds {', '.join(KINDS)}; default: random weights"
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, metavar="WORDS", help="of sources")
    parser.add_argument("--sources", type=int, default=3, help="of each length (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="tiny models, and one run of one source of each length")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    runs, num_sources = (1, 1) if args.quick else (args.runs, args.sources)
    try:
        folder = find_corpus(args.corpus)
        english, german = (read_lines(folder / f"{TEST_SET}.{lang}.gz") for lang in ("en", "de"))
        models = load_models(args.models) if args.models else random_models(folder, quick=args.quick)
        tokenizer = models["fretna_ctc"].tokenizer
        sources = {words: sources_of(english, words, num_sources, tokenizer) for words in sorted(args.lengths)}
    except SpeechnarError as error:
        print(error)
        return 1
    ratio = sum(map(len, map(tokenizer.encode, german))) / sum(len(tokenizer.encode(text)) + 1 for text in english)
    load = load_average()
    with as_long_as(ratio, [] if args.models else list(models.values())):
        systems = {name: build_system(models[kind], options) for name, (kind, options) in SYSTEMS.items()}
        cases = [case for words in sources for case in time_systems(systems, words, sources[words], runs)]
    whole = [words for words in sources if not sources[words][0].joined] or [min(sources)]
    a, b = (next(case for case in cases if case["words"] == whole[-1] and case["label"] == name) for name in SIDES)
    sizes = ", ".join(f"{kind} {size_of(loaded):.1f} M" for kind, loaded in models.items())
    given = ", ".join(sorted({loaded.name for loaded in models.values()}))
    lengths = f"all write {ratio:.2f} target tokens for each source token, as the references have"
    joined = [str(words) for words in sources if sources[words][0].joined]
    write_result(
        "translation" if args.models else "translation_random",
        what=f"text translation: seconds for all updates of a source that grows to {whole[-1]} words (median_s)",
        threads=args.threads,
        runs=runs,
        load_before=load,
        a={**a, "cases": cases},
        b=b,
        result="; ".join(shown([case for case in cases if case["words"] == words]) for words in sources),
        note=f"{f'models {given}' if args.models else f'random weights, {lengths}'}; weights: {sizes}; Multi30k, "
        f"{num_sources} {'source' if num_sources == 1 else 'sources'} of each length"
        + (f", of {' and '.join(joined)} words joined of several sentences" if joined else ""),
        folder=args.output,
    )
    return 0


def read_lines(path: Path) -> list[str]:
    """Return the lines of a compressed file, with single spaces.

    Raises:
        DataError: there is no such file.
    """
    try:
        text = gzip.decompress(path.read_bytes()).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: must be text, compressed by gzip ({error})") from None
    return [" ".join(line.split()) for line in text.split("\n") if line.strip()]


def load_models(names: Sequence[str]) -> dict[str, LoadedModel]:
    """Return trained models by kind.

    Raises:
        ConfigError: they are not one of each kind.
        ModelNotFoundError, CheckpointError: one cannot be loaded.
    """
    kinds = {entry.model_cls: kind for kind, entry in MODELS.items()}
    loaded = [load_model(resolve_model(name)) for name in names]
    models = {kinds.get(type(model.model), ""): model for model in loaded}
    if sorted(models) != KINDS or len(loaded) > len(models):
        raise ConfigError(f"need one trained model of each kind of {', '.join(KINDS)}, got {', '.join(sorted(models))}")
    return models


def random_models(folder: Path, *, quick: bool) -> dict[str, LoadedModel]:
    """Return models with random weights by kind, with the recipe's tokenizer; quick ones are tiny."""
    stem, vocab_size = (TEST_SET, 500) if quick else ("train", VOCABULARY)
    texts = [line for lang in ("en", "de") for line in read_lines(folder / f"{stem}.{lang}.gz")]
    tokenizer = SentencePieceTokenizer.train(texts, vocab_size, (), "bpe")
    models = {}
    for kind in KINDS:
        torch.manual_seed(0)
        config_cls: Any = MODELS[kind].config_cls
        config = config_cls.debug() if quick else config_cls()
        model = MODELS[kind].model_cls.from_config(config, tokenizer).eval()
        models[kind] = LoadedModel(model, tokenizer, config, "random")
    return models


@contextmanager
def as_long_as(ratio: float, models: Sequence[LoadedModel]) -> Iterator[None]:
    """Let models with random weights write ``ratio`` tokens for each source token, by way of the limit of all models.

    Autoregressive ones never end before it. Levenshtein models delete nothing, and open as many places as there may be.
    """
    for loaded in models:
        model: Any = loaded.model
        model.config = model.config.model_copy(update={"max_len_ratio": ratio})
        with torch.no_grad():
            if isinstance(model, Fretna):
                model.delete.bias[1] = -1e4
                model.insert.bias[-1] = 1e4
            elif not isinstance(model, FretnaCtc):
                model.head.decoder.output.bias[model.head.eos_id] = -torch.inf
    # Ten tokens, which are always allowed, would be too many for the first words.
    with patch.object(translation, "MIN_MAX_LEN", 1 if models else translation.MIN_MAX_LEN):
        yield


def sources_of(texts: Sequence[str], num_words: int, num: int, tokenizer: Tokenizer) -> list[Source]:
    """Return up to ``num`` sources of just ``num_words``: sentences, or if none is so long, consecutive ones joined.

    Raises:
        DataError: there are no such sentences.
    """
    lines = [text.split() for text in texts]
    found = [line for line in lines if len(line) == num_words]
    joined = not found
    for first in range(len(lines) if joined else 0):
        words: list[str] = []
        for line in lines[first:]:
            words = words + line
            if len(words) >= num_words:
                break
        if len(words) == num_words:
            found.append(words)
    if not found:
        raise DataError(f"no sentences of the test set have together {num_words} words")
    return [Source(updates_of(words, tokenizer), joined) for words in found[:: max(len(found) // num, 1)][:num]]


def updates_of(words: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Return the tokens of a source after each of its words, and at its end."""
    tokens = [tokenizer.encode(" ".join(words[:num])) for num in range(1, len(words) + 1)]
    return [*tokens, [*tokens[-1], tokenizer.id_of(EOS)]]


@dataclass(frozen=True)
class Played:
    """What a system did with a source."""

    seconds: list[float]
    """Of each update."""
    evaluations: int
    num_tokens: int
    """Of the translation."""


def play(system: System, updates: Sequence[list[int]]) -> Played:
    """Let a system translate a source whenever it has grown."""
    translating = system()
    seconds, said = [], []
    for number, tokens in enumerate(updates, start=1):
        started = time.perf_counter()
        said = translating.update(tokens, is_final=number == len(updates))
        seconds.append(time.perf_counter() - started)
    return Played(seconds, translating.evaluations, len(said))


def time_systems(
    systems: dict[str, System], num_words: int, sources: Sequence[Source], runs: int
) -> list[dict[str, Any]]:
    """Time all systems in turn, after one run that does not count; return a case for each of them."""
    growing: dict[str, list[Played]] = {name: [] for name in systems}
    whole: dict[str, list[Played]] = {name: [] for name in systems}
    for run in range(runs + 1):
        for source in sources:
            for name, system in systems.items():
                played = play(system, source.updates), play(system, source.updates[-1:])
                if run:
                    growing[name].append(played[0])
                    whole[name].append(played[1])
    cases = []
    for name in systems:
        totals = [sum(played.seconds) for played in growing[name]]
        updates = [seconds for played in growing[name] for seconds in played.seconds]
        cases.append(
            {
                "label": name,
                "words": num_words,
                "joined": sources[0].joined,
                "source_tokens": round(statistics.mean(len(source.updates[-1]) for source in sources), 1),
                "target_tokens": round(statistics.mean(played.num_tokens for played in growing[name]), 1),
                "median_s": round(statistics.median(totals), 5),
                "update_s": round(statistics.median(updates), 6),
                "update_max_s": round(max(updates), 6),
                "whole_s": round(statistics.median(played.seconds[0] for played in whole[name]), 6),
                "evaluations": round(statistics.mean(played.evaluations for played in growing[name]), 1),
                "whole_evaluations": round(statistics.mean(played.evaluations for played in whole[name]), 1),
            }
        )
    one_pass = cases[0]
    for case in cases:
        case["times_one_pass"] = round(case["median_s"] / one_pass["median_s"], 2)
        case["whole_times_one_pass"] = round(case["whole_s"] / one_pass["whole_s"], 2)
    return cases


def size_of(loaded: LoadedModel) -> float:
    """Return millions of parameters."""
    return sum(parameter.numel() for parameter in loaded.model.parameters()) / 1e6


def shown(cases: Sequence[dict[str, Any]]) -> str:
    """Return the numbers of one length for a table."""
    one_pass, *others = cases
    ratios = ", ".join(
        f"{case['label']} {case['times_one_pass']:.1f} ({case['whole_times_one_pass']:.1f})" for case in others
    )
    return (
        f"{one_pass['words']} words: one pass {1000 * one_pass['update_s']:.1f} ms an update; times as long for all "
        f"updates (for the whole at once): {ratios}"
    )


if __name__ == "__main__":
    sys.exit(main())
