"""The text encoder of Stable Diffusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from keras import ops
from pydantic import Field

from kgen import ConditionSpace, ConfigError, Encoder, RunError, freeze_layer
from kgen.pretrained import Section, Tensors, require_files, weight_files
from kgen_plugin_keras_cv.files import check_options, is_file, load_file
from kgen_plugin_keras_cv.library import VERSIONS, Number, new_model
from kgen_plugin_keras_cv.names import named, text_encoder_modules
from kgen_plugin_keras_cv.vocabulary import MERGES, make_tokenizer, read_vocabulary

Tensor = Any

LENGTH = 77
"""Number of tokens of a text (Radford et al. 2021, section 2.4)."""

EPSILON = 1e-5
"""The number that keras-cv's normalizations add to the variance."""

PART = "text_encoder"
"""The folder of the text encoder in a pipeline of diffusers."""

START = "text_model."
"""The beginning of the names of tensors, which some versions of `transformers` leave out."""

WITHOUT_EFFECT = """
_name_or_path architectures attention_dropout bos_token_id dropout dtype eos_token_id initializer_factor
initializer_range intermediate_size hidden_size num_hidden_layers pad_token_id projection_dim tie_word_embeddings
torch_dtype transformers_version vocab_size""".split()  # noqa: SIM905 (a list of literals is hard to read)
"""Keys of a configuration that do not change the output, or that the shapes of the tensors tell."""


