"""A preset of Stable Diffusion 3 in KerasHub's format: its configuration, and the weights of each part alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import keras

from kgen import ConfigError
from kgen.pretrained import Section
from kgen_plugin_keras_hub.presets import find
from kgen_plugin_keras_hub.sd3.architecture import MMDiTSizes, VAESizes

MODEL = "StableDiffusion3Backbone"

CONFIG, WEIGHTS, SHARDS = "config.json", "model.weights.h5", "model.weights.json"
"""The configuration; the file of all weights; and the list of several such files, which a large preset has instead."""

CONTEXT = 4096
"""Number of features of the text if there is no T5: that of the T5 with which the model was trained."""

STEPS = 1000
"""Number of the discrete times. The network sees a time times this number."""


def open_preset(preset: str) -> Path:
    """Finds the folder of a preset, which KerasHub's `StableDiffusion3Backbone.save_to_preset` writes.

    Args:
        preset: A folder, "hf://USER/NAME", "kaggle://..." or a preset of KerasHub, such as
            "stable_diffusion_3_medium". All but folders are downloaded.

    Raises:
        ConfigError: there is no such folder or name, or it cannot be downloaded.
    """
    source = find(preset, (MODEL,))
    if isinstance(source, Path):
        return source
    import kagglehub
    import keras_hub

    known = keras_hub.models.StableDiffusion3Backbone.presets
    handle = known[source]["kaggle_handle"] if source in known else source
    try:
        return Path(kagglehub.model_download(handle.removeprefix("kaggle://")))
    except Exception as error:  # no network, no permission: Kaggle's client has many errors
        raise ConfigError(f"preset '{preset}' cannot be downloaded: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Published:
    """The configuration of a preset.

    Args:
        file: The file, for messages.
        mmdit, vae: The sizes of the network and of the autoencoder.
        shift: The shift of the schedule, toward the noise.
        clip_l, clip_g: KerasHub's configurations of the two text encoders of CLIP.
        t5: That of the T5 encoder, or None.
    """

    file: Path
    mmdit: MMDiTSizes
    vae: VAESizes
    shift: float
    clip_l: Section
    clip_g: Section
    t5: Section | None

    @classmethod
    def read(cls, folder: Path) -> Published:
        """Reads a folder. Raises ConfigError if it has no such model, or a key is unknown or has a wrong value."""
        whole = Section.of_file(folder / CONFIG)
        whole.one_of("class_name", {MODEL: None})
        config = whole.section("config")
        config.one_of("num_train_timesteps", {STEPS: None}, STEPS)
        vae = VAESizes.read(_part(config, "vae", "VAEBackbone"))
        if config.whole("latent_channels", 16) != vae.channels:
            config.refuse("latent_channels", f"must be {vae.channels}, as in the autoencoder")
        texts = [_part(config, name, "CLIPTextEncoder") for name in ("clip_l", "clip_g")]
        t5 = None if config.value("t5", None) is None else _part(config, "t5", "T5Encoder")
        mmdit, shift = MMDiTSizes.read(config), config.number("shift", 3.0)
        config.ignore("name", "trainable", "dtype", "image_shape", "output_channels")
        config.finish()
        return cls(folder / CONFIG, mmdit, vae, shift, *texts, t5)

    @property
    def context_dim(self) -> int:
        """Number of features of the text that the network reads."""
        return CONTEXT if self.t5 is None else self.t5.whole("hidden_dim")

    @property
    def pooled_dim(self) -> int:
        """Number of features of the pooled text that the network reads."""
        return self.clip_l.whole("hidden_dim") + self.clip_g.whole("hidden_dim")


def _part(config: Section, key: str, name: str) -> Section:
    """The options of a model in the configuration. Raises ConfigError if it is not of the class `name`."""
    part = config.section(key)
    part.one_of("class_name", {name: None})
    return part.section("config")


def load_part(model: keras.Model, folder: Path) -> None:
    """Loads the weights of some of the preset's layers.

    Args:
        model: A functional model of these layers. KerasHub's file names a layer by its class, with a number if there
            are several, in the order of the whole model.
        folder: The folder of the preset.

    Raises:
        ConfigError: there is no such file, or it is damaged or has other layers.
    """
    file = next((folder / name for name in (WEIGHTS, SHARDS) if (folder / name).is_file()), None)
    if file is None:
        raise ConfigError(f"preset '{folder}' has no weights: {WEIGHTS} or {SHARDS} is missing")
    try:
        model.load_weights(str(file))
    except Exception as error:  # h5py and Keras raise many kinds of errors
        raise ConfigError(f"{file} cannot be read as the weights that {CONFIG} describes: {error}") from error
