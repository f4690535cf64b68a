"""The transducer loss against every path by hand, closed forms, finite differences and the library's joint network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.parakeet.configuration_parakeet import ParakeetRNNTConfig
from transformers.models.parakeet.modeling_parakeet import ParakeetRNNTJointNetwork

from secateur.errors import ConfigError, DataError, SecateurError
from secateur.tasks import rnnt_loss
from secateur.tasks.rnnt_lattice import log_likelihoods


def every_path(logits: Tensor, target_tokens: Sequence[int], blank: int) -> Tensor:
    """Return minus the log of the sum over all orders with a final blank, for logits (T, U + 1, V)."""
    scores = logits.log_softmax(-1)
    steps = len(logits) - 1 + len(target_tokens)
    paths = []
    for written_text in itertools.combinations(range(steps), len(target_tokens)):
        frame = tokens = 0
        path = scores.new_zeros(())
        for step in range(steps):
            if step in written_text:
                path = path + scores[frame, tokens, target_tokens[tokens]]
                tokens += 1
            else:
                path = path + scores[frame, tokens, blank]
                frame += 1
        paths.append(path + scores[frame, tokens, blank])
    return -torch.stack(paths).logsumexp(0)


def case(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, list[list[int]], int]:
    """Return random logits, frames, token rows and a blank, with a row of a single frame and a row without tokens."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    outputs, blank = 4, seed % 4
    tokens = [token for token in range(outputs) if token != blank]
    token_rows = [[tokens[draw(3)] for _ in range(count)] for count in (draw(4), 0, draw(4), 3)]
    frames = torch.tensor([1, 1 + draw(5), 1 + draw(5), 5])
    return torch.randn(4, 5, 4, outputs, generator=generator).to(dtype), frames, token_rows, blank


@pytest.mark.parametrize("seed", range(10))
def test_losses_and_gradients_are_those_of_the_sum_over_every_path(seed: int) -> None:
    logits, frames, token_rows, blank = case(seed)
    logits.requires_grad_()
    rows = zip(logits, frames.tolist(), token_rows, strict=True)
    expected = torch.stack([every_path(row[:count], target_tokens, blank) for row, count, target_tokens in rows])
    result = rnnt_loss.losses(logits, frames, token_rows, blank=blank)
    assert result.shape == (4,)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    gradients = [torch.autograd.grad(loss, logits, weights)[0] for loss in (result, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)
    single = logits.detach().float().requires_grad_()
    loss = rnnt_loss.losses(single, frames, token_rows, blank=blank)
    torch.testing.assert_close(loss, expected.float(), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(loss, single, weights.float())[0], gradients[1].float(), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("seed", [0, 3])
def test_gradients_are_finite_differences(seed: int) -> None:
    logits, frames, token_rows, blank = case(seed)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rnnt_loss.losses(x, frames, token_rows, blank=blank), logits)
    blanks, labels = (-torch.rand(4, 5, width, dtype=torch.float64).requires_grad_() for width in (4, 3))
    lengths = torch.tensor([len(target_tokens) for target_tokens in token_rows])
    assert torch.autograd.gradcheck(lambda b, y: log_likelihoods(b, y, frames, lengths), (blanks, labels))


def test_equal_probabilities_leave_a_count_of_paths() -> None:
    frames, tokens, outputs = 300, 40, 7
    loss = rnnt_loss.losses(
        torch.zeros(1, frames, tokens + 1, outputs), torch.tensor([frames]), [[1] * tokens], blank=6
    )
    expected = (frames + tokens) * math.log(outputs) - math.log(math.comb(frames - 1 + tokens, tokens))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_without_tokens_the_loss_is_that_of_a_blank_in_every_frame() -> None:
    logits = torch.randn(2, 6, 1, 5)
    loss = rnnt_loss.losses(logits, torch.tensor([6, 2]), [[], []], blank=3)
    blanks = logits.log_softmax(-1)[:, :, 0, 3]
    torch.testing.assert_close(loss, -torch.stack([blanks[0].sum(), blanks[1, :2].sum()]))


def test_an_impossible_entry_has_no_gradient_and_an_impossible_script_an_infinite_loss() -> None:
    logits, frames, token_rows = torch.randn(2, 3, 2, 4), torch.tensor([3, 3]), [[1], [2]]
    logits[..., 2] = -math.inf
    logits.requires_grad_()
    loss = rnnt_loss.losses(logits, frames, token_rows, blank=0)
    torch.testing.assert_close(loss[0], every_path(logits[0], token_rows[0], 0))
    assert loss[1] == math.inf
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    remaining_items = logits[..., [0, 1, 3]].detach().requires_grad_()
    (expected,) = torch.autograd.grad(every_path(remaining_items[0], [1], 0), remaining_items)
    torch.testing.assert_close(gradient[..., [0, 1, 3]], expected)
    assert not gradient[..., 2].any()


def test_padding_plays_no_part_even_when_it_is_not_a_number() -> None:
    logits, frames, token_rows, blank = case(1)
    plain = rnnt_loss.losses(logits, frames, token_rows, blank=blank)
    for row, (count, target_tokens) in enumerate(zip(frames.tolist(), token_rows, strict=True)):
        logits[row, count:] = math.nan
        logits[row, :, len(target_tokens) + 1 :] = math.nan
    valid = ~logits.isnan()
    logits.requires_grad_()
    loss = rnnt_loss.losses(logits, frames, token_rows, blank=blank)
    assert torch.equal(loss, plain)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.isfinite().all()
    assert not gradient[~valid].any()


def test_half_precision_is_computed_in_single() -> None:
    logits, frames, token_rows, blank = case(2, torch.bfloat16)
    logits.requires_grad_()
    loss = rnnt_loss.losses(logits, frames, token_rows, blank=blank)
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss, rnnt_loss.losses(logits.float(), frames, token_rows, blank=blank))
    assert torch.autograd.grad(loss.sum(), logits)[0].dtype is torch.bfloat16


