"""The command line: a verb, its function, and figures for people or as JSON."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from secateur.errors import ConfigError, SecateurError, did_you_mean

BAD_INPUT = 2
BROKEN_CONTRACT = 1  # a promise of ours does not hold, such as a line of the drop-in contract
_TRAINING_VERBS = ("prune", "pretrain")  # verbs that run in this process for long
_CONFIG_VERBS = (*_TRAINING_VERBS, "evaluate")  # verbs that take any field of a config
_RESTART_OPTION = "secateur_restarted"
_BOOLEAN_FLAGS = ("resume", "json", "verbose", "help", "default-settings")  # flags without a value
_VALUE_FLAGS = ("sweep",)  # flags with one, which are no fields of a recipe


class CliParser(argparse.ArgumentParser):
    """A parser whose mistakes are errors of ours: one sentence, with the nearest valid name."""

    def error(self, message: str) -> NoReturn:
        message_parts = message.split("invalid choice: ", 1)
        if len(message_parts) == 2:
            verb = message_parts[1].split("'")[1]
            raise ConfigError(f"Unknown verb {verb!r}; allowed are {', '.join(VERBS)}.{did_you_mean(verb, VERBS)}")
        raise ConfigError(f"{message[0].upper()}{message[1:]} (see `{self.prog} --help`).")


def command() -> int:
    """What the installed command and ``python -m secateur`` run: `main`, in a process that may start itself anew."""
    return main(tune=True)


def main(arguments: Sequence[str] | None = None, *, tune: bool = False) -> int:
    """Run one command.

    Args:
        arguments: Its words; None takes those of the process.
        tune: Whether the process is the command's own, so that its settings may be changed.

    Returns:
        The exit code: 0, 1 for a broken promise of ours, 2 for bad input.
    """
    try:
        parser = _build_parser()
        words = list(sys.argv[1:] if arguments is None else arguments)
        words, fields = _split_fields(words)
        options, unknown_words = parser.parse_known_args(words)
        if not options.verb:
            parser.print_help()
            return BAD_INPUT
        _configure_logging(options.verbose)
        if unknown_words:
            known_flags = [action.option_strings[-1] for action in options.flags if action.option_strings]
            raise ConfigError(
                f"Unknown argument {unknown_words[0]!r} for {options.verb}.{did_you_mean(unknown_words[0], known_flags)}"
            )
        if tune and options.verb in _TRAINING_VERBS and not options.default_settings:
            _tune_process()
        return int(options.run(options, fields))
    except SecateurError as error:
        print(f"secateur: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("secateur: stopped; `--resume` goes on from the last checkpoint of a run.", file=sys.stderr)
        return 130
    except PermissionError as error:
        print(f"secateur: {error.filename or 'a file'} may not be read or written by this user.", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        print(f"secateur: {error}", file=sys.stderr)
        return BROKEN_CONTRACT


def _build_parser() -> argparse.ArgumentParser:
    parser = CliParser(prog="secateur", description="Prune a pretrained speech encoder into a smaller, faster drop-in.")
    parser.set_defaults(verb=None)
    verbs = parser.add_subparsers(metavar="VERB", parser_class=CliParser)
    for name, (function, summary, declare) in VERBS.items():
        verb = verbs.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        verb.add_argument("--json", action="store_true", help="print the record as JSON")
        verb.add_argument("--verbose", action="store_true", help="log what is being done")
        declare(verb)
        verb.set_defaults(verb=name, run=function, flags=verb._actions)
    return parser


def _configure_logging(verbose: bool) -> None:
    """Our log goes to stderr; libraries keep quiet about what concerns only them."""
    import os

    # Threads that wait for each other must sleep, not spin: beside another busy process, on as few cores as the small
    # models want, spinning makes a step ten times slower. Read when torch is loaded, so set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(message)s")
    if not verbose:
        import warnings

        # Of torch about stock attention code, and of no use to whoever runs it.
        warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")

        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def _tune_process() -> None:
    """Settings of the process for learning, which change nothing but the last digits of float32."""
    import os

    from secateur.benchmarking.process_settings import tune_products, tuned_malloc_environment

    environment = tuned_malloc_environment()
    if environment is not None and _RESTART_OPTION not in sys._xoptions:
        try:  # read when a process starts: the same command once more, and never a third time
            os.execve(sys.executable, [sys.executable, "-X", _RESTART_OPTION, *sys.orig_argv[1:]], environment)
        except (OSError, ValueError) as error:
            logging.getLogger(__name__).warning("large buffers go back to the system after use: %s", error)
    tune_products()


def _split_fields(words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The words that argparse knows, and the fields of the recipe: ``--learn.steps 100``, ``--target=0.25``."""
    if not words or words[0] not in _CONFIG_VERBS:
        return list(words), {}
    cli_words: list[str] = []
    fields: dict[str, Any] = {}
    pending = list(words)
    while pending:
        word = pending.pop(0)
        name, equals, text = word[2:].partition("=")
        if not word.startswith("--") or name in _BOOLEAN_FLAGS:
            cli_words.append(word)
            continue
        if not equals:
            if not pending or pending[0].startswith("--"):
                raise ConfigError(f"--{name} needs a value.")
            text = pending.pop(0)
        if not text.strip():  # as of a shell's variable that is not set; YAML would read it as null
            raise ConfigError(f"--{name} needs a value, got nothing; write null where nothing is meant.")
        if name in _VALUE_FLAGS:
            cli_words += [f"--{name}", text]
            continue
        fields[name.replace("-", "_")] = _parse_value(name, text)
    return cli_words, fields


