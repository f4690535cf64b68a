"""Input features and sampling rate of a model, from the feature extractor settings in the model's folder."""

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

# Order and keys as in transformers: settings in a processor's file take precedence over a separate file.
_SETTINGS_FILES = {"processor_config.json": ("feature_extractor", "audio_processor"), "preprocessor_config.json": ()}


class _ExtractorSettings(NamedTuple):
    """Settings of a feature extractor and the file with the settings, or empty settings without a file."""

    fields: dict[str, Any]
    path: Path | None


def load_input_features(source: str | Path, structure: Structure) -> InputFeatures:
    """Return the input features of the model of a folder or hub id, with the family's defaults for missing settings.

    Raises:
        ModelError: The feature extractor cannot be read, or does not fit the model.
    """
    settings = _read_settings(source)
    sample_rate = _check_sample_rate(settings)
    if sample_rate != SAMPLE_RATE:
        logger.info("%s takes audio at %d Hz: all audio is read at this rate", source, sample_rate)
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
    """Return the sampling rate of a model in hertz, `SAMPLE_RATE` by default.

    Args:
        source: A model folder, a config file in one, or a hub id.

    Raises:
        ModelError: The settings of the feature extractor cannot be read, or have an invalid sampling rate.
    """
    return _check_sample_rate(_read_settings(source))


def _read_settings(source: str | Path) -> _ExtractorSettings:
    """Read the settings of a feature extractor from a processor's file or a separate file."""
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
    """Return the sampling rate in settings, after a check of the range."""
    value = settings.fields.get("sampling_rate", SAMPLE_RATE)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not MIN_SAMPLE_RATE <= value <= MAX_SAMPLE_RATE or value != int(value):
        raise ModelError(
            f"{settings.path}: sampling_rate: got {value!r}, expected a whole number of hertz from "
            f"{MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}, such as {SAMPLE_RATE}."
        )
    return int(value)


def _make_extractor(source: str | Path, settings: dict[str, Any], feature_spec: FeatureSpec) -> Any:
    """Build a feature extractor of transformers from settings; code in a model's folder is never run."""
    _check_extractor_type(source, settings, feature_spec.extractor)
    extractor: Any = getattr(transformers, feature_spec.extractor)
    try:
        return extractor.from_dict(settings)
    except Exception as error:  # settings may be anything
        raise ModelError(f"The feature extractor of {str(source)!r} cannot be made: {describe_cause(error)}.") from None


def _check_extractor_type(source: str | Path, settings: dict[str, Any], allowed: str) -> None:
    """Raise a ModelError if settings belong to a class of extractors that is not allowed."""
    kind = settings.get("feature_extractor_type", allowed)
    if kind != allowed:
        raise ModelError(f"The feature extractor of {str(source)!r} is a {kind}, allowed is {allowed}.")


def _check_output_shape(source: str | Path, features: InputFeatures, structure: Structure) -> None:
    """Raise a ModelError unless the features of noise have the shape that the structure expects."""
    # A second, and a length that no stride divides.
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
                f"The feature extractor of {str(source)!r} makes {actual_shape[0]} vectors of width {actual_shape[1]} "
                f"of {samples} samples; the model takes {expected_shape[0]} of width {expected_shape[1]}."
            )
