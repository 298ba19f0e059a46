"""Audio files, bytes and arrays to mono float32 samples, whole or by blocks in bounded memory.

soundfile reads wav, flac, ogg, opus, mp3, NIST sphere and more; PyAV, where installed (``speechnar[media]``), the rest.
Decoded *seconds* are limited while reading, not file sizes: an hour of silence is 200 kB of flac.

Shapes: S samples, C channels.
"""

import importlib.util
import io
import logging
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from speechnar.audio.headers import SHARE_THAT_COUNTS, UnendedWav, find_unknown_size, is_cut, looks_like_mp3
from speechnar.audio.samples import Mixer, Samples, array_samples, check_format, check_level
from speechnar.errors import AudioError, ConfigError
from speechnar.files import replacing

logger = logging.getLogger(__name__)

Source: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO
SampleType: TypeAlias = Literal["PCM_16", "PCM_24", "FLOAT"]

DEFAULT_MAX_SECONDS = 24 * 3600.0
# Text that makes FFmpeg open other files; never audio.
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"[playlist]", b"<?xml", b"<MPD", b"v=0\r", b"v=0\n")
# All that FFmpeg may take content for. None of these opens another file or address, as playlists, manifests and
# concatenation scripts do, in more disguises than a look at the first bytes uncovers.
_MEDIA_FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,eac3,flac,flv,g722,gsm,matroska,mov,mp3,mpeg,mpegts,nistsphere,"
    "ogg,tta,w64,wav,wv"
)
_MAX_BLOCK_VALUES = 1 << 24
"""Samples times channels decoded at a time, 64 MiB of float32: it bounds long blocks of many channels."""
_WRITTEN_SAMPLES = 1 << 16
# Raw codecs without a header, by suffix: FFmpeg must be told.
_RAW_FORMATS = {".g722": "g722"}


@dataclass(frozen=True)
class Audio:
    """Mono samples and their rate."""

    samples: Samples
    """(S,) float32, nominally in [-1, 1]."""
    sample_rate: int
    """Hz."""

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / self.sample_rate

    def save(self, path: str | Path, *, subtype: SampleType | None = None) -> None:
        """Write a file in the format of the suffix, by way of a temporary name.

        Samples that came from a file of this kind are written as they were there. Louder ones than 1 are clipped,
        unless they are floats.

        Args:
            path: where to.
            subtype: how a sample is stored; None: in 16 bits, or as the format has it where it is a lossy one.

        Raises:
            AudioError: the format is unknown, has no such samples, or the place is not writable.
        """
        path = Path(path)
        try:
            with replacing(path) as temporary:
                _write(temporary, self.samples, self.sample_rate, subtype)
        # What soundfile could not write whole, as on a full disk, it asserts to be impossible.
        except (soundfile.SoundFileError, OSError, ValueError, TypeError, AssertionError) as error:
            raise AudioError(f"{path}: cannot be written ({_reason(error)})") from None


def _write(path: Path, samples: Samples, sample_rate: int, subtype: SampleType | None) -> None:
    """Write a file block by block: libsndfile's encoder of Vorbis overflows the stack by some megabytes at one go."""
    with soundfile.SoundFile(path, "w", sample_rate, 1, subtype) as file:
        for start in range(0, len(samples), _WRITTEN_SAMPLES):
            block: NDArray[Any] = samples[start : start + _WRITTEN_SAMPLES]
            if subtype == "PCM_24":
                block = np.clip(np.rint(block * 2.0**23), -(2**23), 2**23 - 1).astype(np.int32) * 256
            elif subtype != "FLOAT":  # libsndfile multiplies floats by 32767, although it has divided integers by 32768
                block = to_int16(block)
            file.write(block)


def to_int16(samples: Samples) -> NDArray[np.int16]:
    """Return samples (S,) as 16-bit integers, those beyond [-1, 1] clipped: the inverse of dividing by 32768."""
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)


