"""The frozen teacher as a source of targets: no graph, its fastest form, only what is imitated of it."""

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

# Of the noise that forms are compared on.
_SAMPLES = 16_000

#: Largest root-mean-square error of a form's hidden states relative to the encoder's own, by the form's dtype.
FORM_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2}


class Teacher:
    """Targets from an encoder that never learns.

    It computes in its inference-only form, in the precision of the phase: in the dtype of its weights, or, where the
    student computes under bfloat16 autocast, with weights and activations in bfloat16. Where that form does not agree
    with the encoder itself to `TOLERANCE`, or there is none, the encoder is used as it is, and the log says so.
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
            view: The encoder, with its head where logits are imitated, on the device where it is to compute; not
                touched, and not to be changed afterwards.
            layers: Numbers of the hidden states that are imitated.
            precision: Of the phase.
            compile: Whether the form is compiled.
        """
        self.layers = tuple(layers)
        fast_view = _inference_form(view, torch.bfloat16 if precision == "bf16" else _dtype(view.model))
        self.view = compile_encoder(fast_view) if compile else fast_view
        self.inference_model: nn.Module = self.view.model

    def __call__(self, audio: AudioBatch) -> EncoderOutput:
        """The imitated hidden states by number, (B, T, D) each, and the logits of a head, without graph."""
        with torch.no_grad(), torch.autocast(_device(self.inference_model), enabled=False):
            return encode(self.view, audio, self.layers)


def _inference_form(view: ModelView, dtype: torch.dtype) -> ModelView:
    """The inference-only form in a dtype if it agrees with the encoder, else the encoder."""
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
        expected, actual = hidden_states(view, audio), hidden_states(fast_view, audio)
    max_error = max(float((actual[i].double() - state).norm() / state.double().norm()) for i, state in expected.items())
    if max_error <= FORM_TOLERANCE[dtype]:
        return fast_view
    logger.warning("the teacher computes in its stock form: its inference-only form is off by %.0e", max_error)
    return view


def _dtype(base: nn.Module) -> torch.dtype:
    return next(base.parameters()).dtype


def _device(base: nn.Module) -> str:
    return next(base.parameters()).device.type
