"""Tiny models with tokenizers, saved in KerasHub's format."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import keras
import keras_hub
import pytest
import sentencepiece
from keras_hub.src.models.vae.vae_backbone import VAEBackbone
from kgen_plugin_keras_hub.sd3.library import t5_encoder_class
from tokenizers import pre_tokenizers

SENTENCES = ["a red heart", "a blue circle", "big green books and apples", "smiley", "fox, jump quick; lazy dog & view"]
CLIP_MARKS = ("<|startoftext|>", "<|endoftext|>")


def make_word_pieces() -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz,.&!'"
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), "heart", "red"]


def make_byte_pairs() -> tuple[dict[str, int], list[str]]:
    """Returns a vocabulary and merges like CLIP's: every byte, inside and at the end of a word, and a few pairs."""
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = ["r e", "re d</w>", "h e", "a r", "ar t</w>", "he art</w>"]
    words = [*signs, *(f"{sign}</w>" for sign in signs), *(merge.replace(" ", "") for merge in merges), *CLIP_MARKS]
    return {word: number for number, word in enumerate(words)}, merges


def make_sentence_pieces() -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4),
        model_writer=model,
        vocab_size=36,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece="<pad>",
        eos_piece="</s>",
        unk_piece="<unk>",
        minloglevel=2,
        hard_vocab_limit=True,
    )
    return model.getvalue()


def randomize(model: keras.Model) -> keras.Model:
    """Gives every weight a random value, because zeros and ones would hide weights that were swapped."""
    keras.utils.set_random_seed(1)
    for weight in model.weights:
        if "float" in weight.dtype:
            weight.assign(weight + keras.random.normal(weight.shape, stddev=0.2))
    return model


@pytest.fixture(scope="session")
def word_pieces() -> list[str]:
    return make_word_pieces()


@pytest.fixture(scope="session")
def byte_pairs() -> tuple[dict[str, int], list[str]]:
    return make_byte_pairs()


@pytest.fixture(scope="session")
def sentence_pieces() -> bytes:
    return make_sentence_pieces()


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    words = make_word_pieces()
    model = keras_hub.models.BertBackbone(len(words), 2, 2, 16, 32, max_sequence_length=24)
    randomize(model).save_to_preset(folder)
    keras_hub.tokenizers.BertTokenizer(words, lowercase=True).save_to_preset(folder)
    return folder


def clip_text_tower() -> keras.Model:
    return keras_hub.models.CLIPTextEncoder(len(make_byte_pairs()[0]), 16, 16, 2, 2, 32, max_sequence_length=20)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole CLIP, with its projection."""
    folder = tmp_path_factory.mktemp("clip")
    vision = keras_hub.models.CLIPVisionEncoder(4, 16, 1, 2, 32, image_shape=(8, 8, 3))
    vision.embedding.position_ids.assign([range(5)])  # which only weights of a preset set in KerasHub
    randomize(keras_hub.models.CLIPBackbone(vision, clip_text_tower(), projection_dim=8)).save_to_preset(folder)
    vocabulary, merges = make_byte_pairs()
    keras_hub.tokenizers.CLIPTokenizer(vocabulary, merges).save_to_preset(folder)
    return folder


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole SigLIP, with an image converter that is not that of the authors."""
    folder = tmp_path_factory.mktemp("siglip")
    vision = keras_hub.models.SigLIPVisionEncoder(4, 12, 2, 2, 24, image_shape=(8, 8, 3))
    text = keras_hub.models.SigLIPTextEncoder(20, 12, 12, 1, 2, 24, max_sequence_length=8)
    randomize(keras_hub.models.SigLIPBackbone(vision, text)).save_to_preset(folder)
    scale, offset = [1 / 50, 1 / 60, 1 / 70], [-0.3, 0.1, 0.5]
    keras_hub.layers.SigLIPImageConverter(
        image_size=(8, 8), scale=scale, offset=offset, crop_to_aspect_ratio=False, interpolation="bicubic"
    ).save_to_preset(folder)
    return folder