def pcm_blocks(source: BinaryIO, block_samples: int) -> Iterator[Samples]:
    """Yield raw PCM (mono, 16 bits, little endian) in blocks, each as soon as it is there; half a sample is dropped."""
    while data := source.read(2 * block_samples):
        yield np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / 32768.0


def read_audio(
    source: Any,
    *,
    sample_rate: int | None = None,
    target_rate: int = 16000,
    max_seconds: float | None = None,
    channel: int | None = None,
) -> Audio:
    """Return all of ``source`` as mono float32 at ``target_rate``.

    Args:
        source: path, encoded bytes, binary file object, or a 1-D numpy array or torch tensor of samples
            (`speechnar.audio.samples`).
        sample_rate: rate of an array, in Hz; None for anything encoded, which has its own.
        target_rate: Hz.
        max_seconds: longest audio accepted; None means 24 hours.
        channel: the channel to take; None averages all.

    Raises:
        AudioError: it is missing, empty, too long, no audio, damaged, or has samples that are none.
        ConfigError: a rate is given for anything encoded.
    """
    if isinstance(source, str | os.PathLike | bytes) or hasattr(source, "read"):
        refuse_rate(sample_rate)
        stream = AudioStream(source, target_rate=target_rate, max_seconds=max_seconds, channel=channel)
        return Audio(np.concatenate(list(stream)), target_rate)
    samples = array_samples(source)
    if samples.size == 0:
        raise AudioError("array: holds no audio samples")
    if sample_rate is None:
        raise AudioError("an array needs its sample_rate, in Hz")
    check_format(sample_rate, 1, "array")
    limit = DEFAULT_MAX_SECONDS if max_seconds is None else max_seconds
    if len(samples) > limit * sample_rate:
        raise AudioError(f"array: at most {limit:g} s of audio are accepted, got {len(samples) / sample_rate:.0f} s")
    return Audio(resample(samples, sample_rate, target_rate), target_rate)


def refuse_rate(sample_rate: int | None) -> None:
    """Check that no rate is given beside encoded audio, where it would have no effect.

    Raises:
        ConfigError: one is.
    """
    if sample_rate is not None:
        raise ConfigError(
            f"sample_rate is that of an array or tensor; a file has its own, leave sample_rate={sample_rate} out"
        )


def resample(samples: Samples, from_rate: float, to_rate: float) -> Samples:
    """Resample (S,) with soxr's high quality; the length is S * to_rate / from_rate, rounded, and at least 1."""
    if from_rate == to_rate:
        return samples
    resampled: Samples = soxr.resample(samples, from_rate, to_rate).astype(np.float32, copy=False)
    return resampled if len(resampled) else samples[:1]


class PushedAudio:
    """Mono samples that come in pieces of any size, brought to ``target_rate``.

    What comes out, put together, is what `resample` makes of the whole: how the samples were cut changes nothing.

    Args:
        sample_rate: of what comes, in Hz.
        target_rate: Hz.

    Raises:
        AudioError: there is no audio of this rate.
    """

    def __init__(self, sample_rate: int, target_rate: int) -> None:
        check_format(sample_rate, 1, "stream")
        self.sample_rate = sample_rate
        self._resampler: soxr.ResampleStream | None = None
        if sample_rate != target_rate:
            self._resampler = soxr.ResampleStream(sample_rate, target_rate, 1, dtype="float32")
        self._num_pushed = 0

    def push(self, samples: Any) -> Samples:
        """Take an array or tensor (S,) of floats or signed integers, S perhaps 0; return what is certain by now.

        Raises:
            AudioError: it is something else, or has samples that are none; nothing of it was taken.
        """
        taken = array_samples(samples, start_s=self._num_pushed / self.sample_rate)
        self._num_pushed += len(taken)
        if self._resampler is None or not len(taken):
            return taken
        resampled: Samples = self._resampler.resample_chunk(taken)
        return resampled

    def finish(self) -> Samples:
        """Return what remains; nothing can be pushed afterwards."""
        if self._resampler is None:
            return np.zeros(0, dtype=np.float32)
        tail: Samples = self._resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
        return tail


