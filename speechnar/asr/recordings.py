"""Recordings of any length to transcripts: read, cut at pauses, decode in batches, put together again."""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch

from speechnar.asr.clips import CTC, ClipDecoder, Decoded
from speechnar.asr.segments import to_segments
from speechnar.audio.blocks import Blocks, Samples, cut, gather
from speechnar.audio.io import resample
from speechnar.audio.source import Recording
from speechnar.decode.align import CtcPath, viterbi_align
from speechnar.decode.vad import SAMPLE_RATE as VAD_RATE
from speechnar.decode.vad import Endpointer, VadConfig, detect_speech, holds_speech
from speechnar.errors import AudioError, ConfigError, SpeechnarError
from speechnar.text.transcript import AudioTags, Segment, Transcript

logger = logging.getLogger(__name__)

_Head = tuple[Samples, Samples | None, Blocks]
POOLED_BATCHES = 4
"""Batches of short recordings that wait for each other, so that clips of like length can share one."""
SPEECH_BATCHES = 8
"""Batches of a long recording's clips that are decoded together, likewise."""
INAUDIBLE = 1e-4
"""A short recording whose samples all lie below says nothing, and no model is asked."""
READ_AHEAD = 32
"""Recordings of which a thread reads the first window while the model is at work."""


def utterances(window_s: float) -> VadConfig:
    """Return what counts as one: speech up to half a second of silence or, at the latest, ``window_s`` seconds."""
    return VadConfig(
        min_speech_duration_ms=100,  # single short words, as digits are, can be below Silero's 250 ms
        min_silence_duration_ms=500,
        speech_pad_ms=200,
        max_speech_duration_s=window_s,
    )


@dataclass
class _Unfinished:
    """A recording on its way: the clip that is all of it and not decoded yet, or those that are, each with its place in
    seconds, or the error that prevents it."""

    name: str | None
    duration_s: float = 0.0
    is_speech: bool = True
    """Whether what waits has a say in what the language is."""
    waiting: Samples | None = None
    decoded: list[tuple[float, Decoded]] = field(default_factory=list)
    error: SpeechnarError | None = None


