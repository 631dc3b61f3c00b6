"""The layout of a CLIPModel of the package `transformers`: config.json, model.safetensors, preprocessor_config.json."""

from __future__ import annotations

from pathlib import Path

from kgen_plugin_vision.preprocessing import Preprocessing

from kgen.pretrained import Section, Source, weight_files
from kgen_plugin_clip.pretrained.architecture import Architecture, TextArchitecture, Tower
from kgen_plugin_clip.transformer import EPSILON

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PROCESSOR, WHOLE_PROCESSOR = "preprocessor_config.json", "processor_config.json"

TEXT, PROJECTION = "text_model", Source(("text_projection.weight",), "transposed")
"""The first part of the names of the text tower's tensors, and its projection to the embeddings."""

NO_WEIGHTS = (".position_ids",)
"""Ends of the names of tensors that older versions wrote, which only count the positions."""

WITHOUT_EFFECT = """
_attn_implementation_autoset _commit_hash _name_or_path add_cross_attention architectures attention_dropout
attn_implementation bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward cross_attention_hidden_size
decoder_start_token_id diversity_penalty do_sample dropout dtype early_stopping encoder_no_repeat_ngram_size
exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id gradient_checkpointing id2label
initializer_factor initializer_range is_decoder is_encoder_decoder label2id length_penalty max_length min_length
model_type no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states
output_scores pad_token_id prefix problem_type projection_dim pruned_heads remove_invalid_values repetition_penalty
return_dict return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript transformers_version
typical_p use_bfloat16 use_cache""".split()  # noqa: SIM905 (a list of literals is hard to read)
"""Keys of a tower's section that `transformers` writes for all models, or which matter only in training."""

ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu"}

LEGACY_END = 2
"""The `eos_token_id` of old configurations, which is wrong: the end token has the largest id."""


def architecture(folder: Path, end: int) -> Architecture:
    """Reads the configurations of a folder. Keys that `transformers` leaves out have its defaults.

    Args:
        folder: The folder.
        end: The id of the tokenizer's end token.

    Raises:
        ConfigError: a file is missing, or describes another model. The message names the file and the key.
    """
    config = Section.of_file(folder / CONFIG)
    config.one_of("model_type", {"clip": None})
    dim = config.whole("projection_dim", 512)
    text, image = (_tower_section(config, name) for name in ("text", "vision"))
    config.ignore("logit_scale_init_value", *WITHOUT_EFFECT)
    config.finish()
    length, vocabulary = _tokens(text, end)
    size, patch = (
        image.side(key, ("height", "width"), default) for key, default in (("image_size", 224), ("patch_size", 32))
    )
    if size % patch:
        image.refuse("patch_size", f"must divide the image_size {size}, but is {patch}")
    image.one_of("num_channels", {3: None}, 3)
    towers = _tower(text, 512, 2048, 8), _tower(image, 768, 3072, 12)
    return Architecture(towers[0], length, vocabulary, towers[1], size, patch, dim, preprocessing(folder, size))


def text_architecture(folder: Path, end: int, padding: str) -> TextArchitecture:
    """Reads the configuration of a CLIPTextModel or CLIPTextModelWithProjection; see `architecture`.

    Args:
        folder: The folder.
        end: The id of the tokenizer's end token.
        padding: The token with which its tokenizer fills up a text.
    """
    config = Section.of_file(folder / CONFIG)
    config.one_of("model_type", {"clip_text_model": None})
    classes = {("CLIPTextModel",): False, ("CLIPTextModelWithProjection",): True}
    given = config.value("architectures", [next(iter(classes))[0]])
    if (key := tuple(given) if isinstance(given, list) else ()) not in classes:
        config.refuse(
            "architectures", f"must be {' or '.join(str(list(known)) for known in classes)}, not {given!r:.80}"
        )
    dim = config.whole("projection_dim", 512) if classes[key] else None
    length, vocabulary = _tokens(config, end)
    return TextArchitecture(_tower(config, 512, 2048, 8), length, vocabulary, dim, padding)


def _tokens(text: Section, end: int) -> tuple[int, int]:
    """The number of tokens per text, and that of different tokens."""
    length, vocabulary = text.whole("max_position_embeddings", 77), text.whole("vocab_size", 49408)
    text.one_of("eos_token_id", {end: None, LEGACY_END: None} if end == vocabulary - 1 else {end: None}, 49407)
    return length, vocabulary