class AudioStream:
    """Iterate over mono float32 blocks at ``target_rate``, holding about one block at a time.

    Args:
        source: path, encoded bytes or binary file object.
        target_rate: Hz.
        block_seconds: audio decoded at a time; blocks may be a little shorter or longer.
        max_seconds: longest audio accepted; None means 24 hours. Enforced while reading.
        channel: the channel to take; None averages all.
        name: what messages call it; None: its path, or what there is.

    Raises:
        ConfigError: a rate or a duration is not positive.
        AudioError: while iterating: it is missing, empty, too long, no audio, damaged, or not finite.
    """

    def __init__(
        self,
        source: Source,
        *,
        target_rate: int = 16000,
        block_seconds: float = 30.0,
        max_seconds: float | None = None,
        channel: int | None = None,
        name: str | None = None,
    ) -> None:
        self.source = source
        self.name = _name(source) if name is None else name
        self.target_rate = target_rate
        self.block_seconds = block_seconds
        self.max_seconds = DEFAULT_MAX_SECONDS if max_seconds is None else max_seconds
        self.channel = channel
        for option in ("target_rate", "block_seconds", "max_seconds"):
            if not getattr(self, option) > 0:
                raise ConfigError(f"{option} must be positive, got {getattr(self, option)}")

    def __iter__(self) -> Iterator[Samples]:
        num_read, empty = 0, True
        resampler: soxr.ResampleStream | None = None
        blocks = self._decode()
        mix = Mixer(self.channel, self.name)
        with closing(blocks):
            for rate, block in blocks:
                if resampler is None and rate != self.target_rate:
                    resampler = soxr.ResampleStream(rate, self.target_rate, 1, dtype="float32")
                mono = mix(block)
                check_level(mono, num_read / rate, self.name)
                num_read += len(mono)
                if num_read > self.max_seconds * rate:
                    raise AudioError(f"{self.name}: at most {self.max_seconds:g} s of audio are accepted; it is longer")
                mono = mono if resampler is None else resampler.resample_chunk(mono)
                if len(mono):
                    empty = False
                    yield mono
        if num_read == 0:
            raise AudioError(f"{self.name}: holds no audio samples")
        if resampler is not None:
            tail = resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
            if len(tail) or empty:  # fewer samples than one at the target rate still are audio
                yield tail if len(tail) else mono[:1] if len(mono) else np.zeros(1, dtype=np.float32)

    def _decode(self) -> Generator[tuple[int, Samples], None, None]:
        """Yield (rate, (S, C) float32) by soundfile, or by PyAV where soundfile cannot."""
        file = self._open()
        with file:
            head = file.read(64)
            file.seek(0)
            if not head:
                raise AudioError(f"{self.name}: is empty (0 bytes)")
            if any(head.lstrip().startswith(mark) for mark in _PLAYLISTS):
                raise AudioError(f"{self.name}: is text or a playlist, not audio")
            raw_format = _RAW_FORMATS.get(Path(self.name).suffix.lower())
            if raw_format is not None:
                refusal = f"{raw_format} is not for it"
            elif looks_like_mp3(head) and _has_media_extra():
                # Of several MP3 files joined into one, libsndfile ends where the first says it does, and of damaged
                # ones its libmpg123 tells stderr by itself.
                refusal = "MP3 is left to FFmpeg"
            else:
                place = find_unknown_size(file)
                file.seek(0)
                try:
                    # By its number, libsndfile reads a file itself. Callbacks into Python drop an interrupt, and what
                    # they return instead is taken for the end of a damaged file.
                    opened: Any = file.fileno() if isinstance(file, io.FileIO) else file
                    sound = soundfile.SoundFile(opened if place is None else UnendedWav(file, place), closefd=False)
                except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
                    refusal = _reason(error)
                else:
                    with sound:
                        yield from self._soundfile_blocks(sound, file)
                    return
            file.seek(0)
            yield from self._media_blocks(file, raw_format, refusal)

    def _open(self) -> io.FileIO | io.BytesIO:
        if isinstance(self.source, bytes):
            return io.BytesIO(self.source)
        if isinstance(self.source, str | os.PathLike):
            path = Path(self.source)
            try:
                if path.is_file():
                    return path.open("rb", buffering=0)  # so that whoever reads it by its number is where we are
                kind = "is a folder or a device" if path.exists() else "does not exist"
            except OSError as error:
                raise AudioError(f"{self.name}: cannot be opened ({error.strerror})") from None
            except ValueError as error:  # a NUL in the name
                raise AudioError(f"{self.name!r}: is no file name ({error})") from None
            raise AudioError(f"{self.name}: {kind}; give the path of an audio file")
        # Read once, so that iterating twice gives the same.
        self.source = self.source.read()
        if not isinstance(self.source, bytes):
            raise AudioError(f"{self.name}: the file object must be opened in binary mode")
        return io.BytesIO(self.source)

    def _soundfile_blocks(
        self, sound: soundfile.SoundFile, file: io.FileIO | io.BytesIO
    ) -> Iterator[tuple[int, Samples]]:
        rate = int(sound.samplerate)
        check_format(rate, sound.channels, self.name)
        self._check_length(sound.frames / rate)
        size = max(1, min(round(self.block_seconds * rate), _MAX_BLOCK_VALUES // sound.channels))
        num_read = 0
        while True:
            try:
                block = sound.read(size, dtype="float32", always_2d=True)
            except (soundfile.SoundFileError, OSError) as error:
                raise AudioError(f"{self.name}: is damaged after {num_read / rate:.1f} s ({_reason(error)})") from None
            if not len(block):
                break
            num_read += len(block)
            yield rate, block
        if is_cut(sound, file, num_read):
            self._warn_of_cut(num_read / rate)

    def _check_length(self, seconds: float) -> None:
        """Refuse a recording by what its header says, before any of it is decoded."""
        if seconds > self.max_seconds:
            raise AudioError(
                f"{self.name}: at most {self.max_seconds:g} s of audio are accepted, it lasts {seconds:.0f} s"
            )

    def _warn_of_cut(self, seconds: float) -> None:
        logger.warning("%s: ends after %.1f s, before its header says; is it cut off?", self.name, seconds)

    def _media_blocks(
        self, file: io.FileIO | io.BytesIO, raw_format: str | None, refusal: str
    ) -> Iterator[tuple[int, Samples]]:
        try:
            import av  # noqa: PLC0415  # an extra
        except ImportError:
            hint = "if it is audio of another kind, `pip install 'speechnar[media]'` adds decoders"
            raise AudioError(f"{self.name}: cannot be decoded by soundfile ({refusal}); {hint}") from None
        try:
            # A file object and whitelists: whatever the content says, nothing else is opened.
            options = {"protocol_whitelist": "file,pipe", "format_whitelist": _MEDIA_FORMATS}
            with av.open(_ForFfmpeg(file), mode="r", format=raw_format, options=options) as container:
                if not container.streams.audio:
                    raise AudioError(f"{self.name}: has no audio stream")
                stream = container.streams.audio[0]
                if stream.codec_context is None:
                    raise AudioError(f"{self.name}: is of a codec that FFmpeg cannot decode")
                rate, channels = int(stream.codec_context.sample_rate or 0), stream.codec_context.channels
                check_format(rate, channels, self.name)
                # Of these, FFmpeg guesses it by their size.
                is_guess = container.format.name in ("mp3", "aac")
                told_s = 0.0 if is_guess else (container.duration or 0) / av.time_base
                self._check_length(told_s)
                size = min(self.block_seconds * rate, _MAX_BLOCK_VALUES // channels)
                num_read = 0
                resampler = av.AudioResampler(format="fltp", layout=stream.codec_context.layout, rate=rate)
                pending: list[Samples] = []
                for frame in _decode_packets(container.demux(stream), self.name, av.error.InvalidDataError):
                    pending += [part.to_ndarray().T.astype(np.float32) for part in resampler.resample(frame)]
                    num_read += sum(map(len, pending[-1:]))
                    if sum(map(len, pending)) >= size:
                        yield rate, np.concatenate(pending)
                        pending = []
                if pending:
                    yield rate, np.concatenate(pending)
                if num_read / rate < SHARE_THAT_COUNTS * told_s - 1.0:
                    self._warn_of_cut(num_read / rate)
        except (av.FFmpegError, OSError, ValueError) as error:
            if isinstance(error, AudioError):
                raise
            raise AudioError(f"{self.name}: is not audio that soundfile or FFmpeg can decode ({refusal})") from None


class _ForFfmpeg:
    """A file in which a seek to where nothing is fails without an exception, of which PyAV would tell stderr."""

    def __init__(self, file: io.FileIO | io.BytesIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -1


def read_original(source: Any, *, sample_rate: int | None = None) -> tuple[Audio, SampleType | None]:
    """Return a mono recording as it is, and how to save it so that no sample changes (None: in 16 bits).

    Samples of more than 24 bits are rounded, those of lossy formats are as decoded.

    Args: as of `read_audio`.

    Raises:
        AudioError: as of `read_audio`, or it has several channels.
        ConfigError: as of `read_audio`.
    """
    if not (isinstance(source, str | os.PathLike | bytes) or hasattr(source, "read")):
        if sample_rate is None:
            raise AudioError("an array needs its sample_rate, in Hz")
        audio = read_audio(source, sample_rate=sample_rate, target_rate=sample_rate)
        return audio, "FLOAT" if np.any(audio.samples * 32768.0 % 1.0) else None
    refuse_rate(sample_rate)
    stream = AudioStream(source)
    blocks: list[Samples] = []
    rates: set[int] = set()
    with closing(stream._decode()) as decoded:
        for rate, block in decoded:
            rates.add(rate)
            if block.shape[1] > 1:
                raise AudioError(f"{stream.name}: must be mono, has {block.shape[1]} channels; mix them first")
            blocks.append(block[:, 0])
    samples = np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)
    if not len(samples):
        raise AudioError(f"{stream.name}: holds no audio samples")
    check_level(samples, 0.0, stream.name)
    return Audio(samples, rates.pop()), _find_sample_type(stream)


def _find_sample_type(stream: AudioStream) -> SampleType | None:
    types: dict[str, SampleType] = {"PCM_24": "PCM_24", "PCM_32": "PCM_24", "FLOAT": "FLOAT", "DOUBLE": "FLOAT"}
    try:
        with stream._open() as file:
            return types.get(soundfile.info(file).subtype)
    except soundfile.SoundFileError:
        return None


def _decode_packets(packets: Iterable[Any], name: str, invalid_data: type[Exception]) -> Iterator[Any]:
    """Yield the frames of all packets that decode: tags and joins inside good files are packets that do not.

    Raises:
        AudioError: most packets do not decode.
    """
    num_good = num_damaged = 0
    for packet in packets:
        try:
            frames = packet.decode()
        except invalid_data:
            num_damaged += 1
            continue
        num_good += 1
        yield from frames
    if num_damaged > num_good:
        raise AudioError(f"{name}: is damaged ({num_damaged} of {num_damaged + num_good} packets do not decode)")
    if num_damaged:
        logger.warning("%s: %d of %d packets do not decode, left out", name, num_damaged, num_damaged + num_good)


def _has_media_extra() -> bool:
    return importlib.util.find_spec("av") is not None


def _name(source: Any) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "audio bytes" if isinstance(source, bytes) else "audio file object"


def _reason(error: Exception) -> str:
    # libsndfile's own words: its str() names the file object, with its address
    reason = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    return " ".join(reason.split())[-160:].rstrip(".")
