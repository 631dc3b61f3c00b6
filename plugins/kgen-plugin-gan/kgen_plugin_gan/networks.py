"""The two networks: the generator network makes images, the discriminator scores them."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kgen.nn import GroupNorm, space_to_depth
from kgen_plugin_gan.layers import Convolution

Tensor = Any
Shape = tuple[int | None, ...]
Grid = tuple[int, int, int]


class GeneratorNetwork(keras.layers.Layer):
    """Maps z and a text to an image: a small feature map, then residual blocks, modulated by z and text, that upsample.

    Args:
        image: Shape (height, width, channels) of the image.
        latent_dim: Dimension of the latent vector z.
        channels: Number of channels of each level, from the smallest feature map to the largest.
        patch: Height and width of the square of pixels that each position of the last feature map becomes. All pixels
            of a square start equal, and a convolution then tells them apart. (Separate channels for each pixel of a
            square would give the network a pattern that repeats from square to square and disappears slowly.)
        rate: Factor on the learning rate of every weight.
        bounded: Whether image values are in [-1, 1]. Latents of an autoencoder are not bounded.
    """

    def __init__(
        self,
        image: Grid,
        latent_dim: int,
        channels: tuple[int, ...],
        patch: int,
        rate: float = 1.0,
        bounded: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rate, self.bounded = rate, bounded
        self.image, self.latent_dim, self.channels, self.patch = image, latent_dim, tuple(channels), patch
        policy, shrink = self.dtype_policy, patch * 2 ** (len(channels) - 1)
        self.start_shape = (image[0] // shrink, image[1] // shrink, channels[0])
        self.style = Style(latent_dim, dtype=policy, name="style")
        self.start = keras.layers.Dense(
            self.start_shape[0] * self.start_shape[1] * channels[0], dtype=policy, name="start"
        )
        self.blocks = [GeneratorBlock(count, dtype=policy, name=f"block{i}") for i, count in enumerate(channels)]
        self.norm = GroupNorm(dtype=policy, name="norm")
        self.pixels = max(channels[-1] // 2, image[2])  # channels of a pixel
        self.thin = Convolution(self.pixels, dtype=policy, name="thin")
        self.out = Convolution(image[2], dtype=policy, name="out", kernel_initializer="lecun_normal")

    def build(self, z_shape: Shape, text_shape: Shape) -> None:
        style = (None, self.style.width)
        self.style.build(z_shape, text_shape)
        self.start.build(style)
        shape: Shape = (None, *self.start_shape)
        for block, channels in zip(self.blocks, self.channels, strict=True):
            block.build(shape, style)
            shape = (*shape[:-1], channels)
        self.norm.build(shape)
        self.thin.build(shape)
        self.out.build((None, *self.image[:2], self.pixels))
        for weight in self.trainable_variables:
            weight.learning_rate_share = self.rate

    def call(self, z: Tensor, text: Tensor) -> Tensor:
        """(B, Z), (B, P) -> (B, H, W, C), float32, in [-1, 1] if bounded."""
        style = self.style(z, ops.cast(text, z.dtype))  # (B, S)
        x = ops.reshape(self.start(style), (-1, *self.start_shape))  # (B, h, w, C0)
        for index, block in enumerate(self.blocks):
            if index:
                x = enlarged(x, 2)
            x = block(x, style)
        x = ops.silu(self.thin(ops.silu(self.norm(x))))
        x = ops.cast(self.out(enlarged(x, self.patch)), "float32")
        return ops.tanh(x) if self.bounded else x


class Style(keras.layers.Layer):
    """Maps z and a text to the style vector that modulates the generator network: two dense layers, normalized.

    Text vectors are normalized first. Otherwise those of an encoder with large outputs would outweigh z.

    Args:
        latent_dim: Dimension Z of the latent vector z. The style vector has 4 Z dimensions.
    """

    def __init__(self, latent_dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = 4 * latent_dim
        options = {"kernel_initializer": "lecun_normal", "dtype": self.dtype_policy}
        self.of_code = keras.layers.Dense(self.width, name="of_code", **options)
        self.of_text = keras.layers.Dense(self.width, name="of_text", **options)
        self.mix = keras.layers.Dense(self.width, name="mix", **options)

    def build(self, z_shape: Shape, text_shape: Shape) -> None:
        self.of_code.build(z_shape)
        self.of_text.build(text_shape)
        self.mix.build((None, self.width))

    def call(self, z: Tensor, text: Tensor) -> Tensor:
        """(B, Z), (B, P) -> (B, 4 Z)."""
        both = self.of_code(z) + self.of_text(normalized(text))  # (B, 4 Z)
        return normalized(self.mix(ops.silu(both)))


class GeneratorBlock(keras.layers.Layer):
    """A residual block: the style scales and shifts the input of both convolutions (Karras et al. 2019, eq. 1)."""

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels
        policy = self.dtype_policy
        self.norm1, self.norm2 = (GroupNorm(dtype=policy, name=f"norm{i}") for i in (1, 2))
        self.conv1, self.conv2 = (Convolution(channels, dtype=policy, name=f"conv{i}") for i in (1, 2))
        self.shortcut: Convolution | None = None

    def build(self, x_shape: Shape, style_shape: Shape) -> None:
        inner = (*x_shape[:-1], self.channels)
        self.modulation1 = keras.layers.Dense(2 * x_shape[-1], dtype=self.dtype_policy, name="modulation1")
        self.modulation2 = keras.layers.Dense(2 * self.channels, dtype=self.dtype_policy, name="modulation2")
        for modulation in (self.modulation1, self.modulation2):
            modulation.build(style_shape)
        self.norm1.build(x_shape)
        self.conv1.build(x_shape)
        self.norm2.build(inner)
        self.conv2.build(inner)
        if x_shape[-1] != self.channels:
            self.shortcut = Convolution(self.channels, 1, dtype=self.dtype_policy, name="shortcut")
            self.shortcut.build(x_shape)

    def call(self, x: Tensor, style: Tensor) -> Tensor:
        """(B, H, W, C), (B, S) -> (B, H, W, channels)."""
        h = self.conv1(ops.silu(self.norm1(x, *ops.split(self.modulation1(style), 2, axis=-1))))
        h = self.conv2(ops.silu(self.norm2(h, *ops.split(self.modulation2(style), 2, axis=-1))))
        return h + (x if self.shortcut is None else self.shortcut(x))


class DiscriminatorNetwork(keras.layers.Layer):
    """Maps an image to features, and features and a text to a score (projection, Miyato and Koyama 2018, equation 3).

    Only the kernels may be normalized, so an image's score depends on no other image.

    Args:
        channels: Number of channels of each level, from the largest feature map to the smallest. Each level has half
            the height and width of the level before.
        patch: Height and width of the square of pixels that becomes one position of the first feature map.
        features: Number of image features, which are multiplied with those of the text.
        spectral_norm: Whether to normalize the kernels, see `Convolution`.
    """

    def __init__(
        self, channels: tuple[int, ...], patch: int, features: int, spectral_norm: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.channels, self.patch, self.features, self.spectral_norm = tuple(channels), patch, features, spectral_norm
        options = {"spectral_norm": spectral_norm, "dtype": self.dtype_policy}
        self.conv_in = Convolution(channels[0], name="conv_in", **options)
        self.blocks = [DiscriminatorBlock(count, name=f"block{i}", **options) for i, count in enumerate(channels)]
        self.collect = Convolution(features, 1, name="collect", **options)
        self.realism = Convolution(1, 1, use_bias=False, name="realism", **options)  # relativistic pairs cancel a bias
        self.text = Convolution(features, 1, name="text", **options)

    def build(self, x_shape: Shape, texts_shape: Shape) -> None:
        height, width = x_shape[1] // self.patch, x_shape[2] // self.patch
        self.conv_in.build((None, height, width, x_shape[-1] * self.patch**2))
        before = self.channels[0]
        for index, block in enumerate(self.blocks):
            if index:
                height, width = height // 2, width // 2
            block.build((None, height, width, before))
            before = self.channels[index]
        self.collect.build((None, 1, 1, height * width * before))
        self.realism.build((None, 1, 1, self.features))
        self.text.build((None, texts_shape[1], 1, texts_shape[-1]))

    def call(self, x: Tensor, texts: Tensor, training: bool = False) -> Tensor:
        """Scores images with one or more texts each: (B, H, W, C), (B, T, P) -> (B, T), float32."""
        x = self.conv_in(space_to_depth(x, self.patch), training=training)
        for index, block in enumerate(self.blocks):
            if index:
                x = ops.average_pool(x, 2, 2)
            x = block(x, training=training)
        x = ops.reshape(x, (-1, 1, 1, x.shape[1] * x.shape[2] * x.shape[3]))
        features = ops.silu(self.collect(x, training=training))  # (B, 1, 1, F)
        realism = self.realism(features, training=training)
        wanted = self.text(texts[:, :, None], training=training)  # (B, T, 1, F)
        fit = ops.sum(features * wanted, axis=-1, keepdims=True) * self.features**-0.5  # (B, T, 1, 1)
        return ops.cast((realism + fit)[..., 0, 0], "float32")


class DiscriminatorBlock(keras.layers.Layer):
    """A residual block of two convolutions."""

    def __init__(self, channels: int, spectral_norm: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels, self.spectral_norm = channels, spectral_norm
        options = {"spectral_norm": spectral_norm, "dtype": self.dtype_policy}
        self.conv1, self.conv2 = (Convolution(channels, name=f"conv{i}", **options) for i in (1, 2))
        self.shortcut: Convolution | None = None

    def build(self, x_shape: Shape) -> None:
        self.conv1.build(x_shape)
        self.conv2.build((*x_shape[:-1], self.channels))
        if x_shape[-1] != self.channels:
            self.shortcut = Convolution(
                self.channels, 1, spectral_norm=self.spectral_norm, dtype=self.dtype_policy, name="shortcut"
            )
            self.shortcut.build(x_shape)

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        """(B, H, W, C) -> (B, H, W, channels)."""
        h = self.conv1(ops.leaky_relu(x, 0.2), training=training)
        h = self.conv2(ops.leaky_relu(h, 0.2), training=training)
        kept = x if self.shortcut is None else self.shortcut(x, training=training)
        return (h + kept) * 0.5**0.5  # preserves the variance


def enlarged(x: Tensor, factor: int) -> Tensor:
    """(B, H, W, C) -> (B, factor * H, factor * W, C): each position becomes a square."""
    return ops.repeat(ops.repeat(x, factor, axis=1), factor, axis=2)


def normalized(x: Tensor) -> Tensor:
    """Scales each row to a mean square of 1; zeros stay zeros."""
    return x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-6)
