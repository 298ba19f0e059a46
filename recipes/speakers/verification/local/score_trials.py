"""Score all pairs of the utterances of a data directory as trials of a speaker verifier."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch

from speechnar.data.dataset import read_utterance
from speechnar.data.kaldi import read_kaldi_dir
from speechnar.errors import ConfigError
from speechnar.metrics.verification import equal_error_rate
from speechnar.models.base import load_model
from speechnar.models.judges.speaker_verifier import SpeakerVerifier

QUANTILES = (0.05, 0.5, 0.95)


@torch.no_grad()
def main() -> None:
    """Print the equal error rate over all pairs, and quantiles of the cosines of either kind, as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR")
    args = parser.parse_args()
    model = load_model(args.model).model
    if not isinstance(model, SpeakerVerifier):
        raise ConfigError(f"{args.model}: must be a speaker_verifier, got {type(model).__name__}")
    utterances = read_kaldi_dir(args.data_dir)
    known = {utterance.spk_id for utterance in utterances} & set(model.config.speakers)
    vectors = []
    for utterance in utterances:
        wav = torch.from_numpy(read_utterance(utterance, model.sample_rate))[None]
        vectors.append(model(wav, torch.tensor([wav.size(1)]))[0])
    first, second = torch.triu_indices(len(utterances), len(utterances), offset=1)
    cosines = (torch.stack(vectors) @ torch.stack(vectors).T)[first, second].double()
    names = sorted({utterance.spk_id for utterance in utterances})
    speakers = torch.tensor([names.index(utterance.spk_id) for utterance in utterances])
    is_same = speakers[first] == speakers[second]
    report = {
        "utterances": len(utterances),
        "speakers": len(names),
        "speakers_in_training": len(known),
        "eer": asdict(equal_error_rate(cosines.numpy(), is_same.numpy())),
        "cosine_quantiles": {
            name: {str(q): float(cosines[kind].quantile(q)) for q in QUANTILES}
            for name, kind in (("same", is_same), ("different", ~is_same))
        },
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
