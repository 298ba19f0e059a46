"""One paper per file: config, module, loss, inference. The table of all models is here."""

from speechnar.models.asr.cassnat import CassNat, CassNatConfig
from speechnar.models.asr.joint import Joint, JointConfig
from speechnar.models.asr.owsm_ctc import OwsmCtc, OwsmCtcConfig
from speechnar.models.asr.paraformer import Paraformer, ParaformerConfig
from speechnar.models.asr.unienc import UniEnc, UniEncConfig
from speechnar.models.base import ModelEntry
from speechnar.models.judges.sound_classifier import SoundClassifier, SoundClassifierConfig
from speechnar.models.judges.speaker_verifier import SpeakerVerifier, SpeakerVerifierConfig
from speechnar.models.mt.fretna import Fretna, FretnaConfig
from speechnar.models.mt.fretna_ctc import FretnaCtc, FretnaCtcConfig
from speechnar.models.mt.reta import Reta, RetaConfig
from speechnar.models.mt.wait_k import WaitK, WaitKConfig
from speechnar.models.sound.enat import Enat, EnatConfig
from speechnar.models.sound.encodec import Encodec, EncodecConfig, EncodecGan, EncodecGanConfig
from speechnar.models.sound.magnet import Magnet, MagnetConfig
from speechnar.models.sound.music_ar import MusicAr, MusicArConfig
from speechnar.models.tts.ardit_one_step import TtsDistillation, TtsDistillationConfig
from speechnar.models.tts.mel_autoencoder import MelAutoencoder, MelAutoencoderConfig
from speechnar.models.tts.mel_pca import MelPca, MelPcaConfig
from speechnar.models.tts.monophones import Monophones, MonophonesConfig
from speechnar.models.tts.tts import Tts, TtsConfig
from speechnar.models.tts.vocos import Vocos, VocosConfig
from speechnar.models.tts.vocos_adversary import VocosGan, VocosGanConfig

MODELS: dict[str, ModelEntry] = {
    "cassnat": ModelEntry(CassNatConfig, CassNat),
    "enat": ModelEntry(EnatConfig, Enat),
    "encodec": ModelEntry(EncodecConfig, Encodec),
    "encodec_gan": ModelEntry(EncodecGanConfig, EncodecGan),
    "fretna": ModelEntry(FretnaConfig, Fretna),
    "fretna_ctc": ModelEntry(FretnaCtcConfig, FretnaCtc),
    "joint": ModelEntry(JointConfig, Joint),
    "magnet": ModelEntry(MagnetConfig, Magnet),
    "mel_autoencoder": ModelEntry(MelAutoencoderConfig, MelAutoencoder),
    "mel_pca": ModelEntry(MelPcaConfig, MelPca),
    "monophones": ModelEntry(MonophonesConfig, Monophones),
    "music_ar": ModelEntry(MusicArConfig, MusicAr),
    "owsm_ctc": ModelEntry(OwsmCtcConfig, OwsmCtc),
    "paraformer": ModelEntry(ParaformerConfig, Paraformer),
    "reta": ModelEntry(RetaConfig, Reta),
    "sound_classifier": ModelEntry(SoundClassifierConfig, SoundClassifier),
    "speaker_verifier": ModelEntry(SpeakerVerifierConfig, SpeakerVerifier),
    "tts": ModelEntry(TtsConfig, Tts),
    "tts_distillation": ModelEntry(TtsDistillationConfig, TtsDistillation),
    "unienc": ModelEntry(UniEncConfig, UniEnc),
    "vocos": ModelEntry(VocosConfig, Vocos),
    "vocos_gan": ModelEntry(VocosGanConfig, VocosGan),
    "wait_k": ModelEntry(WaitKConfig, WaitK),
}