def test_pieces_of_the_softmax_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, frames, token_rows, blank = case(4)
    logits.requires_grad_()
    full_result = rnnt_loss.losses(logits, frames, token_rows, blank=blank)
    (expected,) = torch.autograd.grad(full_result.sum(), logits)
    monkeypatch.setattr(rnnt_loss, "_MAX_LOGITS_CPU", 12)
    strided = logits.detach().transpose(1, 3).contiguous().transpose(1, 3).requires_grad_()  # not contiguous
    result = rnnt_loss.losses(strided, frames, token_rows, blank=blank)
    torch.testing.assert_close(result, full_result)
    torch.testing.assert_close(torch.autograd.grad(result.sum(), strided)[0], expected)


def joined(dropout: float = 0.0) -> tuple[Any, Tensor, Tensor, Tensor, list[list[int]]]:
    """The library's joint network, states of an encoder and a predictor, frames and token rows; the blank is 8."""
    joint = ParakeetRNNTJointNetwork(ParakeetRNNTConfig(decoder_hidden_size=6, vocab_size=9, hidden_act="relu"))
    joint.activation = torch.nn.Sequential(joint.activation, torch.nn.Dropout(dropout))
    encoder, predictor = torch.randn(3, 11, 6, requires_grad=True), torch.randn(3, 5, 6, requires_grad=True)
    return joint, encoder, predictor, torch.tensor([9, 4, 10]), [[1, 2, 2, 7], [], [5]]


@pytest.mark.parametrize("at_once", [1, 40, 1 << 20])
def test_the_fused_form_has_the_losses_and_gradients_of_the_whole_tensor(at_once: int) -> None:
    joint, encoder, predictor, frames, token_rows = joined()
    inputs = (encoder, predictor, *joint.parameters())
    logits = joint(encoder_hidden_states=encoder[:, :, None], decoder_hidden_states=predictor[:, None])
    full_result = rnnt_loss.losses(logits, frames, token_rows, blank=8)
    fused = rnnt_loss.fused_losses(joint, encoder, predictor, frames, token_rows, blank=8, max_cells=at_once)
    torch.testing.assert_close(fused, full_result)
    weights = torch.tensor([1.0, 2.0, -0.5])
    expected = torch.autograd.grad(full_result, inputs, weights)
    result = torch.autograd.grad(fused, inputs, weights)
    for actual, reference in zip(result, expected, strict=True):
        torch.testing.assert_close(actual, reference)
    with torch.no_grad():
        repeated = rnnt_loss.fused_losses(joint, encoder, predictor, frames, token_rows, blank=8, max_cells=at_once)
    assert torch.equal(repeated, fused)


