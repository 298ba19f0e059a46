"""Foreign checkpoints to our model folders."""

from pathlib import Path

from speechnar.errors import ConfigError, ModelNotFoundError
from speechnar.interop.audiocraft import AUDIOCRAFT, convert_audiocraft
from speechnar.interop.cassnat import CASSNAT, convert_cassnat
from speechnar.interop.espnet import ESPNET, convert_espnet
from speechnar.interop.family import Family, FolderListing, Listing
from speechnar.interop.files import ConversionReport
from speechnar.interop.funasr import FUNASR, convert_funasr
from speechnar.interop.granite import GRANITE, convert_granite
from speechnar.interop.icefall import ICEFALL, convert_icefall
from speechnar.interop.parakeet import PARAKEET, convert_parakeet
from speechnar.interop.wav2vec2 import WAV2VEC2, convert_wav2vec2
from speechnar.interop.wav2vec2_bert import WAV2VEC2_BERT, convert_wav2vec2_bert
from speechnar.interop.whisper import WHISPER, convert_whisper

__all__ = [
    "ConversionReport",
    "convert",
    "convert_audiocraft",
    "convert_cassnat",
    "convert_espnet",
    "convert_funasr",
    "convert_granite",
    "convert_icefall",
    "convert_parakeet",
    "convert_wav2vec2",
    "convert_wav2vec2_bert",
    "convert_whisper",
]

FAMILIES: tuple[Family, ...] = (
    ESPNET,
    FUNASR,
    CASSNAT,
    AUDIOCRAFT,
    WHISPER,
    WAV2VEC2,
    WAV2VEC2_BERT,
    PARAKEET,
    GRANITE,
    ICEFALL,
)
"""All that can be converted; the files of a checkpoint are those of exactly one."""


def convert(
    source: str | Path, destination: str | Path, *, skip_decoder: bool = False, language: str | None = None
) -> ConversionReport:
    """Turn a model folder of another toolkit, told by its files, into a model folder of ours.

    Args:
        source: folder of one of `FAMILIES`, with the files that these name as their marks.
        destination: folder to write; created if absent.
        skip_decoder: of ESPnet's hybrid Conformer, keep the CTC branch only.
        language: of MMS, the one that is to be heard, as its files are named; None: the default one.

    Raises:
        ModelNotFoundError: ``source`` has the files of no toolkit, or of more than one, or lacks one of a toolkit's.
        ConfigError: the model has options that our implementation has not.
        CheckpointError: the weights hold more than tensors, or are not those of the configuration.
        DataError: vocabulary or statistics are malformed.
    """
    source, destination = Path(source), Path(destination)
    family = family_of(FolderListing(source))
    if family is WAV2VEC2 and not skip_decoder:
        return convert_wav2vec2(source, destination, language=language)
    if language is not None:
        raise ConfigError(f"--language is for MMS, which has weights of each; {source} is of {family.name}")
    if family is ESPNET:
        return convert_espnet(source, destination, skip_decoder=skip_decoder)
    if skip_decoder:
        raise ConfigError(f"--skip-decoder is for ESPnet's hybrid models; {source} is of {family.name}")
    return family.convert(source, destination)


def family_of(listing: Listing) -> Family:
    """Return the family whose files these are.

    Raises:
        ModelNotFoundError: they are of none, or of more than one.
    """
    found = [family for family in FAMILIES if family.recognizes(listing)]
    if len(found) != 1:
        *known, last = (f"{family.name} ({family.marks})" for family in FAMILIES)
        names = " and ".join(family.name for family in found) or "none"
        raise ModelNotFoundError(
            f"{listing.source}: need a folder of {', '.join(known)}, or {last}; found the files of {names}"
        )
    return found[0]
