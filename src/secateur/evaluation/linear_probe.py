"""Linear probe: logistic regression on standardized features, with features and regularization chosen on dev."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

STRENGTHS: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of scikit-learn; larger values regularize less

FeatureArray = NDArray[np.float32]
Labels = NDArray[np.str_]
LabeledFeatures = tuple[FeatureArray, Labels]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeResult:
    """Accuracies of a probe, between 0 and 1.

    Attributes:
        features: Name of the features that were best on dev.
        strength: Value of C that was best on dev.
        dev: Accuracy on dev.
        test: Accuracy on test, trained on all of train.
        spread: Accuracies on test, each trained on a random four fifths of train.
    """

    features: str
    strength: float
    dev: float
    test: float
    spread: tuple[float, ...]


def probe(candidates: Mapping[str, Mapping[str, LabeledFeatures]], *, seeds: Sequence[int]) -> ProbeResult:
    """Return the result of the candidate that is best on dev.

    Args:
        candidates: Features and labels of `train`, `dev` and `test`, by the name of the features.
        seeds: Seeds of the random four fifths of train; the fit itself is convex and has no seed.
    """
    best: tuple[float, str, float, Any] | None = None
    for name, parts in candidates.items():
        for strength in STRENGTHS:
            classifier = _fit(parts["train"], strength=strength)
            dev = float(classifier.score(*parts["dev"]))
            if best is None or dev > best[0]:  # the first of equal ones, and so the stronger regularization
                best = (dev, name, strength, classifier)
    assert best is not None, "no candidates"
    dev, name, strength, classifier = best
    parts = candidates[name]
    return ProbeResult(
        features=name,
        strength=strength,
        dev=dev,
        test=float(classifier.score(*parts["test"])),
        spread=tuple(_subset_score(parts, strength=strength, seed=seed) for seed in seeds),
    )


def _subset_score(parts: Mapping[str, LabeledFeatures], *, strength: float, seed: int) -> float:
    features, labels = parts["train"]
    subset = np.random.default_rng(seed).permutation(len(labels))[: len(labels) * 4 // 5]  # no row twice
    return float(_fit((features[subset], labels[subset]), strength=strength).score(*parts["test"]))


def _fit(part: LabeledFeatures, *, strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regression = LogisticRegression(C=strength, max_iter=300, tol=1e-3)
    # The scaler takes mean and deviation from the training rows alone.
    return make_pipeline(StandardScaler(), regression).fit(*part)
