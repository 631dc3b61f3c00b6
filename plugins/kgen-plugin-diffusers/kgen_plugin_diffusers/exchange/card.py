"""The model card of an exported folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import kgen
from kgen import RunError
from kgen_plugin_diffusers.exchange.model import Model

EXAMPLE = """\
import keras
import kgen
import torch

encoder = kgen.load("RUN").encoder
given = encoder(encoder.tokenize([encoder.null, "PROMPT"]))
text = {name: torch.tensor(keras.ops.convert_to_numpy(value)) for name, value in given.items()}
latents = torch.randn(1, unet.config.in_channels, *unet.config.sample_size)
scheduler.set_timesteps(20)
with torch.no_grad():
    for time in scheduler.timesteps:
        noisy, others = torch.cat([latents, latents]), {"class_labels": text["pooled"]}
        output = unet(noisy, time, text["sequence"], encoder_attention_mask=text["mask"], **others).sample
        null, prompt = output.chunk(2)
        latents = scheduler.step(null + 2 * (prompt - null), time, latents).prev_sample  # guidance of 2
    mean, std = (torch.tensor(vae.config[key]).reshape(1, -1, 1, 1) for key in ("latents_mean", "latents_std"))
    images = vae.decode(latents * std + mean).sample  # (1, 3, H, W) in [-1, 1]
"""
"""Makes an image with kgen's own U-Net and autoencoder, and the encoder of the run."""

USED = {"UNet2DConditionModel", "AutoencoderKL"}
"""The models that `EXAMPLE` uses. Both have notes if they are kgen's own."""


def model_card(run: Path, models: Mapping[str, Model], reasons: Mapping[str, str]) -> str:
    """The Markdown text of a model card: what the folder holds, how to open it, and the configuration of the run.

    Args:
        run: The run, or the saved pipeline, which has no configuration.
        models: The models by the name of the part.
        reasons: Why the other parts were not written.
    """
    name = run.resolve().name
    lines = ["---", "library_name: diffusers", "---", "", f"# {name}", ""]
    lines += [f"Parts of the kgen run `{name}`, as models of diffusers:", ""]
    lines += [f"- `{model.part}`: the {part}, as `{model.cls}`" for part, model in models.items()]
    lines += ["", "```python", "import diffusers", ""]
    for model in models.values():
        lines.append(f'{model.part} = diffusers.{model.cls}.from_pretrained("FOLDER", subfolder="{model.part}")')
    lines += ["```", ""]
    if notes := {model.cls: model.notes for model in models.values() if model.notes}:
        lines += ["## Use", "", *notes.values()]
    if notes.keys() >= USED and any(model.part == "scheduler" for model in models.values()):
        lines += ["This makes an image:", "", "```python", EXAMPLE.rstrip(), "```", ""]
    if reasons:
        lines += ["These parts are not in the folder:", ""]
        lines += [*(f"- the {part}: {reason}" for part, reason in reasons.items()), ""]
    lines += ["## License", "", "Not stated. State the license of the weights here, and as `license:` at the top.", ""]
    try:
        config = kgen.open_config(run).to_yaml()
    except RunError:  # a saved pipeline
        return "\n".join(lines)
    return "\n".join([*lines, "## Configuration of the run", "", "```yaml", config.rstrip(), "```", ""])
