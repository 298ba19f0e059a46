"""Report what data directories hold, as JSON (``speechnar data describe``).

The figures that decide a configuration: durations (``max_seconds``), tokens a second (how far an encoder may
subsample: CTC needs a frame per token), and tokens the vocabulary cannot spell. Of texts without recordings: words and
tokens in each language, and how many tokens a translation has for one of its source (how many slots CTC needs).
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speechnar.data.kaldi import Utterance, read_kaldi_dir
from speechnar.data.parallel_text import Sentence, is_text_dir, read_sentences
from speechnar.text.tokenizer import Tokenizer, load_tokenizer

QUANTILES = (0.05, 0.5, 0.95, 1.0)


def describe(utterances: Sequence[Utterance], tokenizer: Tokenizer) -> dict[str, Any]:
    """Return counts, quantiles of seconds and of tokens a second, and the share of unknown tokens."""
    seconds = np.array([utterance.duration_s for utterance in utterances])
    ids = [tokenizer.encode(utterance.text) for utterance in utterances]
    num_tokens = np.array([len(row) for row in ids])
    unknown = sum(row.count(tokenizer.unk_id) for row in ids)
    return {
        "utterances": len(utterances),
        "hours": round(float(seconds.sum()) / 3600, 3),
        "speakers": len({utterance.spk_id for utterance in utterances}),
        "languages": dict(sorted(Counter(utterance.lang or "unknown" for utterance in utterances).items())),
        "translations": dict(sorted(Counter(lang for u in utterances for lang in u.translations).items())),
        "seconds": _quantiles(seconds),
        "tokens_per_second": _quantiles(num_tokens / seconds),
        "unknown_tokens": unknown,
        "tokens": int(num_tokens.sum()),
    }


def describe_texts(sentences: Sequence[Sentence], tokenizer: Tokenizer) -> dict[str, Any]:
    """Return by language the number of texts, of words and tokens, quantiles of tokens, and those that are unknown.

    ``tokens_per_source_token`` is of translations into a language; their sources are the texts in their own language.
    """
    report: dict[str, Any] = {"sentences": len(sentences)}
    for lang in sorted({lang for s in sentences for lang in (s.lang, *s.translations)}):
        known = [(sentence, text) for sentence in sentences if (text := sentence.in_language(lang)) is not None]
        ids = [tokenizer.encode(text) for _, text in known]
        entry: dict[str, Any] = {
            "texts": len(known),
            "words": sum(len(text.split()) for _, text in known),
            "tokens": sum(map(len, ids)),
            "tokens_per_text": _quantiles([len(row) for row in ids]),
            "unknown_tokens": sum(row.count(tokenizer.unk_id) for row in ids),
        }
        ratios = [
            len(row) / max(len(tokenizer.encode(sentence.text)), 1)
            for row, (sentence, _) in zip(ids, known, strict=True)
            if sentence.lang != lang
        ]
        report[lang] = entry | ({"tokens_per_source_token": _quantiles(ratios)} if ratios else {})
    return report


def describe_dirs(data_dirs: Sequence[Path], tokenizer: str | Path) -> dict[str, Any]:
    """Return by directory what `describe` says of its recordings, or `describe_texts` of a directory of texts.

    Raises:
        DataError: a directory or the tokenizer is malformed.
    """
    loaded = load_tokenizer(tokenizer)
    return {
        str(folder): describe_texts(read_sentences(folder), loaded)
        if is_text_dir(folder)
        else describe(read_kaldi_dir(folder), loaded)
        for folder in data_dirs
    }


def _quantiles(values: Any) -> dict[str, float]:
    return {str(q): round(float(value), 3) for q, value in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)}