@pytest.fixture(scope="session")
def dinov2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv2 with registers."""
    folder = tmp_path_factory.mktemp("dinov2")
    model = keras_hub.models.DINOV2Backbone(
        4, 2, 12, 2, 24, num_register_tokens=2, image_shape=(12, 12, 3), position_embedding_shape=(12, 12)
    )
    randomize(model).save_to_preset(folder)
    keras_hub.layers.DINOV2ImageConverter(image_size=(12, 12), scale=1 / 255, offset=-0.5).save_to_preset(folder)
    return folder


@pytest.fixture(scope="session")
def tower_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP's text encoder alone."""
    folder = tmp_path_factory.mktemp("tower")
    randomize(clip_text_tower()).save_to_preset(folder)
    vocabulary, merges = make_byte_pairs()
    keras_hub.tokenizers.CLIPTokenizer(vocabulary, merges).save_to_preset(folder)
    return folder


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    randomize(keras_hub.models.T5Backbone(40, 1, 2, 16, 32)).save_to_preset(folder)
    keras_hub.tokenizers.T5Tokenizer(make_sentence_pieces()).save_to_preset(folder)
    return folder


def _clip_text(name: str, dim: int) -> keras.Model:
    return keras_hub.models.CLIPTextEncoder(
        len(make_byte_pairs()[0]),
        dim,
        dim,
        2,
        2,
        2 * dim,
        intermediate_output_index=-2,
        max_sequence_length=12,
        name=name,
    )


def _clip_preprocessor(name: str, pad_with_end_token: bool) -> Any:
    tokenizer = keras_hub.tokenizers.CLIPTokenizer(
        *make_byte_pairs(), pad_with_end_token=pad_with_end_token, config_file=f"{name}_tokenizer.json"
    )
    file = f"{name}_preprocessor.json"
    return keras_hub.models.CLIPPreprocessor(tokenizer, sequence_length=12, config_file=file)


def make_stable_diffusion_3(version: str) -> Any:
    """KerasHub's text-to-image model, tiny: version "3", or "3.5" with a T5, normalized queries and dual attention."""
    newer = version == "3.5"
    vae = VAEBackbone([32] * 4, [1] * 4, [32] * 4, [1] * 4, sample_channels=8)
    backbone = keras_hub.models.StableDiffusion3Backbone(
        mmdit_patch_size=2,
        mmdit_hidden_dim=16,
        mmdit_num_layers=2,
        mmdit_num_heads=2,
        mmdit_position_size=8,
        mmdit_qk_norm="rms_norm" if newer else None,
        mmdit_dual_attention_indices=(0,) if newer else None,
        vae=vae,
        clip_l=_clip_text("clip_l", 8),
        clip_g=_clip_text("clip_g", 12),
        t5=t5_encoder_class()(40, 1, 2, 24, 32, name="t5") if newer else None,
        latent_channels=4,
        image_shape=(32, 48, 3),
    )
    t5 = None
    if newer:
        tokenizer = keras_hub.tokenizers.T5Tokenizer(make_sentence_pieces(), config_file="t5_tokenizer.json")
        t5 = keras_hub.models.T5Preprocessor(tokenizer, sequence_length=14, config_file="t5_preprocessor.json")
    preprocessor = keras_hub.models.StableDiffusion3TextToImagePreprocessor(
        _clip_preprocessor("clip_l", True), _clip_preprocessor("clip_g", False), t5
    )
    randomize(backbone)
    return keras_hub.models.StableDiffusion3TextToImage(backbone, preprocessor)


@pytest.fixture(scope="session")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Stable Diffusion 3: KerasHub's model, and its preset."""
    model, folder = make_stable_diffusion_3("3"), tmp_path_factory.mktemp("sd3")
    model.save_to_preset(folder)
    return model, folder


@pytest.fixture(scope="session")
def sd35(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Stable Diffusion 3.5: KerasHub's model, and its preset."""
    model, folder = make_stable_diffusion_3("3.5"), tmp_path_factory.mktemp("sd35")
    model.save_to_preset(folder)
    return model, folder
