"""Tiny models with random weights, saved by `transformers`, or in the layout of OpenCLIP's own library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from tokenizers import pre_tokenizers

TEXTS = ["a red heart", "", "Hearts,  & MORE!", "red " * 30]
SIZES = ((12, 12), (31, 20), (17, 33), (14, 59), (9, 10))
"""Texts and sizes of images that are encoded."""

SIZE = 12
"""Height and width of the images. Their shorter side before they are cropped is larger by 2."""


def byte_pairs() -> tuple[dict[str, int], list[str]]:
    """A vocabulary and merges like CLIP's: every byte, inside and at the end of a word, a few pairs, and the marks."""
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = ["r e", "re d</w>", "h e", "a r", "ar t</w>", "he art</w>"]
    marks = ("<|startoftext|>", "<|endoftext|>")
    words = [*signs, *(f"{sign}</w>" for sign in signs), *(merge.replace(" ", "") for merge in merges), *marks]
    return {word: number for number, word in enumerate(words)}, merges


def random_model(activation: str, epsilon: float = 1e-3, size: int = SIZE) -> Any:
    """A CLIPModel. No weight is zero or one, which would hide weights that were swapped."""
    vocabulary = byte_pairs()[0]
    common = {"num_hidden_layers": 2, "hidden_act": activation, "layer_norm_eps": epsilon}
    config = transformers.CLIPConfig(
        text_config={
            **common,
            "vocab_size": len(vocabulary),
            "hidden_size": 16,
            "intermediate_size": 64,
            "num_attention_heads": 2,
            "max_position_embeddings": 11,
            "bos_token_id": vocabulary["<|startoftext|>"],
            "eos_token_id": vocabulary["<|endoftext|>"],
        },
        vision_config={
            **common,
            "hidden_size": 24,
            "intermediate_size": 60,
            "num_attention_heads": 3,
            "image_size": size,
            "patch_size": 4,
        },
        projection_dim=10,
    )
    torch.manual_seed(0)
    model = transformers.CLIPModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def random_text_model(projection: bool = False) -> Any:
    """A CLIPTextModel like that of Stable Diffusion, or a CLIPTextModelWithProjection."""
    vocabulary = byte_pairs()[0]
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=11,
        projection_dim=10,
        hidden_act="gelu" if projection else "quick_gelu",
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
    )
    torch.manual_seed(0)
    model = (transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def save(model: Any, folder: Path) -> Path:
    """Saves a model with its tokenizer and image processor."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    processor(model.config.vision_config.image_size).save_pretrained(folder)
    return folder


def tokenizer() -> Any:
    vocabulary, merges = byte_pairs()
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[tuple(pair.split()) for pair in merges])


def processor(size: int = SIZE) -> Any:
    """The image processor of `transformers` that uses Pillow, with colors unlike those of CLIP's."""
    return transformers.models.clip.image_processing_pil_clip.CLIPImageProcessorPil(
        size={"shortest_edge": size + 2},
        crop_size={"height": size, "width": size},
        image_mean=[0.4, 0.5, 0.6],
        image_std=[0.2, 0.3, 0.25],
    )


def save_open_clip(model: Any, folder: Path) -> Path:
    """Saves a model, whose epsilon must be 1e-5, as OpenCLIP's own library does."""
    folder.mkdir()
    config, weights = model.config, {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    arrays = {
        "logit_scale": weights["logit_scale"],
        "token_embedding.weight": weights["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": weights["text_model.embeddings.position_embedding.weight"],
        "text_projection": weights["text_projection.weight"].T,
        "ln_final.weight": weights["text_model.final_layer_norm.weight"],
        "ln_final.bias": weights["text_model.final_layer_norm.bias"],
        "visual.class_embedding": weights["vision_model.embeddings.class_embedding"],
        "visual.conv1.weight": weights["vision_model.embeddings.patch_embedding.weight"],
        "visual.positional_embedding": weights["vision_model.embeddings.position_embedding.weight"],
        "visual.proj": weights["visual_projection.weight"].T,
    }
    for here, there in (("pre", "pre_layrnorm"), ("post", "post_layernorm")):
        for kind in ("weight", "bias"):
            arrays[f"visual.ln_{here}.{kind}"] = weights[f"vision_model.{there}.{kind}"]
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
    names |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for prefix, tower in (("", "text_model"), ("visual.", "vision_model")):
        for number in range(2):
            here, there = f"{prefix}transformer.resblocks.{number}", f"{tower}.encoder.layers.{number}"
            for kind in ("weight", "bias"):
                arrays |= {f"{here}.{own}.{kind}": weights[f"{there}.{name}.{kind}"] for own, name in names.items()}
                packed = [weights[f"{there}.self_attn.{part}_proj.{kind}"] for part in ("q", "k", "v")]
                arrays[f"{here}.attn.in_proj_{kind}"] = np.concatenate(packed)
    save_file(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "open_clip_model.safetensors"
    )
    text, vision = config.text_config, config.vision_config
    described = {
        "model_cfg": {
            "embed_dim": config.projection_dim,
            "quick_gelu": vision.hidden_act == "quick_gelu",
            "vision_cfg": {
                "image_size": SIZE,
                "layers": 2,
                "width": vision.hidden_size,
                "head_width": 8,
                "patch_size": 4,
                "mlp_ratio": vision.intermediate_size / vision.hidden_size,
            },
            "text_cfg": {
                "context_length": text.max_position_embeddings,
                "vocab_size": text.vocab_size,
                "width": text.hidden_size,
                "heads": 2,
                "layers": 2,
            },
        },
        "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "interpolation": "bicubic"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    vocabulary, merges = byte_pairs()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    return folder


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


def theirs(model: Any, pixels: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """What `transformers` computes, with its own tokenizer and image processor."""
    tokens = tokenizer()(TEXTS, padding="max_length", truncation=True, max_length=11, return_tensors="pt")
    if pixels is None:
        pixels = np.stack(processor()(images())["pixel_values"])
    with torch.no_grad():
        made = model(**tokens, pixel_values=torch.tensor(pixels))
        names = ("image_embeds", "text_embeds", "logits_per_image")
        found = {name: made[name].numpy() for name in names}
        found["sequence"] = made.text_model_output.last_hidden_state.numpy()
    return {**found, "mask": tokens["attention_mask"].numpy()}