def _parse_value(name: str, text: str) -> Any:
    """The value of a flag that stands for a field of a recipe."""
    import yaml

    from secateur import config

    try:
        return config.parse_scalar(text)
    except yaml.YAMLError:
        raise ConfigError(f"--{name}: {text!r} is not a YAML value.") from None


def _prune(options: argparse.Namespace, fields: dict[str, Any]) -> int:
    from secateur import pipeline
    from secateur.engine.progress import ProgressDisplay

    with ProgressDisplay() as display:
        if options.sweep:
            grid = _parse_grid(options.sweep)
            record = pipeline.sweep(
                options.recipe, grid=grid, overrides=fields, resume=options.resume, on_progress=display
            )
        else:
            record = pipeline.prune(options.recipe, overrides=fields, resume=options.resume, on_progress=display)
    _print_record(options, record, _print_sweep if options.sweep else _print_stages)
    if record.get("failed"):
        return BAD_INPUT
    is_broken = any(row["broken"] for row in record["rows"]) if options.sweep else not record["verification"]["holds"]
    return BROKEN_CONTRACT if is_broken else 0


def _parse_grid(sweeps: Sequence[str]) -> dict[str, list[Any]]:
    """The values of each field that ``--sweep NAME=A,B,…`` names."""
    grid: dict[str, list[Any]] = {}
    for text in sweeps:
        name, equals, values = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"--sweep: got {text!r}, allowed is a field and its values, such as target=0.9,0.7,0.5.")
        if name in grid:
            raise ConfigError(f"--sweep {name}: given twice; list all its values in one.")
        grid[name.replace("-", "_")] = _parse_value("sweep", f"[{values}]")
    return grid


def _pretrain(options: argparse.Namespace, fields: dict[str, Any]) -> int:
    from secateur import pipeline

    record = pipeline.pretrain(options.recipe, overrides=fields, resume=options.resume)
    return _print_record(options, record, lambda record: print(f"The encoder lies in {record['folder']}/model."))


def _evaluate(options: argparse.Namespace, fields: dict[str, Any]) -> int:
    from secateur import pipeline

    if "model" in fields:
        raise ConfigError(f"--model: the model is given already, {options.model!r}; leave one out.")
    return _print_record(options, pipeline.evaluate(options.model, fields=fields), _print_evaluation)


def _choose(options: argparse.Namespace, fields: dict[str, Any]) -> int:
    from secateur import pipeline
    from secateur.engine.progress import ProgressDisplay

    names = ("target", "target_ms", "target_rtf", "cost", "scope")
    constraint = {name: getattr(options, name) for name in names}
    choose_flags = {"round_to": options.round_to, "device": options.device}
    choose_fields = {name: _parse_value(name, text) for name, text in choose_flags.items() if text is not None}
    with ProgressDisplay() as display:
        record = pipeline.choose(
            options.folder, constraint=constraint, choosing=choose_fields, out=options.out, on_progress=display
        )
    _print_record(options, record, _print_choice)
    return 0 if record["verification"]["holds"] else BROKEN_CONTRACT


