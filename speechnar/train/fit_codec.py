"""Fit a tokenizer of speech latents to the data of a run (``speechnar tts fit-codec``).

Text to speech then starts from the folder. Principal components are computed from one pass
over the training data, as varied as in training; an autoencoder, which has been trained before (``init_from``), only
measures the mean and the deviation of its latents, on a part of them.
"""

import itertools
import logging
from pathlib import Path

from speechnar.errors import ConfigError
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
