"""The layout of OpenCLIP's own library: open_clip_config.json and open_clip_model.safetensors."""

from __future__ import annotations

from pathlib import Path

from kgen_plugin_vision.preprocessing import DEVIATION, MEAN, Preprocessing

from kgen.pretrained import Section, Source
from kgen_plugin_clip.pretrained.architecture import Architecture, Tower
from kgen_plugin_clip.transformer import EPSILON, Activation

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"

NO_WEIGHTS = ("attn_mask",)
"""The end of the name of a tensor that older versions wrote: which positions a token sees."""

FILTERS = {name: name for name in ("bicubic", "bilinear")}


def architecture(folder: Path, end: int) -> Architecture:
    """Reads the configuration of a folder. Keys that OpenCLIP leaves out have its defaults.

    Args:
        folder: The folder.
        end: The id of the tokenizer's end token, which OpenCLIP expects to be the largest.

    Raises:
        ConfigError: the file is missing, or describes another model. The message names the file and the key.
    """
    config = Section.of_file(folder / CONFIG)
    model = config.section("model_cfg")
    activation = model.one_of("quick_gelu", {True: "quick_gelu", False: "gelu"}, False)
    model.one_of("custom_text", {False: None}, False)
    text, image = model.section("text_cfg"), model.section("vision_cfg")
    size, patch = (
        image.side(key, ("height", "width"), default) for key, default in (("image_size", 224), ("patch_size", 16))
    )
    if size % patch:
        image.refuse("patch_size", f"must divide the image_size {size}, but is {patch}")
    width = image.whole("width", 768)
    length, vocabulary = text.whole("context_length", 77), text.whole("vocab_size", 49408)
    if vocabulary != end + 1:
        text.refuse("vocab_size", f"must be {end + 1}, one more than the end token of the tokenizer, not {vocabulary}")
    found = Architecture(
        text=_tower(text, text.whole("width", 512), text.whole("heads", 8), activation),
        length=length,
        vocabulary=vocabulary,
        image=_tower(image, width, max(1, width // image.whole("head_width", 64)), activation),
        size=size,
        patch=patch,
        dim=model.whole("embed_dim"),
        preprocessing=_preprocessing(config, size),
    )
    for section in (model, config):
        section.finish()
    return found


def _tower(section: Section, width: int, heads: int, activation: Activation) -> Tower:
    if width % heads:
        section.refuse("width", f"must be a multiple of the {heads} attention heads, but is {width}")
    ratio = section.number("mlp_ratio", 4.0)
    found = Tower(width, section.whole("layers", 12), heads, int(width * ratio), activation, EPSILON)
    section.finish()
    return found


def _preprocessing(config: Section, size: int) -> Preprocessing:
    """The section `preprocess_cfg`, which older files lack."""
    section = Section(config.file, config.value("preprocess_cfg", {}), "preprocess_cfg.")
    if section.side("size", ("height", "width"), size) != size:
        section.refuse("size", f"must be {size}, the image_size of the model")
    section.one_of("mode", {"RGB": None}, "RGB")
    section.one_of("resize_mode", {"shortest": None}, "shortest")
    section.ignore("fill_color")  # of what "shortest" never fills
    found = Preprocessing(
        short=size,
        crop=size,
        filter=section.one_of("interpolation", FILTERS, "bicubic"),
        mean=section.colors("mean", MEAN),
        deviation=section.colors("std", DEVIATION),
        rounding="even",
    )
    section.finish()
    return found


def files(folder: Path) -> list[Path]:
    """The file of the weights."""
    return [folder / WEIGHTS]


def sources(model: Architecture) -> dict[str, Source]:
    """The source of each weight."""
    found = {
        "scale": Source(("logit_scale",)),
        "text/tokens": Source(("token_embedding.weight",)),
        "text/positions": Source(("positional_embedding",)),
        "text/projection": Source(("text_projection",)),
        "image/class": Source(("visual.class_embedding",)),
        "image/cut": Source(("visual.conv1.weight",), "patches"),
        "image/positions": Source(("visual.positional_embedding",)),
        "image/projection": Source(("visual.proj",)),
        **_pair("text/norm", "ln_final", "gamma", "beta"),
        **_pair("image/before", "visual.ln_pre", "gamma", "beta"),
        **_pair("image/after", "visual.ln_post", "gamma", "beta"),
    }
    for tower, depth, there in (("text", model.text.depth, ""), ("image", model.image.depth, "visual.")):
        for number in range(depth):
            found |= _block(f"{tower}/{number}", f"{there}transformer.resblocks.{number}")
    return found


def _pair(here: str, there: str, *names: str) -> dict[str, Source]:
    """A weight and a bias; a kernel is transposed."""
    weight = Source((f"{there}.weight",), "transposed" if names[0] == "kernel" else "plain")
    return {f"{here}/{names[0]}": weight, f"{here}/{names[1]}": Source((f"{there}.bias",))}


def _block(here: str, there: str) -> dict[str, Source]:
    return {
        **_pair(f"{here}/norm1", f"{there}.ln_1", "gamma", "beta"),
        f"{here}/qkv/kernel": Source((f"{there}.attn.in_proj_weight",), "transposed"),
        f"{here}/qkv/bias": Source((f"{there}.attn.in_proj_bias",)),
        **_pair(f"{here}/out", f"{there}.attn.out_proj", "kernel", "bias"),
        **_pair(f"{here}/norm2", f"{there}.ln_2", "gamma", "beta"),
        **_pair(f"{here}/widen", f"{there}.mlp.c_fc", "kernel", "bias"),
        **_pair(f"{here}/narrow", f"{there}.mlp.c_proj", "kernel", "bias"),
    }