def _shrink(options: argparse.Namespace, fields: dict[str, Any]) -> int:
    from secateur import pipeline

    record = pipeline.shrink(
        options.model, selection=options.selection, out=options.out, layout=options.layout, force=options.force
    )
    _print_record(options, record, _print_shrink)
    return 0 if record["verification"]["holds"] else BROKEN_CONTRACT


def _profile(options: argparse.Namespace, fields: dict[str, Any]) -> int:
    from secateur import pipeline

    record = pipeline.profile(options.model, seconds=options.seconds, selection=options.selection)
    return _print_record(options, record, _print_profile)


def _verify(options: argparse.Namespace, fields: dict[str, Any]) -> int:
    from secateur import pipeline

    record = pipeline.verify(
        options.model, against=options.against, selection=options.selection, compile=options.compile
    )
    _print_record(options, record, _print_verification)
    return 0 if record["holds"] else BROKEN_CONTRACT


def _bench(options: argparse.Namespace, fields: dict[str, Any]) -> int:
    from secateur import pipeline

    record = pipeline.bench(
        options.model,
        against=tuple(options.against),
        out=options.out,
        seconds=tuple(options.seconds),
        batches=tuple(options.batch),
        dtypes=tuple(options.dtype),
        threads=tuple(options.threads),
        repeats=options.repeats,
        tuned=not options.default_settings,
        memory=not options.no_memory,
    )
    return _print_record(options, record, _print_bench)


def _report(options: argparse.Namespace, fields: dict[str, Any]) -> int:
    from secateur import pipeline

    path = pipeline.report(options.folder, out=options.out)
    return _print_record(
        options, {"report": str(path)}, lambda record: print(f"The report lies in {record['report']}.")
    )


def _doctor(options: argparse.Namespace, fields: dict[str, Any]) -> int:
    from secateur import pipeline
    from secateur.records.files import plain

    findings = plain(pipeline.doctor())
    _print_record(options, findings, _print_findings)
    return BROKEN_CONTRACT if any(finding["status"] == "problem" for finding in findings) else 0


def _print_record(options: argparse.Namespace, record: Any, show: Callable[[Any], object]) -> int:
    from secateur.records.files import plain

    if options.json:
        print(json.dumps(plain(record), indent=2, ensure_ascii=False))
    else:
        show(record)
    return 0


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")  # names may hold brackets, which a str would be styled by
    for index, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def _print_stages(record: dict[str, Any]) -> None:
    stages = record["stages"]
    dense_value = stages[0]["time"]["median_ms"]
    seconds, timed_seconds = stages[0]["samples"] / stages[0]["sample_rate"], stages[0]["time"]["seconds_of_audio"]
    scores = dict.fromkeys(name for stage in stages for name in stage.get("scores", {}))
    infos = (record.get("task") or {}).get("score_info", {})
    measured = {  # a stage lacks what its run did not measure
        **{
            name: [_format_score(name, stage.get("scores", {}).get(name), infos) for stage in stages] for name in scores
        },
        "held-out loss": [_format_fidelity(stage.get("loss")) for stage in stages],
        "cosine to teacher": [_format_fidelity(_mean(stage.get("cosine"))) for stage in stages],
    }
    measured_rows = {name: cells for name, cells in measured.items() if any(cells)}
    rows = [
        (
            stage["name"],
            f"{stage['parameters'] / 1e6:.3f} M",
            f"{stage['macs'] / 1e9:.4f} G",
            f"{stage['time']['median_ms']:.1f} ms ({dense_value / stage['time']['median_ms']:.2f}x)",
            *cells,
        )
        for stage, *cells in zip(stages, *measured_rows.values(), strict=True)
    ]
    _print_table(
        "Before and after",
        ("model", "parameters", f"MACs, {seconds:g} s", f"time, {timed_seconds:g} s", *measured_rows),
        rows,
    )
    _print_rounding(record)
    dense_value, final_value = (stages[place].get("head", 0) for place in (0, -1))
    if final_value:
        print(
            f"Head:   {final_value:,} parameters beside the encoder's"
            + (f", {dense_value:,} before" if dense_value != final_value else "")
        )
    print(f"Model:  {record['folder']}/model")
    print(f"Report: {record['folder']}/report.html")
    _print_broken_contract(record["verification"])


