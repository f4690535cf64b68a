"""A thin ctypes binding of espeak-ng as shipped in the package `espeakng-loader`: speech from a text and a voice."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.errors import DataError

# Values of espeak-ng's public header (speak_lib.h).
_SYNCHRONOUS = 2
_PHONEME_EVENTS, _PHONEMES_AS_IPA, _DO_NOT_EXIT = 0x1, 0x2, 0x8000
_RATE, _PITCH, _RANGE = 1, 3, 4
_UTF8 = 1
_EVENT_LAST, _EVENT_WORD, _EVENT_END, _EVENT_PHONEME = 0, 1, 5, 7


@dataclass(frozen=True, kw_only=True, slots=True)
class Voice:
    """A synthetic speaker: an accent, a variant (the timbre) and the parameters of the voice."""

    accent: str
    variant: str
    rate: int  # words a minute, 80 to 450
    pitch: int  # 0 to 100
    range: int  # of the pitch, 0 (monotone) to 100

    @property
    def name(self) -> str:
        """The speaker's label, different for any two voices that differ in a field."""
        return f"{self.accent}+{self.variant}-r{self.rate}-p{self.pitch}-i{self.range}"


@dataclass(frozen=True, slots=True)
class Span:
    """A word or phone with `start` and `end` in samples."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class SynthesizedSpeech:
    """The result of a call: int16 samples at `sample_rate`, spans of words, spans of IPA phones.

    espeak-ng joins some neighboring words in speech, such as "of the"; such words share a span.
    """

    samples: NDArray[np.int16]
    sample_rate: int
    words: tuple[Span, ...]
    phones: tuple[Span, ...]


class _Name(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Name),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def _import_loader() -> Any:
    try:
        import espeakng_loader
    except ImportError:
        raise DataError(
            "Synthetic speech needs the package `espeakng-loader`, which is not installed. "
            "Install it (`pip install espeakng-loader`, or `pip install 'secateur[demo]'`), or name your own data."
        ) from None
    return espeakng_loader


def version() -> str:
    """Return the installed version of `espeakng-loader`; samples depend on the version."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    _import_loader()
    try:
        return installed("espeakng-loader")
    except PackageNotFoundError:
        return "unknown"


class Synthesizer:
    """The espeak-ng library, loaded once per process.

    The library keeps state between calls, so the samples are reproducible only for the same sequence of calls in a
    fresh process. Breathy voices use a generator that espeak-ng seeds with the clock, and Klatt voices that of the C
    library: `synthesize` seeds both.
    """

    def __init__(self) -> None:
        loader = _import_loader()
        self._library = ctypes.CDLL(loader.get_library_path())
        folder = os.path.dirname(loader.get_data_path())
        options = _PHONEME_EVENTS | _PHONEMES_AS_IPA | _DO_NOT_EXIT
        self.sample_rate = int(self._library.espeak_Initialize(_SYNCHRONOUS, 0, folder.encode(), options))
        if self.sample_rate <= 0:
            raise DataError(
                f"espeak-ng could not start with its data in {folder}. Reinstall the package `espeakng-loader`."
            )
        self._c_library = ctypes.CDLL("msvcrt" if sys.platform == "win32" else None)
        self._chunks: list[NDArray[np.int16]] = []
        self._events: list[tuple[int, int, int, str]] = []  # type, sample, text position (1-based), phone
        # The library holds only a pointer to the callback, so the attribute keeps it from being collected.
        self._callback: Callable[..., int] = _Callback(self._collect)
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, wave: Any, count: int, events: Any) -> int:
        """Store a block of samples and events; called by the library several times for each text."""
        if count > 0:
            self._chunks.append(np.ctypeslib.as_array(wave, (count,)).copy())
        index = 0
        while events[index].type != _EVENT_LAST:
            event = events[index]
            phone = event.id.string.decode("utf-8", "replace") if event.type == _EVENT_PHONEME else ""
            self._events.append((event.type, event.sample, event.text_position, phone))
            index += 1
        return 0  # continue

    def synthesize(self, text: str, *, voice: Voice, seed: int) -> SynthesizedSpeech:
        """Return `text` as speech.

        Args:
            text: Words in ASCII.
            voice: The speaker.
            seed: Seed of the noise in breathy and Klatt voices.

        Raises:
            DataError: The voice is unknown, or espeak-ng returns an error or no samples.
        """
        library = self._library
        name = f"{voice.accent}+{voice.variant}"
        if library.espeak_SetVoiceByName(name.encode()) != 0:
            raise DataError(f"espeak-ng has no voice {name!r}; expected an accent of espeak-ng, such as 'gmw/en-US'.")
        for parameter, value in ((_RATE, voice.rate), (_PITCH, voice.pitch), (_RANGE, voice.range)):
            library.espeak_SetParameter(parameter, value, 0)
        self._chunks = []
        self._events = []
        library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        self._c_library.srand(ctypes.c_uint(seed))
        data = text.encode()
        status = library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8, None, None)
        if status != 0 or not self._chunks:
            raise DataError(f"espeak-ng could not synthesize {text!r} in the voice {name!r} (status {status}).")
        samples = np.concatenate(self._chunks)
        words, phones = _word_and_phone_spans(self._events, text, len(samples))
        return SynthesizedSpeech(samples=samples, sample_rate=self.sample_rate, words=words, phones=phones)


def _word_and_phone_spans(
    events: list[tuple[int, int, int, str]], text: str, total_samples: int
) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """Return the spans of words and phones in a list of events.

    A word lasts until the next word and a phone until the next event; a pause or the end ends both. With the events
    (word, sample 0, text position 1), (word, sample 900, text position 5) and (end, sample 2000), the text "two six"
    has the words (0, 900, "two") and (900, 2000, "six").
    """
    boundary_events = [event for event in events if event[0] in (_EVENT_WORD, _EVENT_PHONEME, _EVENT_END)]
    words: list[Span] = []
    phones: list[Span] = []
    word: tuple[int, int] | None = None  # start in samples and in the text
    for index, (event_type, sample, position, phone) in enumerate(boundary_events):
        is_pause = event_type == _EVENT_END or (event_type == _EVENT_PHONEME and not phone)
        if (event_type == _EVENT_WORD or is_pause) and word is not None:
            # The text of a word reaches to the next word event; a pause in between does not change that.
            next_word_positions = [event[2] for event in boundary_events[index:] if event[0] == _EVENT_WORD]
            text_stop = next_word_positions[0] - 1 if next_word_positions else len(text)
            if sample > word[0]:
                words.append(Span(word[0], min(sample, total_samples), text[word[1] : text_stop].strip()))
            word = None
        if event_type == _EVENT_WORD:
            word = (sample, position - 1)
        if event_type == _EVENT_PHONEME and phone:
            end = boundary_events[index + 1][1] if index + 1 < len(boundary_events) else total_samples
            if end > sample:
                phones.append(Span(sample, min(end, total_samples), phone))
    if word is not None and total_samples > word[0]:
        words.append(Span(word[0], total_samples, text[word[1] :].strip()))
    return tuple(words), tuple(phones)
