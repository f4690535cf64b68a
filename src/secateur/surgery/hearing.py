"""How a model hears audio, by the feature extractor in its folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from secateur.data.corpus import SAMPLE_RATE
from secateur.data.hearing import Extracted, Hearing, Samples
from secateur.errors import ModelError
from secateur.records import read_json
from secateur.structure import Features, Structure
from secateur.surgery.folder import companion

logger = logging.getLogger(__name__)


def hearing_of(source: str | Path, structure: Structure) -> Hearing:
    """How the model of a folder or hub id hears audio; what its files do not say is as in its family.

    Raises:
        ModelError: Its feature extractor cannot be read, or is not one that goes with the model.
    """
    settings = _settings(source)
    if structure.features is None:
        if settings is None:
            logger.warning("%s has no preprocessor_config.json: audio is used as it is, not normalised", source)
            return Samples(normalize=False)
        return Samples(normalize=bool(settings.get("do_normalize", True)))
    if settings is None:
        logger.warning("%s has no feature extractor: audio is heard by a %s", source, structure.features.extractor)
    hearing = Extracted(_extractor(source, settings or dict(structure.features.settings), structure.features))
    _check(source, hearing, structure)
    return hearing


def _settings(source: str | Path) -> dict[str, Any] | None:
    """Settings of a feature extractor, from a file of its own or a processor's; None where there is neither."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = companion(source, name)
        found = None if path is None else read_json(path)
        if found is not None and not isinstance(found, dict):
            raise ModelError(f"{path}: got a {type(found).__name__}, a feature extractor's settings are a JSON object.")
        if found is not None and name.startswith("processor"):
            found = found.get("feature_extractor")
        if isinstance(found, dict):
            return found
    return None


def _extractor(source: str | Path, settings: dict[str, Any], features: Features) -> Any:
    """The library's own extractor with these settings; code that comes with a model is never run."""
    kind = settings.get("feature_extractor_type", features.extractor)
    if kind != features.extractor:
        raise ModelError(f"The feature extractor of {str(source)!r} is a {kind}, allowed is {features.extractor}.")
    extractor: Any = getattr(transformers, features.extractor)
    try:
        return extractor.from_dict(settings)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"The feature extractor of {str(source)!r} cannot be made: {error}.") from None


def _check(source: str | Path, hearing: Hearing, structure: Structure) -> None:
    """Raise a ModelError unless noise is heard as the structure says, at any remainder of a second's strides."""
    for samples in (SAMPLE_RATE, SAMPLE_RATE + 317):
        noise = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
        got, wanted = tuple(hearing([noise])[0].shape[1:]), structure.input_shape(1, samples)[1:]
        if got != wanted:
            raise ModelError(
                f"The feature extractor of {str(source)!r} makes {got[0]} vectors of width {got[1]} of {samples} "
                f"samples; the model takes {wanted[0]} of width {wanted[1]}."
            )
