"""The frozen teacher: hidden states and logits as targets of distillation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from secateur.compress.distiller import EncoderOutput, compile_encoder, encode, hidden_states
from secateur.data.collate import AudioBatch
from secateur.errors import ModelError
from secateur.hf.model_view import ModelView
from secateur.inference import inference_view

logger = logging.getLogger(__name__)

# Length of the noise on which the stock and the inference form are compared.
_SAMPLES = 16_000  # one second at 16 kHz

#: Largest relative root-mean-square error of the hidden states of the inference form, by dtype.
FORM_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2}


class Teacher:
    """Targets from a frozen encoder, computed without a graph.

    The encoder runs in the inference form, which is faster, in the precision of the phase: in the dtype of the weights,
    or with weights and activations in bfloat16 if the student runs under bfloat16 autocast. If a model has no inference
    form, or the form differs by more than `FORM_TOLERANCE`, the stock form runs, with a warning in the log.
    """

    def __init__(
        self,
        view: ModelView,
        layers: Sequence[int],
        *,
        precision: Literal["fp32", "bf16"] = "fp32",
        compile: bool = False,
    ) -> None:
        """
        Args:
            view: The encoder, with the head if logits are imitated, on the device of the phase. The model is not
                changed here and must not change later.
            layers: Numbers of the imitated hidden states.
            precision: Precision of the phase.
            compile: Whether to compile the encoder.
        """
        self.layers = tuple(layers)
        fast_view = _inference_form(view, torch.bfloat16 if precision == "bf16" else _dtype(view.model))
        self.view = compile_encoder(fast_view) if compile else fast_view
        self.inference_model: nn.Module = self.view.model

    def __call__(self, audio: AudioBatch) -> EncoderOutput:
        """Return the imitated hidden states by number, (B, T, D) each, and the logits of a head."""
        # Not under the autocast of the student: the dtype of the weights is the precision of the teacher.
        with torch.no_grad(), torch.autocast(_device(self.inference_model), enabled=False):
            return encode(self.view, audio, self.layers)


def _inference_form(view: ModelView, dtype: torch.dtype) -> ModelView:
    """Return the inference form of an encoder in a dtype if the hidden states agree, else the encoder."""
    model = view.model
    try:
        source_view = view
        if dtype != _dtype(model):
            source_view = view.copy()
            source_view.model.to(dtype)
        fast_view = inference_view(source_view)
    except ModelError as error:
        logger.warning("the teacher computes in its stock form: %s", error)
        return view
    shape = view.structure.input_shape(1, _SAMPLES)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    audio = AudioBatch(values=noise, lengths=torch.tensor([shape[1]]), ids=("noise",), mask=None)
    with torch.no_grad(), torch.autocast(_device(model), enabled=False):
        expected = hidden_states(view, audio)
        actual = hidden_states(fast_view, audio)
    # Relative error of each hidden state, in float64: (1, T, D) -> ()
    errors = [float((actual[i].double() - state).norm() / state.double().norm()) for i, state in expected.items()]
    max_error = max(errors)
    if max_error <= FORM_TOLERANCE[dtype]:
        return fast_view
    logger.warning("the teacher computes in its stock form: its inference-only form is off by %.0e", max_error)
    return view


def _dtype(base: nn.Module) -> torch.dtype:
    return next(base.parameters()).dtype


def _device(base: nn.Module) -> str:
    return next(base.parameters()).device.type
