"""The inception score of the logits of a classifier."""

from __future__ import annotations

import numpy as np

from kgen import DataError


def inception_score(logits: np.ndarray, *, splits: int = 10, seed: int | None = 2020) -> tuple[float, float]:
    """Returns the mean and deviation over `splits` parts of exp(mean over images of KL(p(c | x) || p(c))).

    The score is from Salimans et al. 2016, section 4. p(c) is the mean of p(c | x) in the part. The parts are those of
    torch-fidelity for the same seed.

    Args:
        logits: (N, classes).
        splits: Number of parts.
        seed: Seed of the order in which the images are divided; None: the given order.

    Returns:
        The mean and the standard deviation over the parts. A score is from 1 to the number of classes.

    Raises:
        DataError: there are fewer images than parts.
    """
    count = len(logits)
    if count < splits:
        raise DataError(f"{count:,} images cannot be divided into {splits:,} parts")
    if seed is not None:
        logits = logits[np.random.RandomState(seed).permutation(count)]
    logits = logits.astype(np.float64)
    logits = logits - logits.max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))  # (N, classes)
    scores = []
    for i in range(splits):
        own = log_p[i * count // splits : (i + 1) * count // splits]
        p = np.exp(own)
        with np.errstate(divide="ignore", invalid="ignore"):  # a class that is 0 everywhere adds 0 log 0 = 0
            terms = np.where(p > 0, p * (own - np.log(p.mean(0))), 0.0)
        scores.append(np.exp(terms.sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))
