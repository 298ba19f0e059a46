"""Make train, dev and test data directories of the Asterisk core sounds: five languages, transcripts and translations.

Every language records the same prompts under the same names, so the cleaned transcript of a prompt in one language is
the translation of the others (``text.<lang>``). The split is by prompt name, fixed by a hash; names that read the same
in some language stand in the same set, so that no sentence is trained on under one name and tested under another.
What is dropped is counted by reason in ``counts.json``. Texts are plain (the scoring normaliser ``basic``) or, with
``--text written``, as the transcripts have them, with capitals and punctuation; that changes neither the sets nor what
is dropped.
"""

import argparse
import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soundfile
from num2words import num2words

from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.errors import DataError
from speechnar.text.normalize import NORMALIZERS

SAMPLE_RATE = 16000
# ISO 639-3: (two letters in the names of the files, folder of the voice, speaker). Allison speaks two languages.
VOICES = {
    "eng": ("en", "en_US_f_Allison", "allison"),
    "spa": ("es", "es_MX_f_Allison", "allison"),
    "fra": ("fr", "fr_CA_f_June", "june"),
    "ita": ("it", "it_IT_m_Carlo", "carlo"),
    "rus": ("ru", "ru_RU_f_IvrvoiceRU", "ivrvoice"),
}
# Not speech, though some transcripts describe it in plain words.
SOUNDS = {"ascending-2tone", "beep", "beeperr", "confbridge-join", "confbridge-leave", "descending-2tone", "tt-monkeys"}
# Entries whose name is not that of their recording, by (language, name, text as it stands).
RENAMED = {
    ("spa", "digits/0", "diez"): "digits/10",
    ("spa", "digits/21-and", "veinti"): "digits/20-and",
    ("spa", "confbridge-lock-out-0", "...para bloquear o desbloquear la conferencia."): "confbridge-lock-out",
    ("fra", "confbridge-lock-out-0", "... pour vérouiller ou déverrouiller la conférence."): "confbridge-lock-out",
}
# Read aloud as words; the other languages spell them out.
SPOKEN_SYMBOLS = {"eng": {"*": " star ", "#": " pound "}}