class RecordingTranscriber:
    """A decoder of clips applied to whole recordings; ``word_timestamps`` gives segments their words."""

    def __init__(self, decoder: ClipDecoder, *, word_timestamps: bool = False) -> None:
        self.decoder = decoder
        self.word_timestamps = word_timestamps

    def transcribe(self, recordings: Iterable[Recording]) -> Iterator[tuple[int, Transcript | SpeechnarError]]:
        """Yield the places of recordings, and of each its transcript or the error that prevents it, once it is known.

        Short recordings are read ahead, by a thread, and decoded together; a long one is decoded as it is read.
        """
        for pool in self._pools(recordings):
            for place in self._decode_waiting(pool):
                yield place, pool[place].error or self._assemble(pool[place])

    def language_probabilities(self, recording: Recording) -> dict[str, float]:
        """Return the probability of every language of the model, most probable first.

        It is that of the first speech, of about a window in all; where nobody speaks, all are 0.

        Raises:
            ConfigError: the model has no language tokens.
        """
        if not self.decoder.language_ids:
            raise ConfigError(f"model {self.decoder.name} does not tell languages; use one with language tokens")
        clip, rest = self._head(recording)
        if next(rest, None) is not None:
            clips = self._first_speech(recording)
        else:
            clips = [clip] if self._holds_speech(clip) else []
        mass = sum((decoded.language_mass for decoded in self.decoder.decode(clips)), self._no_mass())
        mass = mass / max(mass.sum(), np.finfo(np.float64).tiny)
        ranked = sorted(zip(self.decoder.language_ids, mass.tolist(), strict=True), key=lambda pair: -pair[1])
        return dict(ranked)

    def align(self, recording: Recording, text: str) -> Transcript:
        """Return ``text`` with the times of its words in a recording of at most one window.

        Raises:
            ConfigError: the model has no CTC to align by, the text is empty, or the model cannot spell it.
            AudioError: the recording is longer than a window, too short for the text, or in no language.
        """
        decoder = self.decoder
        if CTC not in decoder.model.decoder_names:
            raise ConfigError(f"model {decoder.name} has no CTC to align by; use one that has")
        tokens = decoder.spell(text, "text")
        clip = self.whole_clip(recording, "align")
        out = decoder.encode([clip])
        language, probability = decoder.decide_language(decoder.language_mass(out)[0])
        if decoder.language_ids and language not in decoder.language_ids:
            raise AudioError(f"{recording.name or 'audio'}: its language cannot be told, nobody speaks; give it")
        targets = torch.tensor([decoder.target_head(language) + tokens])
        target_lens = torch.tensor([targets.size(1)])
        aligned = viterbi_align(out.log_probs, out.lens, targets, target_lens, decoder.model.blank_id)
        duration_s = len(clip) / decoder.sample_rate
        if not aligned.possible.all():
            raise AudioError(
                f"{recording.name or 'audio'}: {duration_s:.2f} s cannot hold {len(tokens)} tokens of text"
            )
        path = decoder.text_path(aligned.paths()[0])
        segments = self._segments_of_words([(0.0, path)], duration_s, language)
        return self.transcript(recording.name, duration_s, segments, language, probability, task="align")

    def whole_clip(self, recording: Recording, what: str = "this") -> Samples:
        """Return the samples of a recording of at most one window.

        Raises:
            AudioError: it is longer than ``what`` takes, or cannot be read.
        """
        clip, rest = self._head(recording)
        if next(rest, None) is not None:
            limit_s = self.decoder.options.window_s
            raise AudioError(f"{recording.name or 'audio'}: {what} takes up to {limit_s:g} s; cut it first")
        return clip

    # From one recording to clips.

    def _pools(self, recordings: Iterable[Recording]) -> Iterator[dict[int, _Unfinished]]:
        """Yield, by their places, recordings that are to be decoded together, and alone what waits for nothing.

        An error of ``recordings`` comes behind what was read before it.
        """
        pool: dict[int, _Unfinished] = {}
        pooled_s = 0.0
        try:
            for place, (recording, head) in enumerate(self._read_ahead(recordings)):
                try:
                    unfinished = self._prepare(recording, *head.result())
                except SpeechnarError as error:
                    unfinished = _Unfinished(recording.name, error=error)
                if unfinished.waiting is None:
                    yield {place: unfinished}
                    continue
                pool[place] = unfinished
                pooled_s += unfinished.duration_s
                if pooled_s > POOLED_BATCHES * self.decoder.batch_seconds:
                    yield pool
                    pool, pooled_s = {}, 0.0
        except Exception:
            yield pool
            raise
        yield pool

    def _read_ahead(self, recordings: Iterable[Recording]) -> Iterator[tuple[Recording, Future[_Head]]]:
        """Yield recordings, in order, and what fits into a window of each, what follows, and the rest.

        They are taken from ``recordings`` in the caller's thread; an error of that comes behind those before it.
        """
        waiting: deque[tuple[Recording, Future[_Head]]] = deque()
        failure: Exception | None = None
        reader = ThreadPoolExecutor(1)
        try:
            try:
                for recording in recordings:
                    waiting.append((recording, reader.submit(self._read, recording)))
                    if len(waiting) > READ_AHEAD:
                        yield waiting.popleft()
            except Exception as error:  # of the user's iterable
                failure = error
            yield from waiting
            if failure is not None:
                raise failure
        finally:
            reader.shutdown(cancel_futures=True)

    def _read(self, recording: Recording) -> _Head:
        clip, rest = self._head(recording)
        return clip, next(rest, None), rest

    def _prepare(self, recording: Recording, clip: Samples, following: Samples | None, rest: Blocks) -> _Unfinished:
        """Let a short recording wait to be decoded with others, and decode a long one at once."""
        decoder = self.decoder
        if decoder.options.vad or (decoder.options.vad is None and following is not None):
            return self._decode_speech(recording)
        if following is None:
            if not np.abs(clip).max(initial=0.0) >= INAUDIBLE:
                return _Unfinished(recording.name, len(clip) / decoder.sample_rate, is_speech=False)
            is_speech = not decoder.tells_language or self._holds_speech(clip)
            return _Unfinished(recording.name, len(clip) / decoder.sample_rate, is_speech, waiting=clip)
        decoded, num_samples = decoder.decode_windows(chain([clip, following], rest))
        decoded = decoded.if_speech(not decoder.tells_language or holds_speech(recording.blocks(VAD_RATE)))
        return _Unfinished(recording.name, num_samples / decoder.sample_rate, decoded=[(0.0, decoded)])

    def _head(self, recording: Recording) -> tuple[Samples, Blocks]:
        """Return what fits into one window, and the blocks that follow."""
        blocks = Blocks(recording.blocks(self.decoder.sample_rate))
        head: list[Samples] = []
        missing = self.decoder.window_samples
        for block in blocks:
            head.append(block[:missing])
            missing -= len(head[-1])
            if len(head[-1]) < len(block):
                blocks.push_back(block[len(head[-1]) :])
                break
        return np.concatenate(head) if head else np.zeros(0, dtype=np.float32), blocks

    def _holds_speech(self, clip: Samples) -> bool:
        return holds_speech([resample(clip, self.decoder.sample_rate, VAD_RATE)])

    def _first_speech(self, recording: Recording) -> list[Samples]:
        """Return the first utterances in which somebody surely speaks, of about a window in all."""
        rate, missing_s = self.decoder.sample_rate, self.decoder.options.window_s
        endpointer = Endpointer(utterances(missing_s))
        pushed = (heard for block in recording.blocks(VAD_RATE) for heard in endpointer.push(block))
        spans = []
        for heard in chain(pushed, endpointer.finish()):
            if heard.is_over and heard.is_sure:
                spans.append((round(heard.begin * rate / VAD_RATE), round(heard.end * rate / VAD_RATE)))
                missing_s -= (heard.end - heard.begin) / VAD_RATE
                if missing_s <= 0:
                    break
        return list(cut(recording.blocks(rate), spans))

    def _decode_speech(self, recording: Recording) -> _Unfinished:
        """Find speech in a first pass and decode its clips in a second one."""
        decoder = self.decoder
        heard = Blocks(recording.blocks(VAD_RATE))
        rate = decoder.sample_rate
        speech = detect_speech(heard, utterances(decoder.options.window_s))
        duration_s = heard.num_samples / VAD_RATE
        speech_s = sum(segment.end_s - segment.start_s for segment in speech)
        logger.info("%s: %.1f of %.1f s are speech", recording.name or "audio", speech_s, duration_s)
        spans = [(round(segment.start_s * rate), round(segment.end_s * rate)) for segment in speech]
        clips = cut(recording.blocks(rate), spans)
        unfinished = _Unfinished(recording.name, duration_s)
        for some in gather(clips, SPEECH_BATCHES * decoder.batch_samples):
            done = len(unfinished.decoded)
            for segment, decoded in zip(speech[done : done + len(some)], decoder.decode(some), strict=True):
                unfinished.decoded.append((segment.start_s, decoded.if_speech(segment.is_sure)))
        return unfinished

    # From tokens to transcripts.

    def _decode_waiting(self, pool: Mapping[int, _Unfinished]) -> Iterator[int]:
        """Decode the clips that wait; yield the places of what is done, or cannot be and has its error, at once."""
        waiting = [(place, each, each.waiting) for place, each in pool.items() if each.waiting is not None]
        yield from pool.keys() - {place for place, _, _ in waiting}
        try:
            for batch in self.decoder.decode_in_batches([clip for _, _, clip in waiting]):
                for index, decoded in batch:
                    place, unfinished, _ = waiting[index]
                    _take(unfinished, decoded)
                    yield place
        except SpeechnarError:  # one clip spoils the batch: find it
            for place, unfinished, clip in waiting:
                if unfinished.waiting is not None:
                    self._decode_alone(unfinished, clip)
                    yield place

    def _decode_alone(self, unfinished: _Unfinished, clip: Samples) -> None:
        try:
            (decoded,) = self.decoder.decode([clip])
            _take(unfinished, decoded)
        except SpeechnarError as error:
            unfinished.error, unfinished.waiting = error, None

    def _assemble(self, unfinished: _Unfinished) -> Transcript:
        mass = sum((decoded.language_mass for _, decoded in unfinished.decoded), self._no_mass())
        language, probability = self.decoder.decide_language(mass)
        paths = [(start_s, decoded.path) for start_s, decoded in unfinished.decoded]
        segments = self.segments(paths, duration_s=unfinished.duration_s, language=language)
        task = "transcribe" if self.decoder.task == "asr" else "translate"
        tags = [tag for start_s, decoded in unfinished.decoded for tag in decoded.tags_from(start_s)]
        return self.transcript(
            unfinished.name, unfinished.duration_s, segments, language, probability, task=task, tags=tags
        )

    def _no_mass(self) -> npt.NDArray[np.float64]:
        return np.zeros(len(self.decoder.language_ids))

    def segments(self, paths: Sequence[tuple[float, CtcPath]], *, duration_s: float, language: str) -> list[Segment]:
        """Return what the token paths of clips, each with the second at which it begins, say until ``duration_s``."""
        segments = self._segments_of_words(paths, duration_s, language)
        return segments if self.word_timestamps else [replace(segment, words=None) for segment in segments]

    def _segments_of_words(
        self, paths: Sequence[tuple[float, CtcPath]], duration_s: float, language: str
    ) -> list[Segment]:
        decoder = self.decoder
        return to_segments(
            paths,
            decoder.tokenizer,
            frame_shift_s=decoder.model.frame_shift_s,
            duration_s=duration_s,
            language=decoder.text_language(language),
            plain=decoder.options.plain,
        )

    def transcript(
        self,
        name: str | None,
        duration_s: float,
        segments: Sequence[Segment],
        language: str,
        probability: float | None,
        *,
        task: str,
        tags: Sequence[AudioTags] = (),
    ) -> Transcript:
        """Return the segments of a recording as its transcript; ``tags`` are left out where the model tells none."""
        return Transcript(
            file=name,
            model=self.decoder.name,
            task=task,
            language=language,
            language_probability=probability,
            duration=duration_s,
            text=" ".join(segment.text for segment in segments),
            segments=tuple(segments),
            tags=tuple(tags) if self.decoder.tells_tags else None,
        )


def _take(unfinished: _Unfinished, decoded: Decoded) -> None:
    """Put what was made of the clip that waited in its place."""
    unfinished.decoded.append((0.0, decoded.if_speech(unfinished.is_speech)))
    unfinished.waiting = None


def in_order(found: Iterable[tuple[int, Transcript | SpeechnarError]]) -> Iterator[Transcript | SpeechnarError]:
    """Yield what comes with its place in the order of places: each once all before it have come."""
    early: dict[int, Transcript | SpeechnarError] = {}
    place = 0
    for found_place, outcome in found:
        early[found_place] = outcome
        while place in early:
            yield early.pop(place)
            place += 1
