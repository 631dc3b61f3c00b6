"""PSNR and SSIM, which measure how similar the two images of a pair are."""

from __future__ import annotations

import numpy as np

from kgen import DataError

SIGMA = 1.5
"""Standard deviation, in pixels, of the Gaussian window of SSIM (Wang et al. 2004, section III-C)."""

WINDOW = 11
"""Height and width of that window."""


def psnr(images: np.ndarray, others: np.ndarray, *, peak: float = 255.0) -> np.ndarray:
    """The peak signal-to-noise ratio of each pair, in decibels: 10 log10(peak^2 / mean squared error).

    Args:
        images, others: (B, H, W, C).
        peak: The largest possible difference.

    Returns:
        (B,), float64; infinity for equal images.
    """
    x, y = _pairs(images, others)
    with np.errstate(divide="ignore"):
        return np.asarray(10.0 * np.log10(peak**2 / np.square(x - y).mean((1, 2, 3))))


def ssim(images: np.ndarray, others: np.ndarray, *, peak: float = 255.0) -> np.ndarray:
    """The structural similarity of each pair (Wang et al. 2004, equation 13, with K1 = 0.01 and K2 = 0.03).

    The means and covariances are weighted by a Gaussian window that lies inside the image. Channels are compared one
    by one, and the mean is taken, as scikit-image does with ``gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False``.

    Args:
        images, others: (B, H, W, C).
        peak: The largest possible difference.

    Returns:
        (B,), float64, at most 1. The similarity of equal images is 1.

    Raises:
        DataError: the images are smaller than the window, 11 x 11 pixels.
    """
    x, y = _pairs(images, others)
    if min(x.shape[1:3]) < WINDOW:
        raise DataError(f"ssim: images must have at least {WINDOW}x{WINDOW} pixels, not {x.shape[1]}x{x.shape[2]}")
    mean_x, mean_y = _blurred(x), _blurred(y)  # (B, H - 10, W - 10, C)
    variances = _blurred(x * x) - mean_x**2 + _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    small, large = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    luminance = (2 * mean_x * mean_y + small) / (mean_x**2 + mean_y**2 + small)
    return np.asarray((luminance * (2 * covariance + large) / (variances + large)).mean((1, 2, 3)))


def _pairs(images: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if images.shape != others.shape or images.ndim != 4:
        raise DataError(f"pairs of images must be (B, H, W, C) of one shape, not {images.shape} and {others.shape}")
    return images.astype(np.float64), others.astype(np.float64)


def _blurred(x: np.ndarray) -> np.ndarray:
    """The weighted means in all windows inside the images, (B, H - 10, W - 10, C)."""
    weights = np.exp(-0.5 * np.square((np.arange(WINDOW) - WINDOW // 2) / SIGMA))
    weights /= weights.sum()
    for axis in (1, 2):
        x = np.lib.stride_tricks.sliding_window_view(x, WINDOW, axis=axis) @ weights
    return x
