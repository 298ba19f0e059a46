"""One paper per file: config, module, loss, inference. The table of all models is here.

A model is imported when a configuration or a folder of its kind is opened, and then alone.
"""

from speechnar.models.base import ModelEntry

MODELS: dict[str, ModelEntry] = {
    "cassnat": ModelEntry("speechnar.models.asr.cassnat", "CassNatConfig", "CassNat"),
    "enat": ModelEntry("speechnar.models.sound.enat", "EnatConfig", "Enat"),
    "encodec": ModelEntry("speechnar.models.sound.encodec", "EncodecConfig", "Encodec"),
    "encodec_gan": ModelEntry("speechnar.models.sound.encodec", "EncodecGanConfig", "EncodecGan"),
    "fretna": ModelEntry("speechnar.models.mt.fretna", "FretnaConfig", "Fretna"),
    "fretna_ctc": ModelEntry("speechnar.models.mt.fretna_ctc", "FretnaCtcConfig", "FretnaCtc"),
    "joint": ModelEntry("speechnar.models.asr.joint", "JointConfig", "Joint"),
    "magnet": ModelEntry("speechnar.models.sound.magnet", "MagnetConfig", "Magnet"),
    "mel_autoencoder": ModelEntry("speechnar.models.tts.mel_autoencoder", "MelAutoencoderConfig", "MelAutoencoder"),
    "mel_pca": ModelEntry("speechnar.models.tts.mel_pca", "MelPcaConfig", "MelPca"),
    "monophones": ModelEntry("speechnar.models.tts.monophones", "MonophonesConfig", "Monophones"),
    "music_ar": ModelEntry("speechnar.models.sound.music_ar", "MusicArConfig", "MusicAr"),
    "owsm_ctc": ModelEntry("speechnar.models.asr.owsm_ctc", "OwsmCtcConfig", "OwsmCtc"),
    "paraformer": ModelEntry("speechnar.models.asr.paraformer", "ParaformerConfig", "Paraformer"),
    "reta": ModelEntry("speechnar.models.mt.reta", "RetaConfig", "Reta"),
    "sensevoice": ModelEntry("speechnar.models.asr.sensevoice", "SenseVoiceConfig", "SenseVoice"),
    "sound_classifier": ModelEntry(
        "speechnar.models.judges.sound_classifier", "SoundClassifierConfig", "SoundClassifier"
    ),
    "speaker_verifier": ModelEntry(
        "speechnar.models.judges.speaker_verifier", "SpeakerVerifierConfig", "SpeakerVerifier"
    ),
    "tts": ModelEntry("speechnar.models.tts.tts", "TtsConfig", "Tts"),
    "tts_distillation": ModelEntry("speechnar.models.tts.ardit_one_step", "TtsDistillationConfig", "TtsDistillation"),
    "unienc": ModelEntry("speechnar.models.asr.unienc", "UniEncConfig", "UniEnc"),
    "vocos": ModelEntry("speechnar.models.tts.vocos", "VocosConfig", "Vocos"),
    "vocos_coded": ModelEntry("speechnar.models.tts.vocos_coded", "VocosCodedConfig", "VocosCoded"),
    "vocos_gan": ModelEntry("speechnar.models.tts.vocos_adversary", "VocosGanConfig", "VocosGan"),
    "wait_k": ModelEntry("speechnar.models.mt.wait_k", "WaitKConfig", "WaitK"),
    "wav2vec2": ModelEntry("speechnar.models.asr.wav2vec2", "Wav2Vec2ModelConfig", "Wav2Vec2"),
    "whisper": ModelEntry("speechnar.models.asr.whisper", "WhisperModelConfig", "Whisper"),
}
