"""The proof that a cut model is the masked model, together with the drop-in contract."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.cost import Cost, Terms
from secateur.hf.model_view import ModelView
from secateur.masking import attach, mask_values
from secateur.masking.parameter_view import ParameterView
from secateur.records.verification import Verification, VerificationCheck
from secateur.structure import Selection, Structure, normalize
from secateur.structure.structure import TRANSDUCER
from secateur.surgery.comparison import (
    final_output,
    inference_mode,
    min_usable_samples,
    random_audio,
    relative_difference,
    run_model,
)
from secateur.surgery.contract import TOLERANCE, ModelPair, contract_checks
from secateur.surgery.cut import cut_view

_WEIGHT_TOLERANCE = 1e-6  # of a parameter in float32


def verify(
    cut: PreTrainedModel | ModelView,
    dense: PreTrainedModel | ModelView,
    selection: Selection | None,
    *,
    seed: int = 0,
    compile: bool = False,
) -> Verification:
    """Compare a cut model with the dense model from which the cut was made.

    Args:
        cut: The cut model.
        dense: The model it came from; its masked self is compared when a selection is given.
        selection: The selection of the cut; None checks the contract only (a model that was trained after the cut).
        seed: Seed of the random audio.
        compile: Also run `torch.compile` (a minute or more on a CPU).
    """
    cut, dense = ModelView.of(cut), ModelView.of(dense)
    structure = dense.structure
    generator = torch.Generator().manual_seed(seed)
    checks: list[VerificationCheck] = []
    differences: tuple[float, ...] = ()
    with inference_mode(cut.model), inference_mode(dense.model):
        min_samples = min_usable_samples(dense.model, structure)
        if selection is not None:
            normalized = normalize(structure, selection).selection
            checks.append(_check_parameter_count(cut, structure, normalized))
            differences = compare(cut, dense, structure, normalized, generator, shortest=min_samples)
            checks.append(_check_outputs(cut, dense, structure, normalized, differences, shortest=min_samples))
        model_pair = ModelPair(
            cut=cut.model,
            dense=dense.model,
            layers=cut.encoder_config.num_hidden_layers,
            structure=structure,
            shortest=min_samples,
            generator=generator,
        )
        checks += contract_checks(model_pair, compile=compile)
    return Verification.from_checks(checks, differences)


def compare(
    cut: ModelView,
    dense: ModelView,
    structure: Structure,
    normalized: Selection,
    generator: torch.Generator,
    *,
    shortest: int | None = None,
) -> tuple[float, ...]:
    """Return the largest difference between masked and cut over random audio of many lengths, padded and not.

    Where a head needs more than the shortest audio that its encoder takes, the encoders are compared on that too.

    Args:
        cut: The cut model.
        dense: The model that it was cut from.
        structure: Structure of the dense model.
        normalized: The normalized selection of the cut.
        generator: Generator of the audio.
        shortest: The fewest samples that the dense model takes; None is those of one frame.

    Returns:
        The difference of each hidden state of the cut model, then of the output, relative to the root mean square of
        the masked model's activations.
    """
    dtype = next(cut.model.parameters()).dtype
    min_samples = shortest or structure.min_samples
    masking = attach(dense, structure)
    masking.set(mask_values(structure, normalized, dtype).to(next(dense.model.parameters()).device))
    max_differences: list[float] = []
    try:
        for audio, attention in _audio_batches(structure, min_samples, dtype, generator):
            max_differences = _elementwise_max(
                max_differences, _output_differences(dense.model, cut.model, audio, attention)
            )
        if min_samples > structure.min_samples:
            for samples in (structure.min_samples, 3 * structure.min_samples + 7):
                audio = random_audio(structure, samples, dtype, generator)
                max_differences = _elementwise_max(
                    max_differences, _output_differences(dense.encoder, cut.encoder, audio, None)
                )
    finally:
        masking.remove()
    return tuple(max_differences)


def _audio_batches(
    structure: Structure, min_samples: int, dtype: torch.dtype, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield batches from the shortest usable audio on, with attention masks where rows are padded."""
    # From a single frame to about a second at 16 kHz; odd lengths end within a stride of the front end.
    for samples in (min_samples, min_samples + 1, 3 * min_samples + 7, 8000, 16123):
        yield random_audio(structure, max(samples, min_samples), dtype, generator), None
    # Samples of each row of a batch; the longest row has no padding.
    for rows in ((12000, 7001), (9000, min_samples, 4567)):
        sample_counts = [max(samples, min_samples) for samples in rows]
        audio = random_audio(structure, max(sample_counts), dtype, generator, batch=len(sample_counts))
        lengths = torch.tensor([structure.input_length(samples) for samples in sample_counts])
        # (positions,) < (rows, 1) -> (rows, positions): lengths 3 and 1 give [[1, 1, 1], [1, 0, 0]]
        attention = (torch.arange(audio.shape[1]) < lengths[:, None]).long()
        # For features the mask gets a last dimension of 1: (rows, positions, 1).
        yield audio * attention.view(*attention.shape, *[1] * (audio.dim() - 2)), attention


