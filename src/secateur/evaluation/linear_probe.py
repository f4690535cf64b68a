"""A linear probe: logistic regression on standardised features, its strength and features chosen on dev."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

STRENGTHS: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C: larger regularises less

FeatureArray = NDArray[np.float32]
Labels = NDArray[np.str_]
LabeledFeatures = tuple[FeatureArray, Labels]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeResult:
    """What one probe reached: accuracies between 0 and 1."""

    features: str
    strength: float
    dev: float
    test: float  # trained on all of train
    spread: tuple[float, ...]  # test accuracies of probes trained on random four fifths of train


def probe(candidates: Mapping[str, Mapping[str, LabeledFeatures]], *, seeds: Sequence[int]) -> ProbeResult:
    """The best of the candidates on dev, and its accuracy on test.

    Args:
        candidates: By name, the features and labels of `train`, `dev` and `test`.
        seeds: The fit itself is convex and has no seed; each seed draws the four fifths of train to fit on.
    """
    best: tuple[float, str, float, Any] | None = None
    for name, parts in candidates.items():
        for strength in STRENGTHS:
            classifier = _fit(parts["train"], strength=strength)
            dev = float(classifier.score(*parts["dev"]))
            if best is None or dev > best[0]:
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
    subset = np.random.default_rng(seed).permutation(len(labels))[: len(labels) * 4 // 5]
    return float(_fit((features[subset], labels[subset]), strength=strength).score(*parts["test"]))


def _fit(part: LabeledFeatures, *, strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regression = LogisticRegression(C=strength, max_iter=300, tol=1e-3)
    return make_pipeline(StandardScaler(), regression).fit(*part)