def _tower_section(config: Section, name: str) -> Section:
    """The section of a tower; an old key with the suffix "_dict" replaces some of its values."""
    section = config.section(f"{name}_config")
    changes = config.value(f"{name}_config_dict", None)
    if changes is None:
        return section
    return Section(section.file, {**section.data, **config.section(f"{name}_config_dict").data}, section.place)


def _tower(section: Section, width: int, hidden: int, heads: int) -> Tower:
    found = Tower(
        width=section.whole("hidden_size", width),
        depth=section.whole("num_hidden_layers", 12),
        heads=section.whole("num_attention_heads", heads),
        hidden=section.whole("intermediate_size", hidden),
        activation=section.one_of("hidden_act", ACTIVATIONS, "quick_gelu"),
        epsilon=section.number("layer_norm_eps", EPSILON),
    )
    if found.width % found.heads:
        section.refuse("hidden_size", f"must be a multiple of the {found.heads} attention heads, but is {found.width}")
    section.ignore(*WITHOUT_EFFECT, "eos_token_id")
    section.finish()
    return found


def preprocessing(folder: Path, size: int) -> Preprocessing:
    """Reads the configuration of a CLIPImageProcessor, whose crops must have the given size."""
    if not (folder / PROCESSOR).is_file() and (folder / WHOLE_PROCESSOR).is_file():
        section = Section.of_file(folder / WHOLE_PROCESSOR).section("image_processor")
    else:
        section = Section.of_file(folder / PROCESSOR)
    found = Preprocessing.of_processor(section, size)
    if found.crop != size:
        section.refuse("crop_size", f"must be {size}, the image_size of the model, but is {found.crop}")
    return found


def files(folder: Path, variant: str | None = None) -> list[Path]:
    """The files of the weights: one, or those that an index lists. None: those without a variant, such as "fp16"."""
    if variant is None:
        return weight_files(folder, WEIGHTS, INDEX)
    return weight_files(folder, f"model.{variant}.safetensors", f"model.safetensors.index.{variant}.json")


def sources(model: Architecture) -> dict[str, Source]:
    """The source of each weight."""
    found = {
        "scale": Source(("logit_scale",)),
        **text_sources(model.text),
        "text/projection": PROJECTION,
        "image/class": Source(("vision_model.embeddings.class_embedding",)),
        "image/cut": Source(("vision_model.embeddings.patch_embedding.weight",), "patches"),
        "image/positions": Source(("vision_model.embeddings.position_embedding.weight",)),
        "image/projection": Source(("visual_projection.weight",), "transposed"),
        **_norm("image/before", "vision_model.pre_layrnorm"),
        **_norm("image/after", "vision_model.post_layernorm"),
    }
    return found | _blocks("image", "vision_model", model.image)


def text_sources(tower: Tower) -> dict[str, Source]:
    """The source of each weight of the text tower."""
    return {
        "text/tokens": Source((f"{TEXT}.embeddings.token_embedding.weight",)),
        "text/positions": Source((f"{TEXT}.embeddings.position_embedding.weight",)),
        **_norm("text/norm", f"{TEXT}.final_layer_norm"),
        **_blocks("text", TEXT, tower),
    }


def full_name(name: str) -> str:
    """The name of a tensor of a text tower; some versions of `transformers` leave its first part out."""
    return name if name.startswith((f"{TEXT}.", "text_projection.")) else f"{TEXT}.{name}"


def _blocks(here: str, there: str, tower: Tower) -> dict[str, Source]:
    found: dict[str, Source] = {}
    for number in range(tower.depth):
        found |= _block(f"{here}/{number}", f"{there}.encoder.layers.{number}")
    return found


def _norm(here: str, there: str) -> dict[str, Source]:
    return {f"{here}/gamma": Source((f"{there}.weight",)), f"{here}/beta": Source((f"{there}.bias",))}


def _dense(here: str, *there: str) -> dict[str, Source]:
    kernel = Source(tuple(f"{name}.weight" for name in there), "transposed")
    return {f"{here}/kernel": kernel, f"{here}/bias": Source(tuple(f"{name}.bias" for name in there))}


def _block(here: str, there: str) -> dict[str, Source]:
    return {
        **_norm(f"{here}/norm1", f"{there}.layer_norm1"),
        **_dense(f"{here}/qkv", *(f"{there}.self_attn.{part}_proj" for part in "qkv")),
        **_dense(f"{here}/out", f"{there}.self_attn.out_proj"),
        **_norm(f"{here}/norm2", f"{there}.layer_norm2"),
        **_dense(f"{here}/widen", f"{there}.mlp.fc1"),
        **_dense(f"{here}/narrow", f"{there}.mlp.fc2"),
    }
