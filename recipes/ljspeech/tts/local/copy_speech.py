"""Copy a Kaldi data directory, or one speaker of it, for ``run.sh --more``, which writes durations beside it.

``copy_speech.py SOURCE OUT [SPEAKER]``
"""

import sys

from speechnar.data.kaldi import read_kaldi_dir, write_kaldi_dir


def main() -> int:
    """Run from the command line and return the exit status."""
    if len(sys.argv) not in (3, 4):
        sys.stderr.write(f"usage: {(__doc__ or '').splitlines()[2].strip('`')}\n")
        return 2
    source, out, *speakers = sys.argv[1:]
    kept = [utterance for utterance in read_kaldi_dir(source) if not speakers or utterance.spk_id in speakers]
    write_kaldi_dir(out, kept)
    print(f"{out}: {len(kept)} utterances, {sum(utterance.duration_s for utterance in kept) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
