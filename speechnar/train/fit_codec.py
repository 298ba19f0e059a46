"""Fit a tokenizer of speech latents to the data of a run: ``python -m speechnar.train.fit_codec CONFIG OUT``.

CONFIG is that of text to speech, which then starts from the folder. Principal components are computed from one pass
over the training data, as varied as in training; an autoencoder, which has been trained before (``init_from``), only
measures the mean and the deviation of its latents, on a part of them.
"""

import argparse
import itertools
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from speechnar.config import load_config
from speechnar.errors import ConfigError, SpeechnarError
from speechnar.models.base import save_model
from speechnar.models.tts.mel_autoencoder import MelAutoencoder
from speechnar.models.tts.mel_pca import MelPca
from speechnar.models.tts.tts import TtsConfig
from speechnar.text.tokenizer import load_tokenizer
from speechnar.train.run import CMVN_BATCHES, RunConfig, init_model, load_data

logger = logging.getLogger(__name__)


def fit_codec(config: RunConfig, out: str | Path) -> MelPca | MelAutoencoder:
    """Fit the codec of ``config.model`` to its training data, save it as the model folder ``out``, and return it.

    Raises:
        ConfigError: the model is not text to speech, or its autoencoder has no weights to start from.
        DataError: the data are malformed or too few.
        CheckpointError: ``init_from`` is unreadable or another model.
    """
    if not isinstance(config.model, TtsConfig):
        raise ConfigError(f"model must be of kind tts, got {config.model.kind!r}")
    tokenizer = load_tokenizer(config.tokenizer)
    settings = config.model.codec
    codec = MelAutoencoder(settings) if settings.kind == "mel_autoencoder" else MelPca(settings)
    data = load_data(config, tokenizer, codec.sample_rate, training=True)
    codec.eval()
    card = f"# {settings.kind}\n\n{codec.config.latent_dim} channels, {1 / codec.latent_shift_s:.1f} latents/s, "
    if isinstance(codec, MelPca):
        share = codec.fit(data.batches(0))
        card += f"{share:.1%} of the variance of the log-mels.\n"
    else:
        if not isinstance(config.init_from, Path):
            raise ConfigError("init_from must name the trained mel_autoencoder whose latents are to be measured")
        init_model(codec, config.init_from)
        codec.fit_latents(itertools.islice(data.batches(0), CMVN_BATCHES))
        card += f"from {config.init_from.resolve().name}.\n"
    logger.info("%s", card.splitlines()[-1])
    save_model(out, codec, tokenizer, card=card)
    return codec


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML of the text-to-speech run")
    parser.add_argument("out", type=Path, metavar="OUT", help="the model folder to write")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="change the configuration")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        fit_codec(load_config(args.config, RunConfig, args.overrides), args.out)
    except SpeechnarError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
