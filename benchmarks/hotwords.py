"""What a list of hotwords does on held-out prompts: recall of the words listed, and the text of everything else.

Listed are, for each language, the words of the test set that never occur in the training text: the names and rare words
that a user would list. Every prompt is decoded with the whole list of its language, so all words but its own are
distractors. The baseline is the same beam search without the list.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.memory import TEST_SET
from benchmarks.result import RESULTS, load_average, write_result
from speechnar import DecodeOptions, SpeechnarError, Transcriber, Transcript
from speechnar.asr.options import DEFAULT_HOTWORD_WEIGHT
from speechnar.data.kaldi import Utterance, read_kaldi_dir
from speechnar.metrics.error_rate import wer

WORD = re.compile(r"[^\W\d_]+")
BEAM_SIZE = 16
"""Of CTC's search; a Paraformer has none."""
WEIGHTS = {"ctc": [0.5, DEFAULT_HOTWORD_WEIGHT, 1.5, 2.0], "paraformer": [0.5, DEFAULT_HOTWORD_WEIGHT]}
"""Nats for each token in CTC's search, the share of the bias decoder in a Paraformer."""


@dataclass(frozen=True)
class Found:
    """How often the listed words were said and written."""

    said: int
    """Occurrences in the references."""
    right: int
    """Of these, written in the same utterance."""
    written: int
    """Occurrences in the hypotheses, wrong ones included."""
    wer: float
    """Over all utterances, in percent."""

    @property
    def recall(self) -> float:
        """Return the share of the occurrences said that were written, in percent."""
        return 100 * self.right / max(self.said, 1)

    def values(self) -> dict[str, Any]:
        """Return what the result file holds."""
        return {**asdict(self), "wer": round(self.wer, 2), "recall": round(self.recall, 1)}


def main() -> int:
    """Decode the test set without the list, and with it at every weight, in batches, with word times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="name or folder; default: the package's")
    parser.add_argument("--decoder", choices=WEIGHTS, default="ctc", help="paraformer: of a model that learnt hotwords")
    parser.add_argument("--weights", type=float, nargs="+", help="of hotwords; default: around what is the decoder's")
    parser.add_argument("--data", type=Path, default=TEST_SET, help="Kaldi data directory")
    parser.add_argument("--train", type=Path, help="its training set; default: train beside it")
    parser.add_argument("--min_letters", type=int, default=4, help="of a listed word")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    load = load_average()
    transcriber = Transcriber.load(*([args.model] if args.model else []), device="cpu")
    try:
        tests = read_kaldi_dir(args.data)
        trained = read_kaldi_dir(args.train or args.data.with_name("train"))
    except SpeechnarError as error:
        print(f"{error}; make the data by recipes/asterisk/s2t/run.sh --stop_stage 1, or name them by --data")
        return 1
    lists = rare_words(tests, trained, args.min_letters)
    plain = DecodeOptions(decoder=args.decoder, beam_size=BEAM_SIZE if args.decoder == "ctc" else None)
    before = decode(transcriber, tests, {lang: plain for lang in lists})
    without = [u.utt_id for u in tests if u.lang in lists and not set(WORD.findall(u.text)) & set(lists[u.lang])]
    b, cases = count(tests, before, lists), []
    for weight in args.weights or WEIGHTS[args.decoder]:
        listed = {lang: replace(plain, hotwords=tuple(words), hotword_weight=weight) for lang, words in lists.items()}
        after = decode(transcriber, tests, listed)
        unchanged = sum(before[key].text == after[key].text for key in without)
        cases.append({"weight": weight, "unchanged": unchanged, **count(tests, after, lists).values()})
    a = next((case for case in cases if case["weight"] == DEFAULT_HOTWORD_WEIGHT), cases[0])
    write_result(
        f"hotwords_{args.decoder}",
        what=f"{sum(map(len, lists.values()))} words of the test set that the training text lacks, listed by language; "
        f"{len(before)} held-out prompts with {b.said} occurrences",
        threads=args.threads,
        runs=1,
        load_before=load,
        a={"label": "with the list", "median_s": 0.0, **a, "cases": cases},
        b={"label": "without", "median_s": 0.0, **b.values()},
        result=f"weight {a['weight']:g}: recall {b.recall:.1f} % without, {a['recall']:.1f} % with the list; "
        f"wrongly written {b.written - b.right} and {a['written'] - a['right']} times; WER {b.wer:.1f} % and "
        f"{a['wer']:.1f} %; {a['unchanged']} of {len(without)} texts without a listed word unchanged",
        note=f"{args.decoder}, beam {plain.beam_size or 1}, language told, word times on; lists of "
        f"{', '.join(f'{len(words)} {lang}' for lang, words in lists.items())}",
        folder=args.output,
    )
    return 0


def rare_words(tests: Sequence[Utterance], trained: Sequence[Utterance], min_letters: int) -> dict[str, list[str]]:
    """Return, for each language, the words of ``tests`` that ``trained`` lacks, in order of the alphabet."""
    known: dict[str, set[str]] = {}
    for utterance in trained:
        known.setdefault(utterance.lang or "", set()).update(WORD.findall(utterance.text))
    found: dict[str, set[str]] = {}
    for utterance in tests:
        lang = utterance.lang or ""
        words = {word for word in WORD.findall(utterance.text) if len(word) >= min_letters}
        found.setdefault(lang, set()).update(words - known.get(lang, set()))
    return {lang: sorted(words) for lang, words in sorted(found.items())}


def decode(
    transcriber: Transcriber, tests: Sequence[Utterance], options: Mapping[str, DecodeOptions]
) -> dict[str, Transcript]:
    """Return the transcript of every utterance, decoded with the options of its language, which is told."""
    found: dict[str, Transcript] = {}
    for lang, chosen in options.items():
        some = [utterance for utterance in tests if utterance.lang == lang]
        paths = [utterance.wav_path for utterance in some]
        results = transcriber.transcribe(paths, language=lang, word_timestamps=True, options=chosen)
        found |= {utterance.utt_id: result for utterance, result in zip(some, results, strict=True)}
    return found


def count(tests: Sequence[Utterance], found: Mapping[str, Transcript], lists: Mapping[str, Sequence[str]]) -> Found:
    """Count the listed words of ``tests`` in the texts ``found``."""
    said = right = written = 0
    for utterance in tests:
        listed = set(lists[utterance.lang or ""])
        reference = Counter(word for word in WORD.findall(utterance.text) if word in listed)
        hypothesis = Counter(word for word in WORD.findall(found[utterance.utt_id].text) if word in listed)
        said += reference.total()
        right += (reference & hypothesis).total()
        written += hypothesis.total()
    rate = wer([utterance.text for utterance in tests], [found[utterance.utt_id].text for utterance in tests]).rate
    return Found(said, right, written, 100 * rate)


if __name__ == "__main__":
    sys.exit(main())
