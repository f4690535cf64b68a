"""How a model hears audio, and at which sampling rate, by the feature extractor in its folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import transformers

from secateur.data.corpus import SAMPLE_RATE
from secateur.data.input_features import ExtractedFeatures, InputFeatures, Waveform
from secateur.errors import ModelError, describe_cause
from secateur.hf.hub_files import find_file
from secateur.records.files import read_json
from secateur.structure import FeatureSpec, Structure

logger = logging.getLogger(__name__)

#: The lowest and the highest sampling rate that a model may name, in hertz.
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 4_000, 192_000

# The order and the keys of the library: settings within a processor's file go before those in a file of their own.
_SETTINGS_FILES = {"processor_config.json": ("feature_extractor", "audio_processor"), "preprocessor_config.json": ()}


class _ExtractorSettings(NamedTuple):
    """Settings of a feature extractor, and the file that they are from; empty and None where there are none."""

    fields: dict[str, Any]
    path: Path | None


def load_input_features(source: str | Path, structure: Structure) -> InputFeatures:
    """How the model of a folder or hub id hears audio; what its files do not say is as in its family.

    Raises:
        ModelError: Its feature extractor cannot be read, or is not one that goes with the model.
    """
    settings = _read_settings(source)
    sample_rate = _check_sample_rate(settings)
    if sample_rate != SAMPLE_RATE:
        logger.info("%s takes audio at %d Hz: all is read at that rate", source, sample_rate)
    if structure.features is None:
        _check_extractor_type(source, settings.fields, "Wav2Vec2FeatureExtractor")
        if settings.path is None:
            logger.warning("%s has no preprocessor_config.json: audio is used as it is, not normalised", source)
        normalize = settings.path is not None and bool(settings.fields.get("do_normalize", True))
        return Waveform(normalize=normalize, sample_rate=sample_rate)
    if settings.path is None:
        logger.warning("%s has no feature extractor: audio is heard by a %s", source, structure.features.extractor)
    fields = (settings.fields or dict(structure.features.settings)) | {"sampling_rate": sample_rate}
    features = ExtractedFeatures(_make_extractor(source, fields, structure.features))
    _check_output_shape(source, features, structure)
    return features


def read_sample_rate(source: str | Path) -> int:
    """Return the sampling rate that a model takes audio at, in hertz; `SAMPLE_RATE` where its files name none.

    Args:
        source: A model folder, a config file in one, or a hub id.

    Raises:
        ModelError: The settings of its feature extractor cannot be read, or name a rate that is none.
    """
    return _check_sample_rate(_read_settings(source))


def _read_settings(source: str | Path) -> _ExtractorSettings:
    """Settings of a feature extractor, from a processor's file or one of its own."""
    for name, keys in _SETTINGS_FILES.items():
        path = find_file(source, name)
        content = None if path is None else read_json(path)
        if content is not None and not isinstance(content, dict):
            raise ModelError(
                f"{path}: got a {type(content).__name__}, a feature extractor's settings are a JSON object."
            )
        if content is not None and keys:
            content = next((content[key] for key in keys if isinstance(content.get(key), dict)), None)
        if isinstance(content, dict):
            return _ExtractorSettings(content, path)
    return _ExtractorSettings({}, None)


def _check_sample_rate(settings: _ExtractorSettings) -> int:
    """Return the rate that settings name."""
    value = settings.fields.get("sampling_rate", SAMPLE_RATE)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not MIN_SAMPLE_RATE <= value <= MAX_SAMPLE_RATE or value != int(value):
        raise ModelError(
            f"{settings.path}: sampling_rate: got {value!r}, expected a whole number of hertz from {MIN_SAMPLE_RATE} to "
            f"{MAX_SAMPLE_RATE}, such as {SAMPLE_RATE}."
        )
    return int(value)


def _make_extractor(source: str | Path, settings: dict[str, Any], feature_spec: FeatureSpec) -> Any:
    """The library's own extractor with these settings; code that comes with a model is never run."""
    _check_extractor_type(source, settings, feature_spec.extractor)
    extractor: Any = getattr(transformers, feature_spec.extractor)
    try:
        return extractor.from_dict(settings)
    except Exception as error:  # settings may be anything
        raise ModelError(f"The feature extractor of {str(source)!r} cannot be made: {describe_cause(error)}.") from None


def _check_extractor_type(source: str | Path, settings: dict[str, Any], allowed: str) -> None:
    """Raise a ModelError when settings are those of another class of extractors."""
    kind = settings.get("feature_extractor_type", allowed)
    if kind != allowed:
        raise ModelError(f"The feature extractor of {str(source)!r} is a {kind}, allowed is {allowed}.")


def _check_output_shape(source: str | Path, features: InputFeatures, structure: Structure) -> None:
    """Raise a ModelError unless noise is heard as the structure says, at any remainder of a second's strides."""
    for samples in (features.sample_rate, features.sample_rate + 317):
        noise = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
        expected_shape = structure.input_shape(1, samples)[1:]
        try:
            actual_shape = tuple(features([noise])[0].shape[1:])
        except Exception as error:  # settings may be anything
            raise ModelError(
                f"The feature extractor of {str(source)!r} cannot be used: {describe_cause(error)}."
            ) from None
        if actual_shape != expected_shape:
            raise ModelError(
                f"The feature extractor of {str(source)!r} makes {actual_shape[0]} vectors of width {actual_shape[1]} of {samples} "
                f"samples; the model takes {expected_shape[0]} of width {expected_shape[1]}."
            )