REMARK = re.compile(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>")
ENTRY = re.compile(r"([^\s:]+):\s*(.*)")
# A letter lost to "?": inside a word, or between words with a small letter to follow.
LOST_LETTER = re.compile(r"\?(?=\s*[^\W\d_A-ZÀ-ÞА-Я])|\ufffd|Ã.")
# Dots where a sentence goes on in another prompt, and spaces that a remark leaves before punctuation.
CONTINUATION = re.compile(r"^(?:\.{2,}|…)\s*|\s*(?:\.{2,}|…)$")
SPACE_BEFORE = re.compile(r"\s+(?=[.,])")
OTHER_ENTRY = re.compile(r"\b[a-z]+(-[a-z]+)+:")
# Extensions, modem speeds and protocol numbers may be read digit by digit, in pairs or whole.
UNCERTAIN_NUMBER = re.compile(r"\d{3}|\d[.,]\d")
# Slower (a letter's name takes a second) or faster than this, in characters a second, other words are said.
MIN_RATE, MAX_RATE = 0.5, 25.0
# A larger group of names that read the same stays in train, lest it decide what dev or test is like.
MAX_GROUP = 8


@dataclass(frozen=True)
class Prompt:
    """One recording with its clean transcript."""

    lang: str
    name: str
    wav_path: Path
    text: "Text"
    duration_s: float


@dataclass(frozen=True)
class Text:
    """What is said in a prompt."""

    plain: str
    """Lower case without punctuation."""
    written: str
    """With the capitals and the punctuation of the transcript; numbers and symbols in words."""


def read_transcripts(path: Path, lang: str) -> tuple[dict[str, str], Counter[str]]:
    """Return the raw text by name, and the number of entries dropped by reason."""
    content = path.read_bytes()
    lines = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig").splitlines()
    dropped: Counter[str] = Counter()
    texts: dict[str, str] = {}
    for line in (line.strip() for line in lines):
        if not line or line.startswith(";"):
            continue
        match = ENTRY.fullmatch(line)
        if match is None:
            dropped["not an entry"] += 1
            continue
        name = RENAMED.get((lang, match[1], match[2]), match[1])
        if name in texts:
            dropped["name repeated"] += 1
            continue
        texts[name] = match[2]
    return texts, dropped


def clean(text: str, lang: str, name: str) -> tuple[Text, str]:
    """Return what is said and "", or an empty text and the reason to drop the entry."""
    nothing = Text("", "")
    if name in SOUNDS or name.startswith("silence/"):
        return nothing, "describes a sound"
    text = text.removeprefix(f"{name}:").replace("’", "'")
    if OTHER_ENTRY.search(text):
        return nothing, "runs into another entry"
    if LOST_LETTER.search(text):
        return nothing, "damaged letters"
    text = REMARK.sub(" ", text)
    if UNCERTAIN_NUMBER.search(text):
        return nothing, "number of uncertain reading"
    for symbol, spoken in SPOKEN_SYMBOLS.get(lang, {}).items():
        text = text.replace(symbol, spoken)
    text = re.sub(r"\d+", lambda number: f" {num2words(int(number[0]), lang=VOICES[lang][0])} ", text)
    plain = NORMALIZERS["basic"](text, lang)
    written = CONTINUATION.sub("", SPACE_BEFORE.sub("", " ".join(text.split())))
    return (Text(plain, written), "") if plain else (nothing, "no words")


def decode_g722(source: Path, dest: Path) -> float:
    """Write ``source`` as 16-bit FLAC to ``dest`` unless it is there, and return its seconds."""
    if not dest.exists():
        with av.open(str(source), format="g722") as container:
            blocks = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
        dest.parent.mkdir(parents=True, exist_ok=True)
        partial = dest.with_name(f".{dest.name}.partial")
        soundfile.write(partial, np.concatenate(blocks), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        partial.replace(dest)
    return float(soundfile.info(dest).duration)


def prepare_language(lang: str, corpus: Path, audio: Path) -> tuple[list[Prompt], dict[str, Text], Counter[str]]:
    """Return the usable prompts, every clean text by name (with audio or without), and the counts by reason."""
    code, voice, _ = VOICES[lang]
    transcript = find_one(corpus, f"core-sounds-{code}.txt*")
    recordings = find_recordings(find_one(corpus, voice))
    by_folded = {name.casefold(): name for name in recordings}
    raw, counts = read_transcripts(transcript, lang)
    counts["entries"] = len(raw) + counts.total()
    counts["recordings"] = len(recordings)
    texts: dict[str, Text] = {}
    prompts: list[Prompt] = []
    for entry_name, raw_text in raw.items():
        name = by_folded.get(entry_name.casefold(), entry_name)
        text, reason = clean(raw_text, lang, name)
        if reason:
            counts[reason] += 1
            continue
        source = recordings.get(name)
        if source is None:
            counts["entry without audio"] += 1
            texts[name] = text
            continue
        path = (audio / lang / f"{name}.flac").resolve()
        duration_s = decode_g722(source, path)
        if not MIN_RATE <= len(text.plain) / duration_s <= MAX_RATE:
            counts["implausible speaking rate"] += 1
            continue
        texts[name] = text
        prompts.append(Prompt(lang, name, path, text, duration_s))
    transcribed = {by_folded.get(name.casefold(), name) for name in raw}
    counts["audio without entry"] = len(recordings.keys() - transcribed)
    counts["used"] = len(prompts)
    return prompts, texts, counts


def find_one(corpus: Path, pattern: str) -> Path:
    """Return the first match below ``corpus``."""
    found = sorted(corpus.rglob(pattern))
    if not found:
        raise DataError(f"{corpus}: does not hold {pattern}; unpack the packages with local/fetch_asterisk.py")
    return found[0]


def find_recordings(folder: Path) -> dict[str, Path]:
    """Return the G.722 files below ``folder`` by prompt name."""
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.g722"))}


def group_names(texts_by_lang: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Map each name to the smallest name of its group: names with equal text in some language are together."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for texts in texts_by_lang:
        first_with: dict[str, str] = {}
        for name, text in texts.items():
            one, other = root(name), root(first_with.setdefault(text, name))
            parent[max(one, other)] = min(one, other)
    return {name: root(name) for name in parent}


def split_of(group: str, size: int) -> str:
    """Return the set of a group: 80 % train, 8 % dev, 12 % test by the hash of its name."""
    share = int(hashlib.sha256(group.encode()).hexdigest()[:8], 16) / 16**8
    if size > MAX_GROUP or share < 0.80:
        return "train"
    return "dev" if share < 0.88 else "test"


def to_utterance(prompt: Prompt, texts_by_lang: Mapping[str, Mapping[str, Text]], form: str) -> Utterance:
    """Return the utterance of ``prompt``; its translations are texts of the same name, into or from English.

    Texts are of that ``form``, ``plain`` or ``written``.
    """
    spk_id = f"{prompt.lang}-{VOICES[prompt.lang][2]}"
    return Utterance(
        utt_id=f"{spk_id}-{prompt.name.replace('/', '_')}",
        wav_path=prompt.wav_path,
        text=getattr(prompt.text, form),
        spk_id=spk_id,
        duration_s=prompt.duration_s,
        lang=prompt.lang,
        translations={
            lang: getattr(texts[prompt.name], form)
            for lang, texts in texts_by_lang.items()
            if lang != prompt.lang and "eng" in (lang, prompt.lang) and prompt.name in texts
        },
    )


def main() -> None:
    """Write ``DATA/{train,dev,test}``, ``DATA/audio`` and ``DATA/counts.json``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("corpus", type=Path, help="folder of the unpacked packages or tarballs")
    parser.add_argument("data", type=Path)
    parser.add_argument("--text", choices=("plain", "written"), default="plain", help="default: %(default)s")
    args = parser.parse_args()
    with ProcessPoolExecutor() as pool:
        jobs = {lang: pool.submit(prepare_language, lang, args.corpus, args.data / "audio") for lang in VOICES}
        results = {lang: job.result() for lang, job in jobs.items()}
    texts_by_lang = {lang: texts for lang, (_, texts, _) in results.items()}
    groups = group_names({name: text.plain for name, text in texts.items()} for texts in texts_by_lang.values())
    sizes = Counter(groups.values())
    report: dict[str, object] = {
        "languages": {lang: dict(sorted(counts.items())) for lang, (_, _, counts) in results.items()},
        "names": len(groups),
        "names in groups of several": sum(size for size in sizes.values() if size > 1),
        "largest group": max(sizes.values()),
    }
    sets: dict[str, list[Utterance]] = {"train": [], "dev": [], "test": []}
    for prompts, _, _ in results.values():
        for prompt in prompts:
            group = groups[prompt.name]
            sets[split_of(group, sizes[group])].append(to_utterance(prompt, texts_by_lang, args.text))
    for name, utterances in sets.items():
        write_kaldi_dir(args.data / name, utterances)
        report[name] = describe(utterances)
    partial = args.data / ".counts.json.partial"
    partial.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(args.data / "counts.json")
    print(json.dumps(report, indent=1, ensure_ascii=False))


def describe(utterances: list[Utterance]) -> dict[str, object]:
    """Return the counts and minutes of a set."""
    pairs = Counter(f"{u.lang}-{lang}" for u in utterances for lang in u.translations)
    return {
        "utterances": dict(Counter(str(u.lang) for u in utterances)),
        "minutes": round(sum(u.duration_s for u in utterances) / 60, 1),
        "translations": dict(sorted(pairs.items())),
    }


if __name__ == "__main__":
    main()
