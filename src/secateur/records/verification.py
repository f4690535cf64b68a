"""Outcome of the comparison of a cut model with the masked model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from secateur.records.section import Number, Record, Section


@dataclass(frozen=True, kw_only=True)
class VerificationCheck(Section):
    """Check of the verification.

    Attributes:
        name: Property that is checked.
        holds: Whether the property holds.
        detail: Numbers behind the result.
        is_proof: Whether the check is part of the proof that the cut model is the masked model. All other checks are
            part of the drop-in contract.
    """

    name: str
    holds: bool
    detail: str = ""
    is_proof: bool = False


@dataclass(frozen=True, kw_only=True)
class Verification(Section):
    """Outcome of the proof and of the drop-in contract.

    Attributes:
        holds: Whether every check holds.
        proven: Whether every check of the proof holds; None in older records, where `holds` stands for it.
        checks: Checks of the proof, where there was a masked model to compare with, and of the contract.
        differences: Largest relative difference of each hidden state (index 0 is the encoder's input), and last of the
            final output. Empty without a masked model; NaN where the masked model gives NaN or infinite values.
    """

    holds: bool
    proven: bool | None = None
    checks: tuple[VerificationCheck, ...] = ()
    differences: tuple[Number, ...] = ()

    @classmethod
    def from_checks(cls, checks: Sequence[VerificationCheck], differences: Sequence[float] = ()) -> Verification:
        """Return the verification with the outcome that follows from the checks."""
        return cls(
            holds=all(check.holds for check in checks),
            proven=all(check.holds for check in checks if check.is_proof),
            checks=tuple(checks),
            differences=tuple(differences),
        )

    @property
    def is_proven(self) -> bool:
        """True if every check of the proof holds; checks of the contract may fail."""
        # Older records had checks of the proof only.
        return self.holds if self.proven is None else self.proven

    @property
    def broken(self) -> tuple[VerificationCheck, ...]:
        """Checks that do not hold."""
        return tuple(check for check in self.checks if not check.holds)

    @property
    def failed_proofs(self) -> str:
        """Names and details of the checks of the proof that do not hold, in one line."""
        return "; ".join(f"{check.name} ({check.detail})" for check in self.broken if check.is_proof)

    @property
    def refusal(self) -> str:
        """Error message for an unproven model; empty where the proof holds."""
        if self.is_proven:
            return ""
        # NaN in the masked model: neither equal nor different, so the cause is the checkpoint or the training.
        if any(map(math.isnan, self.differences)):
            return (
                "The masked model gives NaN or infinite values, so nothing can be proven of the cut model: look for "
                "them in the checkpoint and in the losses of the run (a lower learning rate, precision fp32)."
            )
        return (
            "The cut model is not the masked model, which is an error in secateur, not in the input: "
            f"{self.failed_proofs}."
        )


@dataclass(frozen=True, kw_only=True)
class _VerifyHeader(Record):
    kind: str = "verify"


@dataclass(frozen=True, kw_only=True)
class VerifyRecord(Verification, _VerifyHeader):  # fields of the last base come first in the JSON
    """Record of `secateur verify`."""