class ClipText(Encoder):
    """The text encoder of Stable Diffusion 1 or 2, a model of keras-cv (CLIP, Radford et al. 2021).

    "sequence" has the normalized output for each of the 77 tokens. As in Stable Diffusion, the padding is encoded like
    the text: "mask" is 1 everywhere. "pooled" is the output for the first end token.

    With `pretrained`, the encoder is frozen. Without, it is trained together with the generator.

    Args:
        version: The version of Stable Diffusion: 1 (12 blocks of 768 features) or 2 (23 blocks of 1024 features).
        pretrained: Trained weights: a ``.h5`` file of keras-cv, or a folder that the package `transformers` has
            written, or a folder with a pipeline of diffusers; None: random weights.
        variant: The variant of the weights in the folder, such as "fp16"; None: the files without a variant.
        vocabulary: The file of the vocabulary: see `read_vocabulary`. None: that in the folder of `pretrained`, or else
            that of the package open-clip-torch.
        padding: What follows the text: its end token, "end", as in Stable Diffusion 1, and in keras-cv always; or the
            token 0, "zero", as in pipelines of Stable Diffusion 2 in diffusers.

    Raises:
        PluginError: in `adapt`, keras-cv, TensorFlow or the vocabulary is missing.
        ConfigError: in `adapt`, the files have another model.
    """

    def __init__(
        self,
        *,
        version: Number = 1,
        pretrained: Annotated[str, Field(min_length=1)] | None = None,
        variant: Annotated[str, Field(min_length=1)] | None = None,
        vocabulary: Annotated[str, Field(min_length=1)] | None = None,
        padding: Literal["end", "zero"] = "end",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_options(pretrained, variant)
        self.version = version
        self.pretrained = pretrained
        self.variant = variant
        self.vocabulary = vocabulary
        self.padding = padding
        self.blocks: list[Any] = []
        self._merges = ""
        self._dim = 0
        if pretrained is not None:
            self.trainable = False

    @classmethod
    def is_pretrained(cls, options: Mapping[str, Any]) -> bool:
        return options.get("pretrained") is not None

    @property
    def condition_space(self) -> ConditionSpace:
        self._require_model()
        return ConditionSpace(LENGTH, self._dim)

    def _require_model(self) -> None:
        if not self.blocks:
            raise ConfigError("encoder 'keras-cv/clip-text' has no vocabulary yet: call its adapt([]) first")

    # ---- files ----------------------------------------------------------------------------------------------------

    def adapt(self, inputs: Sequence[str]) -> None:
        """Reads the files. The inputs do not matter."""
        folder = None if self.pretrained is None or is_file(self.pretrained) else _folder(self.pretrained)
        self._set_model(read_vocabulary(self.vocabulary, folder), folder, read=self.pretrained is not None)

    def save_assets(self, path: str | Path) -> None:
        self._require_model()
        (Path(path) / MERGES).write_text(self._merges, encoding="utf-8", newline="\n")

    def load_assets(self, path: str | Path) -> None:
        """Reads what `save_assets` wrote. Raises RunError if it is damaged."""
        try:
            merges = read_vocabulary(str(Path(path) / MERGES), None)
        except ConfigError as error:
            raise RunError(f"the encoder is damaged: {error}") from error
        self._set_model(merges, None, read=False)

    def _set_model(self, merges: str, folder: Path | None, read: bool) -> None:
        """Makes the model and the tokenizer.

        Args:
            merges: The vocabulary.
            folder: The folder of the weights, if they are in a folder.
            read: Whether the weights are read from files now.
        """
        if read and folder is not None:
            self._check(folder)
        model = new_model(VERSIONS[self.version].text_encoder, self.dtype_policy, LENGTH)
        if read and folder is not None:
            self._fill(model, folder)
        elif read and self.pretrained is not None:
            load_file(model, self.pretrained)
        self._merges = merges
        self._tokenizer = make_tokenizer(merges)
        self._dim = int(model.output_shape[-1])
        self.blocks = [layer for layer in model.layers if layer.weights]
        if not self.trainable:
            freeze_layer(self)

    def _check(self, folder: Path) -> None:
        """Raises ConfigError if a configuration says what neither the names nor the shapes of the tensors tell."""
        config, version = Section.of_file(folder / "config.json"), VERSIONS[self.version]
        config.one_of("model_type", {"clip_text_model": None})
        config.one_of("hidden_act", {version.activation: None}, "quick_gelu")
        config.one_of("num_attention_heads", {version.heads: None}, 8)
        config.one_of("layer_norm_eps", {EPSILON: None}, 1e-5)
        config.one_of("max_position_embeddings", {LENGTH: None}, 77)
        config.ignore(*WITHOUT_EFFECT)
        config.finish()

    def _fill(self, model: Any, folder: Path) -> None:
        """Assigns the weights of a folder. Raises ConfigError if it has another model."""
        layers = [layer for layer in model.layers if layer.weights]
        infix = "" if self.variant is None else f".{self.variant}"
        files = weight_files(folder, f"model{infix}.safetensors", f"model.safetensors.index{infix}.json")
        convert = "transformers.CLIPTextModel.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        require_files(files, ["pytorch_model.bin"], convert)
        rename = lambda name: name if name.startswith(START) else f"{START}{name}"  # noqa: E731
        with Tensors(files, rename) as tensors:
            tensors.fill(*named(layers, text_encoder_modules(layers)), (".position_ids",))

    # ---- texts ----------------------------------------------------------------------------------------------------

    def tokenize(self, inputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns "ids", int32 (B, 77): a start token, the text, an end token, and padding; and "end", int32 (B,)."""
        self._require_model()
        last = self._tokenizer.end_of_text
        ids = np.full((len(inputs), LENGTH), last if self.padding == "end" else 0, np.int32)
        end = np.zeros((len(inputs),), np.int32)
        for row, text in enumerate(inputs):
            found = self._ids(text)
            found = found if len(found) <= LENGTH else [*found[: LENGTH - 1], last]
            ids[row, : len(found)] = found
            end[row] = found.index(last)
        return {"ids": ids, "end": end}

    def unread(self, value: str) -> str:
        self._require_model()
        count = len(self._ids(value))
        return f"only the first {LENGTH} of its {count} tokens are read" if count > LENGTH else ""

    def _ids(self, text: str) -> list[int]:
        """The tokens of a whole text, with the start and end token."""
        found: list[int] = self._tokenizer.encode(text.encode("utf-8", "replace").decode("utf-8"))
        return found

    def call(self, tokens: dict[str, Tensor], training: bool = False) -> dict[str, Tensor]:
        """{"ids": (B, 77), "end": (B,)} -> "sequence" (B, 77, D), "mask" (B, 77), "pooled" (B, D)."""
        embedding, *blocks = self.blocks
        places = ops.arange(LENGTH, dtype="int32")[None]  # (1, L)
        x = embedding([tokens["ids"], places])  # (B, L, D)
        for block in blocks:
            x = block(x)
        sequence = ops.cast(x, "float32")
        is_end = ops.cast(ops.equal(places, tokens["end"][:, None]), "float32")  # (B, L)
        pooled = ops.sum(sequence * is_end[..., None], axis=1)  # (B, D)
        return {"sequence": sequence, "mask": ops.ones_like(is_end), "pooled": pooled}


def _folder(path: str) -> Path:
    """The folder of a text encoder: the given one, or that in a pipeline. Raises ConfigError if there is none."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"{folder}: there is no such folder; give a folder of diffusers or transformers, or a file of keras-cv, "
            "whose name ends with .h5"
        )
    part = folder / PART
    return part if part.is_dir() and not (folder / "config.json").is_file() else folder