def test_the_fused_form_never_sees_more_than_it_may() -> None:
    joint, encoder, predictor, frames, token_rows = joined()
    visited = []
    joint.register_forward_hook(lambda _module, _inputs, logits: visited.append(logits.shape[:-1].numel()))
    rnnt_loss.fused_losses(joint, encoder, predictor, frames, token_rows, blank=8, max_cells=50).sum().backward()
    assert max(visited) == 3 * 3 * 5
    assert sum(visited) == 2 * 3 * 10 * 5  # forward and again in the backward pass; no frame beyond the longest row's


def test_dropout_in_the_joiner_is_the_same_when_logits_are_made_again() -> None:
    joint, encoder, predictor, frames, token_rows = joined(dropout=0.5)
    joint.double()
    encoder, predictor = encoder.detach().double(), predictor.detach().double().requires_grad_()

    def loss(states: Tensor) -> Tensor:
        torch.manual_seed(3)
        return rnnt_loss.fused_losses(joint, encoder, states, frames, token_rows, blank=8, max_cells=40).sum()

    assert torch.autograd.gradcheck(loss, predictor)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"frames": [5, 0, 5, 5]}, DataError, "frames: got 0 in row 1, expected 1 to 5"),
        ({"frames": [5, 1, 6, 5]}, DataError, "frames: got 6 in row 2, expected 1 to 5"),
        ({"frames": [5]}, SecateurError, "got 1 numbers of frames and 4 token sequences for 4 rows"),
        ({"token_rows": [[1], [], [], [1, 0, 2]]}, DataError, "target_tokens: got 0 in row 3, .* not the blank, 0"),
        ({"token_rows": [[-1], [], [], [1, 1, 1]]}, DataError, "target_tokens: got -1 in row 0"),
        ({"token_rows": [[1], [], [], [1, 4, 2]]}, DataError, "target_tokens: got token 4, expected 0 to 3"),
        ({"token_rows": [[1], [], [], [1]]}, SecateurError, "for 3 tokens, expected 1, the length of the longest"),
        ({"blank": 4}, ConfigError, "blank: got 4, expected 0 to 3"),
        ({"blank": -1}, ConfigError, "blank: got -1, expected 0 or more"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(changed: dict[str, Any], error: type, message: str) -> None:
    settings = {"frames": [5, 1, 5, 5], "token_rows": [[1], [], [2], [1, 2, 3]], "blank": 0} | changed
    with pytest.raises(error, match=message):
        rnnt_loss.losses(
            torch.zeros(4, 5, 4, 4), torch.tensor(settings["frames"]), settings["token_rows"], blank=settings["blank"]
        )


def test_a_joiner_or_a_piece_that_does_not_fit_is_refused_in_a_sentence() -> None:
    joint, encoder, predictor, frames, token_rows = joined()
    with pytest.raises(SecateurError, match=r"logits: got shape \(3, 10, 5\), expected \(3, T, 5, V\)"):
        rnnt_loss.fused_losses(
            lambda **states: joint(**states)[..., 0], encoder, predictor, frames, token_rows, blank=8
        )
    with pytest.raises(SecateurError, match="predictor: got 2 rows, expected 3"):
        rnnt_loss.fused_losses(joint, encoder, predictor[:2], frames, token_rows, blank=8)
    with pytest.raises(ConfigError, match="max_cells: got 0, expected 1 or more"):
        rnnt_loss.fused_losses(joint, encoder, predictor, frames, token_rows, blank=8, max_cells=0)
