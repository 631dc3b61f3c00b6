"""Captions and prompts that the encoder does not read whole are counted, and named."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from command_line import GOOD
from gaussian import Gaussian
from kgen_plugin_text.bag import BagOfWords
from kgen_plugin_text.transformer import TransformerText
from parts import Patterns

import kgen
from kgen.errors import UnreadTextWarning
from kgen.runs.first_lines import unread_captions

pytestmark = pytest.mark.portable


def bag(**options: int) -> BagOfWords:
    encoder = BagOfWords(dim=4, **options)
    encoder.adapt(["a red heart", "a blue circle"])
    return encoder


def test_words_that_are_cut_or_unknown_are_named() -> None:
    encoder = bag(length=4)
    assert encoder.unread("a red heart") == "" and encoder.unread("") == ""
    assert encoder.unread("a red heart circle blue") == "only the first 3 of its 5 words are read"
    assert encoder.unread("a purple heart") == "'purple' was not learned"
    assert encoder.unread("purple green heart blue") == (
        "only the first 3 of its 4 words are read; 'purple', 'green' were not learned"
    )


def test_tokens_that_are_cut_are_counted() -> None:
    encoder = TransformerText(length=4, vocabulary=300, dim=8, depth=1, heads=2)
    encoder.adapt(["a red heart", "a red heart"])
    assert encoder.unread("a red heart") == ""  # learned whole: the begin, and a token per word
    count = (TransformerText.tokenize(longer(encoder), ["a red heart zzz"])["ids"] != 0).sum()
    assert encoder.unread("a red heart zzz") == f"only the first 4 of its {count} tokens are read"


def longer(encoder: TransformerText) -> TransformerText:
    twin = TransformerText(length=64, vocabulary=300, dim=8, depth=1, heads=2)
    twin.tokenizer = encoder.tokenizer
    return twin


def test_generate_warns_of_such_prompts_and_of_no_others() -> None:
    space, encoder = kgen.Space("continuous", (4, 4, 3)), bag()
    pipeline = kgen.assemble(encoder=encoder, generator=Gaussian(space, encoder.condition_space), image_space=space)
    with pytest.warns(UnreadTextWarning, match="prompt 'a purple heart': 'purple' was not learned"):
        pipeline.generate(["a red heart", "a purple heart"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnreadTextWarning)
        pipeline.generate(["a red heart"])


def test_a_trained_encoder_without_any_caption_is_named() -> None:
    class Empty(Patterns):
        def captions(self, split: str) -> list[str]:
            return [""] * len(super().captions(split))

    encoder = bag()
    (line,) = unread_captions(Empty(count=4), encoder)
    assert (
        line == "all captions are empty, and encoder 'text/bag' reads nothing else: 'encoder: none' says that "
        "images have no text"
    )
    encoder.trainable = False
    assert not list(unread_captions(Empty(count=4), encoder))


def test_commands_warn_of_unread_words_in_one_line_each(kgen, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(GOOD.replace("encoder: letters", "encoder: {name: text/bag, dim: 4, length: 1}"))
    outcome = kgen("run", config, cwd=tmp_path)
    assert outcome.status == 0, outcome.err
    assert "fit.batch_size is 4, so that each batch contains the 2 images several times" in outcome.out
    small = kgen("run", config, "--set", "fit.batch_size=2", "--out", "runs/small", cwd=tmp_path)
    assert small.status == 0 and "batch_size" not in small.out, small
    assert (
        "3 of 3 different captions are not read completely by encoder 'text/bag', such as 'red': only the first 0"
        in " ".join(outcome.out.split())
    )
    outcome = kgen("generate", "runs/run", "violet", cwd=tmp_path)
    assert outcome.status == 0 and outcome.err.startswith(
        "warning: prompt 'violet': only the first 0 of its 1 words are"
    )
    assert len(outcome.err.splitlines()) == 1
