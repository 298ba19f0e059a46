"""Foreign checkpoints to our model folders."""

from pathlib import Path

from speechnar.errors import ConfigError, ModelNotFoundError
from speechnar.interop.audiocraft import CODEC_FILE, MODEL_FILE, convert_audiocraft
from speechnar.interop.cassnat import convert_cassnat
from speechnar.interop.espnet import convert_espnet
from speechnar.interop.files import ConversionReport
from speechnar.interop.funasr import META_FILE, WEIGHTS_FILE, convert_funasr
from speechnar.interop.wav2vec2 import convert_wav2vec2, is_wav2vec2
from speechnar.interop.whisper import TOKENIZER_FILE, convert_whisper

__all__ = [
    "ConversionReport",
    "convert",
    "convert_audiocraft",
    "convert_cassnat",
    "convert_espnet",
    "convert_funasr",
    "convert_wav2vec2",
    "convert_whisper",
]


def convert(source: str | Path, destination: str | Path, *, skip_decoder: bool = False) -> ConversionReport:
    """Turn a model folder of another toolkit, told by its files, into a model folder of ours.

    Args:
        source: folder of ESPnet (``meta.yaml`` or one ``*.pth``), FunASR (``configuration.json`` or ``model.pt``),
            cassnat_asr (one ``*.mdl``), audiocraft (``compression_state_dict.bin``), a Whisper of Hugging Face,
            OpenAI or CTranslate2 (``tokenizer.json`` and weights), or a wav2vec 2.0 or HuBERT of Hugging Face
            (``config.json`` that says so, and weights).
        destination: folder to write; created if absent.
        skip_decoder: of ESPnet's hybrid Conformer, keep the CTC branch only.

    Raises:
        ModelNotFoundError: ``source`` has the files of no toolkit, or of more than one, or lacks one of a toolkit's.
        ConfigError: the model has options that our implementation has not.
        CheckpointError: the weights hold more than tensors, or are not those of the configuration.
        DataError: vocabulary or statistics are malformed.
    """
    source, destination = Path(source), Path(destination)
    hears_samples = is_wav2vec2(source)
    marks = {
        "ESPnet": (source / "meta.yaml").is_file() or any(source.glob("*.pth")),
        "audiocraft": any((source / name).is_file() for name in (MODEL_FILE, CODEC_FILE)),
        "cassnat_asr": any(source.glob("*.mdl")),
        "Whisper": (source / TOKENIZER_FILE).is_file() and not hears_samples,
        "wav2vec 2.0": hears_samples,
        "FunASR": any((source / name).is_file() for name in (META_FILE, WEIGHTS_FILE)),
    }
    found = [toolkit for toolkit, is_there in marks.items() if is_there]
    if len(found) != 1:
        raise ModelNotFoundError(
            f"{source}: need a folder of ESPnet (meta.yaml, or config.yaml and one .pth file), FunASR ({META_FILE}, or "
            f"config.yaml and {WEIGHTS_FILE}), cassnat_asr (config.yaml and one .mdl file), audiocraft ({CODEC_FILE}), "
            f"Whisper ({TOKENIZER_FILE} and weights), or wav2vec 2.0 or HuBERT of Hugging Face (config.json and "
            f"weights); found the files of {' and '.join(found) or 'none'}"
        )
    if found == ["ESPnet"]:
        return convert_espnet(source, destination, skip_decoder=skip_decoder)
    if skip_decoder:
        raise ConfigError(f"--skip-decoder is for ESPnet's hybrid models; {source} is of {found[0]}")
    if found == ["audiocraft"]:
        return convert_audiocraft(source, destination)
    if found == ["Whisper"]:
        return convert_whisper(source, destination)
    if found == ["wav2vec 2.0"]:
        return convert_wav2vec2(source, destination)
    return convert_funasr(source, destination) if found == ["FunASR"] else convert_cassnat(source, destination)