def _print_broken_contract(verification: dict[str, Any]) -> None:
    """Print the lines of the drop-in contract that do not hold."""
    for check in verification["checks"]:
        if not check["holds"]:
            print(f"secateur: contract: {check['name']}: {check['detail']}", file=sys.stderr)


def _print_sweep(record: dict[str, Any]) -> None:
    from secateur.report.sweep_table import sweep_table

    columns, rows = sweep_table(record)
    _print_table("Sweep", columns, rows)
    print(f"Runs:   {record['folder']}")
    print(f"Report: {record['folder']}/sweep.html")
    for row in record["rows"]:
        for name in row["broken"]:
            print(f"secateur: {row['folder']}: contract: {name} does not hold", file=sys.stderr)
    for run in record["failed"]:
        print(f"secateur: {run['folder']} failed: {run['reason']}", file=sys.stderr)


def _format_score(name: str, value: float | None, infos: Mapping[str, Any]) -> str:
    if value is None:
        return ""
    is_share = infos.get(name, {}).get("is_share", not name.endswith("loss"))
    return f"{float(value):.2%}" if is_share else f"{float(value):.4f}"


def _format_fidelity(value: float | None) -> str:
    return "" if value is None else f"{round(float(value), 4) + 0.0:.4f}"  # no minus before a zero


def _mean(values: Sequence[float] | None) -> float | None:
    return sum(map(float, values)) / len(values) if values else None


def _print_rounding(record: dict[str, Any]) -> None:
    """What rounding cost, where something was rounded."""
    rounding = record["rounding"]
    if not rounding:
        return
    rows = [
        (kind, str(rounding["multiples"].get(kind, "")), f"{kept_units:,}", f"{rounding['closed'][kind]:,}")
        for kind, kept_units in rounding["opened"].items()
    ]
    _print_table("What rounding cost", ("kind", "multiples of", "units kept for it", "units removed for it"), rows)
    for name, given_up_share in rounding["given_up"].items():
        print(
            f"{name}: {abs(given_up_share):.2%} of the dense cost {'less' if given_up_share >= 0 else 'more'} kept than without rounding"
        )


def _print_choice(record: dict[str, Any]) -> None:
    for name, counted_cost in record["counted"].items():
        hard_cost, is_time = record["verdict"][name], record["constraint"]["cost"] == "latency"
        cost = f"{counted_cost:.4g} ms predicted" if is_time else f"{counted_cost:,} counted"
        print(f"{name}: {cost} ({f'{hard_cost:.4g} ms' if is_time else f'{hard_cost:,}'} by the gates' own verdict)")
    _print_rounding(record)
    _print_broken_contract(record["verification"])
    print(f"The repair moved {record['moved']} of {record['gated']} units. Model: {record['folder']}/model")


def _print_shrink(record: dict[str, Any]) -> None:
    dense_costs, cut_costs = record["before"], record["after"]
    rows = [
        (name, f"{dense_costs[name]:,}", f"{cut_costs[name]:,}", f"{cut_costs[name] / dense_costs[name]:.1%}")
        for name in ("parameters", "head", "macs")
        if dense_costs[name]
    ]
    _print_table(f"Shrunk model in {record['folder']}", ("", "before", "after", "kept"), rows)
    _print_verification(record["verification"])


def _print_profile(record: dict[str, Any]) -> None:
    rows = [(name, f"{cost['parameters']:,}", f"{cost['macs']:,}") for name, cost in record["blocks"].items()]
    rows.append(("all", f"{record['parameters']:,}", f"{record['macs']:,}"))
    seconds = record["samples"] / record["sample_rate"]
    _print_table(f"{record['model_type']}, {seconds:g} s of audio", ("block", "parameters", "MACs"), rows)
    print(record["convention"])
    if record["head"]:
        print(f"Beside the encoder: {record['head']:,} parameters of a transducer's head")


