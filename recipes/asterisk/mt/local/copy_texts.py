"""Copy from a Kaldi data directory the texts in one language that have a translation in another one.

Prompts may be recorded more than once, and their texts be alike: each pair of texts is copied once.

``copy_texts.py SOURCE OUT LANG LANG``
"""

import sys

from speechnar.data.parallel_text import Sentence, read_sentences, write_sentences


def main() -> int:
    """Run from the command line and return the exit status."""
    if len(sys.argv) != 5:
        sys.stderr.write(f"usage: {(__doc__ or '').strip().splitlines()[-1].strip('`')}\n")
        return 2
    source, out, lang, other = sys.argv[1:]
    pairs: dict[tuple[str, str], Sentence] = {}
    for sentence in read_sentences(source):
        text, translation = sentence.in_language(lang), sentence.in_language(other)
        if text is not None and translation is not None:
            found = Sentence(sentence.utt_id, text, lang, {other: translation})
            pairs.setdefault((text, translation), found)
    write_sentences(out, list(pairs.values()))
    print(f"{out}: {len(pairs)} sentences")
    return 0


if __name__ == "__main__":
    sys.exit(main())
