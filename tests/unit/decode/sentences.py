"""What searches are compared with: the score of a whole sentence, word by word."""

from collections.abc import Iterable

from speechnar.decode.lm import NgramLm


def sentence_log_prob(lm: NgramLm, words: Iterable[str]) -> float:
    """Return the log-probability of a sentence, its end included."""
    context, total = lm.start(), 0.0
    for word in words:
        context, log_prob = lm.score(context, word)
        total += log_prob
    return total + lm.finish(context)