def _output_differences(masked: Any, cut: Any, audio: Tensor, attention: Tensor | None) -> list[float]:
    """Return the relative difference of each hidden state that the cut model has, and of the output."""
    reference, candidate = (run_model(model, audio, attention) for model in (masked, cut))
    # Trimmed layers have no hidden state in the cut model; the masked one repeats the last.
    pairs = [*zip(reference.hidden_states, candidate.hidden_states, strict=False)]
    pairs.append((final_output(reference), final_output(candidate)))
    return [relative_difference(reference_output, candidate_output) for reference_output, candidate_output in pairs]


def _elementwise_max(current: list[float], update: list[float]) -> list[float]:
    """Return the larger of each pair of differences; NaN counts as the largest."""
    if not current:
        return update
    return [
        new_value if math.isnan(new_value) or new_value > current_value else current_value
        for current_value, new_value in zip(current, update, strict=True)
    ]


def _check_parameter_count(cut: ModelView, structure: Structure, normalized: Selection) -> VerificationCheck:
    terms, holds, details = Terms(structure), True, []
    cut_parameters = ParameterView(cut, cut.structure).parameters()
    for scope in ("whole", TRANSDUCER) if structure.head else ("whole",):
        expected = Cost.from_terms(terms, cost="parameters", scope=scope).count(normalized)
        actual = sum(value.numel() for name, value in cut_parameters.items() if structure.is_in_scope(name, scope))
        head_note = " in the head" if scope == TRANSDUCER else ""
        details.append(f"{actual:,} counted{head_note}, {expected:,} by the selection")
        holds &= actual == expected
    return VerificationCheck(
        name="parameters are those of the selection", holds=holds, detail="; ".join(details), is_proof=True
    )


def _check_outputs(
    cut: ModelView,
    dense: ModelView,
    structure: Structure,
    normalized: Selection,
    differences: tuple[float, ...],
    *,
    shortest: int,
) -> VerificationCheck:
    """Check that the differences are rounding; float64 decides if a trained model has amplified the rounding."""
    dtype, name = next(cut.model.parameters()).dtype, "cut model equals masked model"
    if any(map(math.isnan, differences)):
        detail = "the masked model gives NaN or infinite values"
        return VerificationCheck(name=name, holds=False, detail=detail, is_proof=True)
    tolerance, max_difference = TOLERANCE.get(dtype, 1e-4), max(differences)
    holds = max_difference <= tolerance
    detail = (
        f"largest relative difference {max_difference:.1e} over {len(differences)} outputs, allowed {tolerance:.0e}"
    )
    if not holds and dtype == torch.float32:
        exact, weight_difference = _compare_in_float64(cut, dense, structure, normalized, shortest=shortest)
        holds = exact <= TOLERANCE[torch.float64] and weight_difference <= _WEIGHT_TOLERANCE
        detail += (
            f"; cut and compared in float64 {exact:.1e}, its weights rounded and these {weight_difference:.1e} apart"
        )
    return VerificationCheck(name=name, holds=holds, detail=detail, is_proof=True)


def _compare_in_float64(
    cut: ModelView, dense: ModelView, structure: Structure, normalized: Selection, *, shortest: int
) -> tuple[float, float]:
    """Compare in float64, where a difference is not rounding.

    Returns:
        The largest difference of `cut` from the masked model, both in float64 and `cut` with the weights of a cut that
        was made in float64; and the largest between those weights and the ones that `cut` has.
    """
    dense_float64 = dense.copy()
    dense_float64.model.double()
    exact_parameters = dict(cut_view(dense_float64, normalized).model.named_parameters())
    original_parameters = {name: value.clone() for name, value in cut.model.named_parameters()}
    # With other names or shapes the exact weights do not fit into the cut model.
    if {name: value.shape for name, value in exact_parameters.items()} != {
        name: value.shape for name, value in original_parameters.items()
    }:
        return float("inf"), float("inf")
    weight_difference = max(
        relative_difference(exact_parameters[name].float(), value) for name, value in original_parameters.items()
    )
    try:
        cut.model.double()
        for name, value in cut.model.named_parameters():
            # Weights cut in float64; those of the model have been rounded to float32.
            value.copy_(exact_parameters[name])
        generator = torch.Generator().manual_seed(0)
        return max(compare(cut, dense_float64, structure, normalized, generator, shortest=shortest)), weight_difference
    finally:
        cut.model.float()
        for name, value in cut.model.named_parameters():
            value.copy_(original_parameters[name])
