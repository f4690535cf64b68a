"""The verb ``choose``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from secateur.cli.console_tables import print_broken_contract, print_rounding
from secateur.cli.field_flags import parse_value
from secateur.cli.verb import BROKEN_CONTRACT, print_record

if TYPE_CHECKING:
    from secateur.records.choice import ChooseRecord

SUMMARY = "Choose again for another target, without learning again."


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", help="folder of a run that learned gates")
    target_group = parser.add_mutually_exclusive_group(required=True)
    target_group.add_argument("--target", type=float, help="share of the cost that is kept")
    target_group.add_argument("--target-ms", type=float, help="predicted milliseconds, for the cost latency")
    target_group.add_argument("--target-rtf", type=float, help="predicted real-time factor, for the cost latency")
    parser.add_argument("--cost", default="parameters", help="parameters, macs or latency")
    parser.add_argument("--scope", default="whole", help="whole, gated, encoder, frontend, transducer or a module path")
    parser.add_argument("--round-to", metavar="MULTIPLES", help="auto, or {channels: 64, …}; default: as in the run")
    parser.add_argument("--device", help="cpu or cuda, what the model is meant for; default: as in the run")
    parser.add_argument("--out", help="folder for the selection and the shrunk model")


def run(options: argparse.Namespace, fields: dict[str, Any]) -> int:
    from secateur import pipeline
    from secateur.engine.progress import ProgressDisplay

    names = ("target", "target_ms", "target_rtf", "cost", "scope")
    constraint = {name: getattr(options, name) for name in names}
    choose_flags = {"round_to": options.round_to, "device": options.device}
    # Flags that are not given keep the values of the run.
    choose_fields = {name: parse_value(name, text) for name, text in choose_flags.items() if text is not None}
    with ProgressDisplay() as display:
        record = pipeline.choose(
            options.folder, constraint=constraint, choosing=choose_fields, out=options.out, on_progress=display
        )
    print_record(options, record, print_choice)
    return 0 if record.verification and record.verification.holds else BROKEN_CONTRACT


def print_choice(record: ChooseRecord) -> None:
    """Print the counted costs beside the costs by the gates' hard decisions."""
    for name, counted_cost in record.counted.items():
        hard_cost = record.verdict[name]
        cost = f"{counted_cost:.4g} ms predicted" if record.is_time else f"{counted_cost:,} counted"
        hard_text = f"{hard_cost:.4g} ms" if record.is_time else f"{hard_cost:,}"
        print(f"{name}: {cost} ({hard_text} by the gates' hard decisions)")
    print_rounding(record.rounding)
    if record.verification:
        print_broken_contract(record.verification)
    print(f"The repair moved {record.moved} of {record.gated} units. Model: {record.folder}/model")
