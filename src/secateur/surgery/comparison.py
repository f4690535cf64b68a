"""Forward passes on random audio, and the differences between two models' outputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.structure import Structure

#: Frames up to which the shortest audio that a model takes is searched for.
_MAX_SEARCHED_FRAMES = 256


def random_audio(
    structure: Structure, samples: int, dtype: torch.dtype, generator: torch.Generator, *, batch: int = 1
) -> Tensor:
    """Return random model inputs for a number of samples of audio: (B, S) or (B, positions, width)."""
    return torch.randn(structure.input_shape(batch, samples), generator=generator, dtype=dtype)


def run_model(model: PreTrainedModel, audio: Tensor, attention_mask: Tensor | None = None) -> Any:
    """Return a model's outputs, hidden states included.

    Args:
        model: An encoder, or one with a task head.
        audio: (B, S) or (B, positions, width).
        attention_mask: (B, S) or (B, positions), 1 where the audio is valid.
    """
    device = next(model.parameters()).device
    mask = None if attention_mask is None else attention_mask.to(device)
    # A transducer's logits are of frames and tokens: of its blank, and of the first token behind that.
    blank = getattr(model.config, "blank_token_id", None)
    decoder = {} if blank is None else {"decoder_input_ids": torch.tensor([[blank, 0]] * len(audio), device=device)}
    return model(audio.to(device), attention_mask=mask, output_hidden_states=True, **decoder)


def final_output(result: Any) -> Tensor:
    """Return the logits of a head, or the last hidden state."""
    output: Tensor = result.logits if "logits" in result else result[0]
    return output


def relative_difference(reference: Tensor, candidate: Tensor) -> float:
    """Return the largest difference relative to the root mean square of the reference.

    The result is NaN if the reference is not finite, and infinite if only the candidate is not finite, or its shape
    differs.
    """
    if not bool(torch.isfinite(reference).all()):
        return float("nan")
    if reference.shape != candidate.shape or not bool(torch.isfinite(candidate).all()):
        return float("inf")
    # The minimum avoids a division by zero where the reference is zero everywhere.
    scale = reference.double().square().mean().sqrt().clamp(min=1e-30)
    return float((reference.double() - candidate.double()).abs().max() / scale)


def min_usable_samples(model: PreTrainedModel, structure: Structure) -> int:
    """Return the fewest samples that give finite outputs of a model and head.

    Most models take audio of one frame. An x-vector head takes 16: its windows span 15, and a standard deviation over
    time needs two of them. Frame counts are doubled until the model runs, then bisected.
    """
    dtype = next(model.parameters()).dtype

    def is_usable(frames: int) -> bool:
        generator = torch.Generator().manual_seed(0)
        audio = random_audio(structure, structure.min_samples_for(frames), dtype, generator)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"std\(\): degrees of freedom")
            try:
                result = run_model(model, audio)
            except (RuntimeError, ValueError):
                return False
        return bool(torch.isfinite(final_output(result)).all())

    usable_frames = 1
    while not is_usable(usable_frames):
        usable_frames *= 2
        if usable_frames > _MAX_SEARCHED_FRAMES:  # broken weights, not a short input, which the comparison will show
            return structure.min_samples
    # If 16 frames are the first usable power of two, 8 are too few: search between 8 and 16.
    too_few = usable_frames // 2
    while usable_frames - too_few > 1:
        middle = (usable_frames + too_few) // 2
        usable_frames, too_few = (middle, too_few) if is_usable(middle) else (usable_frames, middle)
    return structure.min_samples_for(usable_frames)


@contextmanager
def inference_mode(model: PreTrainedModel) -> Iterator[None]:
    """Put a model into eval mode without gradients, and restore the previous mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
