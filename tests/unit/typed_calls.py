"""Right and wrong calls of the public names, for `test_typing`: never run, only read by a type checker.

Every wrong call carries the complaint that is expected of it; where there is none, the comment is in vain, which is a
complaint as well (``warn_unused_ignores``).
"""

from pathlib import Path
from typing import assert_type

import numpy as np
import torch

import speechnar

# What is right.
assert_type(speechnar.transcribe("a.wav", language="eng", word_timestamps=True), speechnar.Transcript)
assert_type(speechnar.transcribe([Path("a.wav"), Path("b.wav")]), list[speechnar.Transcript])
assert_type(speechnar.transcribe(np.zeros(9), sample_rate=16000, model="joint-asr"), speechnar.Transcript)
assert_type(speechnar.transcribe(torch.zeros(9), sample_rate=16000, device="cpu"), speechnar.Transcript)
assert_type(speechnar.translate("a.wav", to="deu", options=speechnar.DecodeOptions(beam_size=4)), speechnar.Transcript)
assert_type(speechnar.translate(["a.wav"], to="deu", translator="multi30k-eng-deu"), list[speechnar.Transcript])
assert_type(speechnar.detect_language(b"RIFF"), speechnar.DetectedLanguage)
assert_type(speechnar.align("a.wav", "hello", language="eng"), speechnar.Transcript)
assert_type(speechnar.synthesize("Hello.", seed=7, speed=1.5, voice="me.wav"), speechnar.Speech)
assert_type(speechnar.edit("a.wav", "hello there", old_text="hello", candidates=2), speechnar.EditedSpeech)
assert_type(speechnar.synthesize("Hello.", options=speechnar.SynthesizeOptions(speed=1.5, steps=4)), speechnar.Speech)
assert_type(speechnar.edit("a.wav", "hello", options=speechnar.EditOptions(candidates=2)), speechnar.EditedSpeech)
assert_type(speechnar.generate("rain", options=speechnar.GeneratorOptions(guidance=3.0)), speechnar.Sound)
assert_type(speechnar.Transcriber.load("joint-asr").transcribe(["a.wav"]), list[speechnar.Transcript])
assert_type(speechnar.Translator.load().translate("Hello."), speechnar.Translation)
assert_type(speechnar.Translator.load().translate(["Hello."]), list[speechnar.Translation])
speechnar.Translator.load().stream(options=speechnar.TranslationOptions(bias=0.5))

# Options that do not exist.
speechnar.transcribe("a.wav", languge="eng")  # type: ignore[call-overload]
speechnar.transcribe("a.wav", to="deu")  # type: ignore[call-overload]
speechnar.translate("a.wav", to="deu", beam_size=4)  # type: ignore[call-overload]
speechnar.detect_language("a.wav", word_timestamps=True)  # type: ignore[call-overload]
speechnar.align("a.wav", "hello", langauge="eng")  # type: ignore[call-arg]
speechnar.synthesize("Hello.", sede=7)  # type: ignore[call-arg]
speechnar.edit("a.wav", "hello", new_txt="hello")  # type: ignore[call-arg]
speechnar.generate("rain", secs=3)  # type: ignore[call-arg]
speechnar.DecodeOptions(hotword="dog")  # type: ignore[call-arg]
speechnar.GeneratorOptions(step=3)  # type: ignore[call-arg]
speechnar.SynthesizeOptions(candidates=2)  # type: ignore[call-arg]
speechnar.EditOptions(speed=2.0)  # type: ignore[call-arg]
speechnar.TranslationOptions(beam=3)  # type: ignore[call-arg]

# Arguments of another type, or missing.
speechnar.transcribe(3)  # type: ignore[call-overload]
speechnar.transcribe("a.wav", word_timestamps="yes")  # type: ignore[call-overload]
speechnar.transcribe("a.wav", options={"beam_size": 4})  # type: ignore[call-overload]
speechnar.translate("a.wav")  # type: ignore[call-overload]
speechnar.synthesize("Hello.", speed="fast")  # type: ignore[arg-type]
speechnar.synthesize(b"Hello.")  # type: ignore[arg-type]
speechnar.edit("a.wav", "hello", candidates=2.5)  # type: ignore[arg-type]
speechnar.synthesize("Hello.", options=speechnar.EditOptions())  # type: ignore[arg-type]
speechnar.generate("rain", options=speechnar.DecodeOptions())  # type: ignore[arg-type]
speechnar.DecodeOptions("ctc")  # type: ignore[call-arg]

# Names and attributes that do not exist.
speechnar.transcrib("a.wav")  # type: ignore[attr-defined]
print(speechnar.transcribe("a.wav").txt)  # type: ignore[attr-defined]
print(speechnar.transcribe(["a.wav"]).text)  # type: ignore[attr-defined]
print(speechnar.generate("rain").joint)  # type: ignore[attr-defined]
