"""Write golden/sentences.json: what FunASR writes for lists of pieces, as they are and in random order.

    python -m tests.reference.make_golden_sentences CLONE

CLONE is a working copy of modelscope/FunASR (1.4.16, revision 3c58cb5); of it, ``postprocess_utils.py`` alone is run,
which needs nothing else. ``whole`` tells whether FunASR writes every piece, and in order; it does not where a word is
broken off, or where a sign stands between a word and Chinese.
"""

import importlib.util
import json
import random
import sys
from pathlib import Path
from types import ModuleType

GOLDEN_PATH = Path(__file__).parent / "golden" / "sentences.json"
PIECES = [
    *("你", "好", "五", "2", "10", "@", "b", "c", "i", "T", "é", "'", "ひ", "ß"),
    *("hel@@", "lo", "world", "don't", "o'@@", "clock", "a@@", "b@@", "i'm", "mp3", "-", "t-shirt", "，", "."),
]
SENTENCES = [
    "",
    "b b c",
    "i",
    "i i",
    "a b c news",
    "the b b c 新 闻",
    "我 在 c c t v 五",
    "你 b 好",
    "你 b c 好",
    "hel@@ lo b c world",
    "b@@ c d",
    "b c@@ d",
    "b c@@ d e",
    "i don't do i t",
    "é è b c",
    "T v",
    "U s A 2 4",
    "b - c",
    "mp3 b c",
    "b ' c",
    "10 b c 10",
    "b c d e f g 你 h i 好 j",
    "o'@@ clock",
    "w w w . b b c",
    "我 @ 你",
    "a @ b",
    "我 用 mp3 b",
    "你 hel@@ lo 好 world i",
    "hel@@ 你 lo",
    "hel@@",
    "world - 你",
    "b c <unk> d",
    "<s> b c </s>",
]


def load(clone: Path) -> ModuleType:
    """Return FunASR's module by itself; the package would import all its models."""
    spec = importlib.util.spec_from_file_location("postprocess", clone / "funasr/utils/postprocess_utils.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    theirs = load(Path(sys.argv[1]))
    rng = random.Random(0)
    lists = [sentence.split() for sentence in SENTENCES]
    lists += [rng.choices(PIECES, k=rng.randint(1, 12)) for _ in range(200)]
    letters = ["b", "c", "i", "T", "你", "lo", "2"]
    lists += [rng.choices(letters, k=rng.randint(2, 12)) for _ in range(100)]
    rows = []
    for pieces in lists:
        text, words = theirs.sentence_postprocess(pieces)
        said = "".join(piece.removesuffix("@@") for piece in pieces if piece not in ("<s>", "</s>", "<unk>"))
        whole = said.casefold() == text.replace(" ", "").casefold()
        rows.append({"pieces": pieces, "text": text, "words": words, "whole": whole})
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    GOLDEN_PATH.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(
        GOLDEN_PATH, GOLDEN_PATH.stat().st_size, "bytes;", sum(row["whole"] for row in rows), "of", len(rows), "whole"
    )


if __name__ == "__main__":
    main()
