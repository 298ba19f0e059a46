"""One paper per file: config, module, loss, inference. The table of all models is here."""

from speechnar.models.ardit_one_step import TtsDistillation, TtsDistillationConfig
from speechnar.models.base import ModelEntry
from speechnar.models.cassnat import CassNat, CassNatConfig
from speechnar.models.codec import MelPca, MelPcaConfig
from speechnar.models.enat import Enat, EnatConfig
from speechnar.models.encodec import Encodec, EncodecConfig, EncodecGan, EncodecGanConfig
from speechnar.models.fretna import Fretna, FretnaConfig
from speechnar.models.fretna_ctc import FretnaCtc, FretnaCtcConfig
from speechnar.models.joint import Joint, JointConfig
from speechnar.models.magnet import Magnet, MagnetConfig
from speechnar.models.mel_autoencoder import MelAutoencoder, MelAutoencoderConfig
from speechnar.models.monophones import Monophones, MonophonesConfig
from speechnar.models.music_ar import MusicAr, MusicArConfig
from speechnar.models.owsm_ctc import OwsmCtc, OwsmCtcConfig
from speechnar.models.paraformer import Paraformer, ParaformerConfig
from speechnar.models.reta import Reta, RetaConfig
from speechnar.models.sound_classifier import SoundClassifier, SoundClassifierConfig
from speechnar.models.speaker_verifier import SpeakerVerifier, SpeakerVerifierConfig
from speechnar.models.tts import Tts, TtsConfig
from speechnar.models.unienc import UniEnc, UniEncConfig
from speechnar.models.vocos import Vocos, VocosConfig
from speechnar.models.vocos_adversary import VocosGan, VocosGanConfig
from speechnar.models.wait_k import WaitK, WaitKConfig

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
