"""Export of a model: a folder that is proven equal to the model, or nothing."""

from __future__ import annotations

from pathlib import Path

from secateur.errors import SecateurError
from secateur.export import find_target
from secateur.hf.load import load_checkpoint
from secateur.hf.save import atomic_folder, check_replaceable
from secateur.records.export_record import ExportRecord


def export_model(source: str | Path, *, target: str, out: Path, force: bool = False) -> ExportRecord:
    """Write a model in the form of an export target.

    Args:
        source: Model folder or hub id.
        target: Name of the target.
        out: Folder to write, which appears complete or not at all.
        force: Replace `out` if it exists.

    Raises:
        SecateurError: There is no such target, it cannot hold the model, or the parity of the outputs fails.
    """
    export_target = find_target(target)
    check_replaceable(out, replace=force)
    checkpoint = load_checkpoint(source).drop_damaged_head()
    with atomic_folder(out, replace=force) as folder:
        exported = export_target.write(checkpoint, folder, source=source)
        if not exported.verification.is_proven:
            raise SecateurError(
                f"The exported model does not have the outputs of {str(source)!r}, which is an error in secateur, not "
                f"in the input: {exported.verification.failed_proofs}. Nothing was written."
            )
        file_sizes = {
            path.relative_to(folder).as_posix(): path.stat().st_size
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
    return ExportRecord(
        target=target,
        model=str(source),
        files=file_sizes,
        notes=exported.notes,
        verification=exported.verification,
        folder=str(out),
    )
