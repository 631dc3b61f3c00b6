"""Tiny models with tokenizers, saved in KerasHub's format."""

from __future__ import annotations

import io
from pathlib import Path

import keras
import keras_hub
import pytest
import sentencepiece
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
    randomize(keras_hub.models.CLIPBackbone(vision, clip_text_tower(), projection_dim=8)).save_to_preset(folder)
    vocabulary, merges = make_byte_pairs()
    keras_hub.tokenizers.CLIPTokenizer(vocabulary, merges).save_to_preset(folder)
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