def _print_verification(record: dict[str, Any]) -> None:
    for check in record["checks"]:
        print(f"{'holds ' if check['holds'] else 'FAILS '} {check['name']}: {check['detail']}")
    for index, difference in enumerate(record["differences"]):
        name = "output" if index == len(record["differences"]) - 1 else f"hidden state {index}"
        print(f"        {name}: {difference:.1e}")


def _print_evaluation(record: dict[str, Any]) -> None:
    data = record["data"]
    print(f"{data['name']}: {data['utterances']} utterances, {data['hours']:.2f} h; {len(record['skipped'])} left out")
    for name, value in record["scores"].items():
        print(f"{name:16} {_format_score(name, value, record['score_info'])}")


def _print_bench(record: dict[str, Any]) -> None:
    rows = []
    for row in record["rows"]:
        memory = row.get("peak_mib")
        rows.append(
            (
                _model_label(row),
                row["form"],
                _case_label(row),
                f"{row['median_ms']:.1f} ms ({row['low_ms']:.1f} to {row['high_ms']:.1f})",
                f"{row['ratio']:.2f}x",
                f"{row['real_time_factor']:.4f}",
                f"{row['throughput']:.1f}",
                "" if memory is None else f"{memory:.0f} MiB",
            )
        )
    columns = ("model", "form", "audio", "time", "speed-up", "real-time factor", "seconds of audio per second")
    _print_table("Time and memory", (*columns, "peak memory"), rows)
    blocks = list(dict.fromkeys(block for row in record["rows"] for block in row["blocks_ms"]))
    block_rows = [
        (
            _model_label(row),
            row["form"],
            _case_label(row),
            *(f"{row['blocks_ms'].get(block, 0.0):.1f}" for block in blocks),
        )
        for row in record["rows"]
    ]
    _print_table("Milliseconds by block", ("model", "form", "audio", *blocks), block_rows)
    environment = record["environment"]
    versions = environment["versions"]
    buffers = "stay in the process" if environment["malloc"] else "go back to the system"
    print(
        f"{environment['cpu']}; torch {versions['torch']}, transformers {versions['transformers']}; float32 products "
        f"{environment['float32_products']}, large buffers {buffers}; medians of {record['config']['repeats']} "
        "interleaved runs, lowest and highest in brackets. Real-time factor: time over the length of one utterance. "
        "Seconds of audio per second: throughput of the whole batch."
    )


def _model_label(row: dict[str, Any]) -> str:
    return f"{row['name']} (random weights)" if row["weights"] == "random" else str(row["name"])


def _case_label(row: dict[str, Any]) -> str:
    threads = f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"
    return f"{row['batch']} x {row['seconds']:g} s, {row['dtype']}, {threads}"


def _print_findings(findings: list[dict[str, Any]]) -> None:
    for finding in findings:
        print(f"{finding['status']:8} {finding['name']}: {finding['detail']}")
        if finding.get("remedy"):
            print(f"         {finding['remedy']}")


