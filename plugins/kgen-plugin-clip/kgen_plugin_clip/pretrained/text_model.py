"""The text tower of a published CLIP alone, as in the pipelines of diffusers: a folder of `transformers`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kgen_plugin_text.clip import END
from tokenizers import Tokenizer

from kgen import ConfigError, read_json
from kgen.pretrained import LoraNames, Section, Tensors, require_files, require_folder
from kgen_plugin_clip.pretrained import hugging_face
from kgen_plugin_clip.pretrained.architecture import TextArchitecture
from kgen_plugin_clip.pretrained.model import ARCHITECTURE, PICKLES, clip_tokenizer_of, text_weights
from kgen_plugin_clip.pretrained.text import PretrainedText, saved_tokenizer

PART = "text_encoder"
"""The name of the folder in a pipeline."""

TOKENIZER_SETTINGS = "tokenizer_config.json"

CONVERSION = "transformers.CLIPTextModel.from_pretrained(FOLDER).save_pretrained(FOLDER)"


class PretrainedTextModel:
    """The architecture, tokenizer and weights of a text tower.

    Args:
        architecture: The architecture.
        tokenizer: The tokenizer.
        folder: The folder of the weights; None: they are loaded from elsewhere.
        variant: The variant of the weights, such as "fp16"; None: the file without a variant.
    """

    def __init__(
        self,
        architecture: TextArchitecture,
        tokenizer: Tokenizer,
        folder: Path | None = None,
        variant: str | None = None,
    ) -> None:
        self.architecture = architecture
        self.tokenizer = tokenizer
        self.folder = folder
        self.variant = variant

    @classmethod
    def of_folder(cls, path: str, variant: str | None = None) -> PretrainedTextModel:
        """Reads the configuration and the tokenizer of a folder.

        Args:
            path: The folder of the text tower, or that of a pipeline, whose first text tower is read. The tokenizer is
                in the same folder, or in the pipeline's folder "tokenizer" beside it ("tokenizer_2" of
                "text_encoder_2").
            variant: The variant of the weights.

        Raises:
            ConfigError: there is no model, or another one than CLIP's text tower. The message names the file.
        """
        folder = require_folder(path)
        if not (folder / hugging_face.CONFIG).is_file() and (folder / PART).is_dir():
            folder = folder / PART
        beside = folder.parent / folder.name.replace(PART, "tokenizer")
        own = beside if folder.name.startswith(PART) and beside.is_dir() else folder
        tokenizer = clip_tokenizer_of(own)
        padding = _padding(own)
        if tokenizer.token_to_id(padding) is None:
            raise ConfigError(f"{own / TOKENIZER_SETTINGS}: 'pad_token' {padding!r:.80} is no token of the tokenizer")
        architecture = hugging_face.text_architecture(folder, tokenizer.token_to_id(END), padding)
        if (size := tokenizer.get_vocab_size()) > architecture.vocabulary:
            known = architecture.vocabulary
            raise ConfigError(f"{own}: the tokenizer has {size} tokens, but the model knows {known}")
        found = cls(architecture, tokenizer, folder, variant)
        require_files(found._files(), PICKLES, CONVERSION)
        return found

    @classmethod
    def of_assets(cls, path: Path) -> PretrainedTextModel:
        """Reads what `save` wrote. Raises RunError if it is damaged."""
        return cls(read_json(path / ARCHITECTURE, TextArchitecture), saved_tokenizer(path))

    def save(self, path: Path) -> None:
        """Writes the architecture; the text tower writes the tokenizer."""
        (path / ARCHITECTURE).write_text(json.dumps(asdict(self.architecture), indent=1), encoding="utf-8")

    def tower(self, policy: Any) -> PretrainedText:
        """Makes the layer."""
        model = self.architecture
        return PretrainedText(model, self.tokenizer, model.padding, dtype=policy, name="text")

    def fill(self, tower: PretrainedText, projection: Any) -> None:
        """Assigns the weights of the folder.

        Args:
            tower: The built tower.
            projection: The kernel of the projection to the embeddings of texts; None: there is none.

        Raises:
            ConfigError: the files do not fit the configuration, or cannot be read.
        """
        if self.folder is None:
            return
        weights, sources = text_weights(tower), hugging_face.text_sources(self.architecture.text)
        if projection is not None:
            weights["text/projection"], sources["text/projection"] = projection, hugging_face.PROJECTION
        with Tensors(self._files(), hugging_face.full_name) as tensors:
            tensors.fill(weights, sources, hugging_face.NO_WEIGHTS)

    def lora_names(self) -> LoraNames:
        """The names of the layers in LoRA files, which are those of `transformers`."""
        sources = hugging_face.text_sources(self.architecture.text)
        kernels = {name.replace("text/", "tower/blocks/"): s for name, s in sources.items() if s.form == "transposed"}
        if self.architecture.dim is not None:
            kernels["projection/kernel"] = hugging_face.PROJECTION
        return LoraNames(kernels, "text_encoder", "lora_te", optional=f"{hugging_face.TEXT}.")

    def _files(self) -> list[Path]:
        assert self.folder is not None
        return hugging_face.files(self.folder, self.variant)


def _padding(folder: Path) -> str:
    """The token with which the tokenizer of a folder fills up a text. Files that do not say so mean the end token."""
    if not (folder / TOKENIZER_SETTINGS).is_file():
        return END
    settings = Section.of_file(folder / TOKENIZER_SETTINGS)
    found = settings.value("pad_token", None) or END
    found = found.get("content") if isinstance(found, dict) else found  # as in older files
    return found if isinstance(found, str) else settings.refuse("pad_token", f"must be a token, not {found!r:.80}")
