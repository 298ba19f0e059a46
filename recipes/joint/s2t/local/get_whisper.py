"""Make a model folder of a Whisper: from a checkpoint in a folder or an archive, or from the Hugging Face hub."""

import argparse
import shutil
import sys
from pathlib import Path

from huggingface_hub import snapshot_download

from speechnar.data.download import extract_archive, find_corpus
from speechnar.errors import DataError, ModelNotFoundError
from speechnar.interop.whisper import TOKENIZER_FILE, convert_whisper
from speechnar.models.base import CONFIG_FILE, WEIGHTS_FILE
from speechnar.text.tokenizer import TOKENS_NAME

FILES = (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE)


def find_source(name: str, unpack_to: Path) -> Path:
    """Return the folder with the tokenizer of a Whisper.

    Raises:
        ModelNotFoundError: it is neither here nor on the hub.
    """
    try:
        path = find_corpus(name)
    except DataError:
        try:
            return Path(snapshot_download(name, allow_patterns=list(FILES)))
        except Exception as error:  # the client lets errors of its HTTP library through, which is not ours to name
            reason = " ".join(str(error).split())[:200]
            raise ModelNotFoundError(f"{name!r} is no path here, and the hub does not give it ({reason})") from None
    if path.is_file():
        path = extract_archive(path, unpack_to / path.name.split(".")[0])
    found = sorted(inner.parent for file in (TOKENIZER_FILE, TOKENS_NAME) for inner in path.rglob(file))
    if not found:
        raise ModelNotFoundError(f"{path}: holds no {TOKENIZER_FILE}; give a checkpoint with its tokenizer")
    return found[0]


def main() -> None:
    """Make the model folder ``OUT`` from ``SOURCE``, unless it is there."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("source", help="folder or archive, of OpenAI, Hugging Face, CTranslate2 or ours; or OWNER/NAME")
    parser.add_argument("out", type=Path)
    parser.add_argument("--unpack-to", type=Path, default=Path("downloads"))
    args = parser.parse_args()
    if (args.out / WEIGHTS_FILE).exists():
        print(f"{args.out} is there already", file=sys.stderr)
        return
    source = find_source(args.source, args.unpack_to)
    if (source / TOKENIZER_FILE).exists():
        print(convert_whisper(source, args.out))
    else:
        partial = args.out.with_name(f".{args.out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        partial.replace(args.out)


if __name__ == "__main__":
    main()
