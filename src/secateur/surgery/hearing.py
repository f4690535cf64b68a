"""How a model hears audio, and at which sampling rate, by the feature extractor in its folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import transformers

from secateur.data.corpus import SAMPLE_RATE
from secateur.data.hearing import Extracted, Hearing, Samples
from secateur.errors import ModelError, cause_of
from secateur.records import read_json
from secateur.structure import Features, Structure
from secateur.surgery.hub import companion

logger = logging.getLogger(__name__)

#: The lowest and the highest sampling rate that a model may name, in hertz.
LOWEST, HIGHEST = 4_000, 192_000

# The order and the keys of the library: settings within a processor's file go before those in a file of their own.
_FILES = {"processor_config.json": ("feature_extractor", "audio_processor"), "preprocessor_config.json": ()}


class _Settings(NamedTuple):
    """Settings of a feature extractor, and the file that they are from; empty and None where there are none."""

    fields: dict[str, Any]
    path: Path | None


def hearing_of(source: str | Path, structure: Structure) -> Hearing:
    """How the model of a folder or hub id hears audio; what its files do not say is as in its family.

    Raises:
        ModelError: Its feature extractor cannot be read, or is not one that goes with the model.
    """
    settings = _settings(source)
    sample_rate = _sample_rate(settings)
    if sample_rate != SAMPLE_RATE:
        logger.info("%s takes audio at %d Hz: all is read at that rate", source, sample_rate)
    if structure.features is None:
        _refuse_other(source, settings.fields, "Wav2Vec2FeatureExtractor")
        if settings.path is None:
            logger.warning("%s has no preprocessor_config.json: audio is used as it is, not normalised", source)
        normalize = settings.path is not None and bool(settings.fields.get("do_normalize", True))
        return Samples(normalize=normalize, sample_rate=sample_rate)
    if settings.path is None:
        logger.warning("%s has no feature extractor: audio is heard by a %s", source, structure.features.extractor)
    fields = (settings.fields or dict(structure.features.settings)) | {"sampling_rate": sample_rate}
    hearing = Extracted(_extractor(source, fields, structure.features))
    _check(source, hearing, structure)
    return hearing


def sample_rate_of(source: str | Path) -> int:
    """Return the sampling rate that a model takes audio at, in hertz; `SAMPLE_RATE` where its files name none.

    Args:
        source: A model folder, a config file in one, or a hub id.

    Raises:
        ModelError: The settings of its feature extractor cannot be read, or name a rate that is none.
    """
    return _sample_rate(_settings(source))


def _settings(source: str | Path) -> _Settings:
    """Settings of a feature extractor, from a processor's file or one of its own."""
    for name, keys in _FILES.items():
        path = companion(source, name)
        found = None if path is None else read_json(path)
        if found is not None and not isinstance(found, dict):
            raise ModelError(f"{path}: got a {type(found).__name__}, a feature extractor's settings are a JSON object.")
        if found is not None and keys:
            found = next((found[key] for key in keys if isinstance(found.get(key), dict)), None)
        if isinstance(found, dict):
            return _Settings(found, path)
    return _Settings({}, None)


def _sample_rate(settings: _Settings) -> int:
    """Return the rate that settings name."""
    value = settings.fields.get("sampling_rate", SAMPLE_RATE)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not LOWEST <= value <= HIGHEST or value != int(value):
        raise ModelError(
            f"{settings.path}: sampling_rate: got {value!r}, expected a whole number of hertz from {LOWEST} to "
            f"{HIGHEST}, such as {SAMPLE_RATE}."
        )
    return int(value)


def _extractor(source: str | Path, settings: dict[str, Any], features: Features) -> Any:
    """The library's own extractor with these settings; code that comes with a model is never run."""
    _refuse_other(source, settings, features.extractor)
    extractor: Any = getattr(transformers, features.extractor)
    try:
        return extractor.from_dict(settings)
    except Exception as error:  # settings may be anything
        raise ModelError(f"The feature extractor of {str(source)!r} cannot be made: {cause_of(error)}.") from None


def _refuse_other(source: str | Path, settings: dict[str, Any], allowed: str) -> None:
    """Raise a ModelError when settings are those of another class of extractors."""
    kind = settings.get("feature_extractor_type", allowed)
    if kind != allowed:
        raise ModelError(f"The feature extractor of {str(source)!r} is a {kind}, allowed is {allowed}.")


def _check(source: str | Path, hearing: Hearing, structure: Structure) -> None:
    """Raise a ModelError unless noise is heard as the structure says, at any remainder of a second's strides."""
    for samples in (hearing.sample_rate, hearing.sample_rate + 317):
        noise = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
        wanted = structure.input_shape(1, samples)[1:]
        try:
            got = tuple(hearing([noise])[0].shape[1:])
        except Exception as error:  # settings may be anything
            raise ModelError(f"The feature extractor of {str(source)!r} cannot be used: {cause_of(error)}.") from None
        if got != wanted:
            raise ModelError(
                f"The feature extractor of {str(source)!r} makes {got[0]} vectors of width {got[1]} of {samples} "
                f"samples; the model takes {wanted[0]} of width {wanted[1]}."
            )