def _add_settings_flag(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--default-settings", action="store_true", help="leave malloc and float32 products as they are")


def _add_prune_flags(verb: argparse.ArgumentParser) -> None:
    _add_recipe_flags(verb)
    verb.add_argument(
        "--sweep",
        action="append",
        metavar="FIELD=A,B,…",
        help="one run for each value; may be repeated, for each combination: --sweep target=0.9,0.5 --sweep seed=0,1,2",
    )


def _add_recipe_flags(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("recipe", nargs="?", default="quickstart", help="a YAML file or the name of a packaged recipe")
    verb.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    _add_settings_flag(verb)
    verb.epilog = "Any field of the recipe is a flag too: --target 0.25 --learn.steps 100 --out DIR"


def _add_pretrain_flags(verb: argparse.ArgumentParser) -> None:
    _add_recipe_flags(verb)
    verb.set_defaults(recipe="tiny_teacher")


def _add_choose_flags(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("folder", metavar="RUN", help="folder of a run that learned gates")
    target_group = verb.add_mutually_exclusive_group(required=True)
    target_group.add_argument("--target", type=float, help="share of the cost that is kept")
    target_group.add_argument("--target-ms", type=float, help="predicted milliseconds, for the cost latency")
    target_group.add_argument("--target-rtf", type=float, help="predicted real-time factor, for the cost latency")
    verb.add_argument("--cost", default="parameters", help="parameters, macs or latency")
    verb.add_argument("--scope", default="whole", help="whole, gated, encoder, frontend, transducer or a module path")
    verb.add_argument("--round-to", metavar="MULTIPLES", help="auto, or {channels: 64, …}; default: as in the run")
    verb.add_argument("--device", help="cpu or cuda, what the model is meant for; default: as in the run")
    verb.add_argument("--out", help="folder for the selection and the shrunk model")


def _add_shrink_flags(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", help="a model folder or hub id")
    verb.add_argument("--selection", required=True, help="a selection file")
    verb.add_argument("--out", required=True, help="folder to write")
    verb.add_argument("--layout", default="registered", help="registered (any shape) or stock (unmodified classes)")
    verb.add_argument("--force", action="store_true", help="replace the folder if it exists")


def _add_profile_flags(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", help="a model folder (config.json is enough) or hub id")
    verb.add_argument("--seconds", type=float, default=1.0, help="audio length for the MACs")
    verb.add_argument("--selection", help="count what this selection would leave")


def _add_verify_flags(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", help="a run folder; or a cut model, with --against")
    verb.add_argument("--against", help="the dense model")
    verb.add_argument("--selection", help="the selection; default: the one in the cut model's folder")
    verb.add_argument("--compile", action="store_true", help="also check torch.compile (takes minutes on a CPU)")


def _add_bench_flags(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "model", help="a model folder, a config file (random weights), a hub id, or a run folder (against its teacher)"
    )
    verb.add_argument(
        "--against",
        action="append",
        default=[],
        help="another model; the first given so is what all are compared with",
    )
    verb.add_argument("--seconds", type=float, nargs="+", default=[10.0], help="audio lengths")
    verb.add_argument("--batch", type=int, nargs="+", default=[1], help="batch sizes")
    verb.add_argument("--dtype", nargs="+", default=["fp32"], help="fp32, bf16")
    verb.add_argument("--threads", type=int, nargs="+", default=[], help="of the processor; default: what torch takes")
    verb.add_argument("--repeats", type=int, default=9, help="measurements of each model")
    _add_settings_flag(verb)
    verb.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    verb.add_argument("--out", help="write the record here, as JSON; default of a run: bench.json in its folder")


def _add_evaluate_flags(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", help="a model folder or hub id, dense or cut, with a task head")
    verb.epilog = "What is heard, and for which task: --data.kind librispeech --data.path DIR --task.kind ctc"


def _add_report_flags(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("folder", metavar="RUN", help="a run folder")
    verb.add_argument("--out", help="where to write the page; default: report.html in the run folder")


def _add_no_flags(verb: argparse.ArgumentParser) -> None:
    pass


_Verb = tuple[Callable[[argparse.Namespace, dict[str, Any]], int], str, Callable[[argparse.ArgumentParser], None]]

VERBS: dict[str, _Verb] = {
    "prune": (_prune, "Prune a model: learn, choose, shrink, recover, report.", _add_prune_flags),
    "choose": (_choose, "Choose again for another target, without learning again.", _add_choose_flags),
    "shrink": (_shrink, "Cut a model by a selection.", _add_shrink_flags),
    "profile": (_profile, "Parameters and MACs by block.", _add_profile_flags),
    "verify": (
        _verify,
        "Prove that a cut model is the masked model, and check the drop-in contract.",
        _add_verify_flags,
    ),
    "bench": (_bench, "Measure time and memory of models side by side.", _add_bench_flags),
    "evaluate": (_evaluate, "How well a model with a task head does its task.", _add_evaluate_flags),
    "report": (_report, "Write the report of a run again.", _add_report_flags),
    "pretrain": (_pretrain, "Train an encoder from nothing, without labels, by BEST-RQ.", _add_pretrain_flags),
    "doctor": (_doctor, "Look at this machine and installation.", _add_no_flags),
}

if __name__ == "__main__":
    sys.exit(command())
