"""Write how long each token of a data directory lasts: ``python -m speechnar.train.align_durations MODEL DATA_DIR...``.

The text is aligned by the CTC model MODEL, whose tokenizer must be that of the synthesis which learns from the result.

Shapes: B utterances, S samples, U tokens, T frames.
Source: the best path of Graves et al., "Connectionist Temporal Classification", ICML 2006, section 4.1.
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from speechnar.data.dataset import read_utterance
from speechnar.data.kaldi import DURATIONS_FILE, Utterance, read_kaldi_dir, write_durations
from speechnar.decode.align import token_boundaries, viterbi_align
from speechnar.errors import ConfigError, DataError, SpeechnarError
from speechnar.models.base import load_model
from speechnar.models.joint import Joint
from speechnar.models.owsm_ctc import OwsmCtc
from speechnar.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

BATCH_S = 60.0


def align_durations(
    model: OwsmCtc | Joint, tokenizer: Tokenizer, utterances: Sequence[Utterance]
) -> dict[str, list[float]]:
    """Return the seconds of each token of the utterances, by id; without those that are too short for their text.

    Raises:
        AudioError: audio cannot be read.
        DataError: a text has no token, or no utterance can be aligned.
    """
    found: dict[str, list[float]] = {}
    for group in _groups(utterances):
        wavs = [torch.from_numpy(read_utterance(utterance, model.sample_rate)) for utterance in group]
        ids = [torch.tensor(tokenizer.encode(utterance.text), dtype=torch.int64) for utterance in group]
        for utterance, row in zip(group, ids, strict=True):
            if not len(row):
                raise DataError(f"utterance {utterance.utt_id!r}: its text has no token: {utterance.text[:60]!r}")
        durations, possible = align_batch(model, *_pad(wavs), *_pad(ids))
        for utterance, seconds, row, is_possible in zip(group, durations, ids, possible.tolist(), strict=True):
            if is_possible:
                found[utterance.utt_id] = seconds[: len(row)].tolist()
    if len(found) < len(utterances):
        logger.warning(
            "%d of %d utterances are too short for their text", len(utterances) - len(found), len(utterances)
        )
    if not found:
        raise DataError("no utterance can be aligned: all are too short for their text at the model's frame rate")
    return found


@torch.no_grad()
def align_batch(
    model: OwsmCtc | Joint, wav: Tensor, wav_lens: Tensor, tokens: Tensor, token_lens: Tensor
) -> tuple[Tensor, Tensor]:
    """Return seconds (B, U), which fill each utterance and are 0 in padding, and which utterances could be aligned.

    Args:
        model: in evaluation mode.
        wav: (B, S); beyond ``wav_lens`` it may hold anything.
        wav_lens: (B,)
        tokens: (B, U) without specials; beyond ``token_lens`` anything.
        token_lens: (B,)
    """
    out = model.encode(wav, wav_lens)
    log_probs, lens = out.log_probs[:, model.num_prefix :], out.lens - model.num_prefix
    alignment = viterbi_align(log_probs, lens, tokens, token_lens, model.blank_id)
    boundaries = token_boundaries(alignment, lens) * model.frame_shift_s
    # Features end a little before the samples do; the last token lasts until these end.
    totals = (wav_lens / model.sample_rate)[:, None]
    boundaries = boundaries.where(boundaries < (lens * model.frame_shift_s)[:, None], totals).minimum(totals)
    return boundaries.diff(dim=1), alignment.possible


def _groups(utterances: Sequence[Utterance]) -> Iterator[list[Utterance]]:
    """Yield batches of similar length, of up to `BATCH_S` with padding."""
    group: list[Utterance] = []
    for utterance in sorted(utterances, key=lambda u: (u.duration_s, u.utt_id)):
        if group and utterance.duration_s * (len(group) + 1) > BATCH_S:
            yield group
            group = []
        group.append(utterance)
    if group:
        yield group


def _pad(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    return padded, torch.tensor([len(row) for row in rows])


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of a CTC model")
    parser.add_argument("data_dirs", nargs="+", type=Path, metavar="DATA_DIR", help="each gets a file durations")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        loaded = load_model(args.model)
        if not isinstance(loaded.model, OwsmCtc | Joint):
            kind = getattr(loaded.config, "kind", None)
            raise ConfigError(f"{args.model}: must be a model of kind owsm_ctc or joint, got {kind!r}")
        for folder in args.data_dirs:
            (folder / DURATIONS_FILE).unlink(missing_ok=True)  # of another text or audio, they would be a fault
            durations = align_durations(loaded.model, loaded.tokenizer, read_kaldi_dir(folder))
            write_durations(folder, durations)
            logger.info("%s: %d utterances aligned", folder, len(durations))
    except SpeechnarError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
