"""Entry point of the command: parse the words, run the verb, turn errors into a sentence and an exit code."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from secateur.cli import (
    bench_verb,
    choose_verb,
    doctor_verb,
    evaluate_verb,
    export_verb,
    pretrain_verb,
    profile_verb,
    prune_verb,
    report_verb,
    shrink_verb,
    verify_verb,
)
from secateur.cli.field_flags import split_fields
from secateur.cli.verb import BAD_INPUT, BROKEN_CONTRACT, Recipe, Verb
from secateur.errors import ConfigError, SecateurError, did_you_mean

INTERRUPTED = 130  # 128 + 2, the number of SIGINT, as in shells
_RESTART_OPTION = "secateur_restarted"

#: The verbs in the order of the help; a new one is a file in this folder and a line here.
VERBS: dict[str, Verb] = {
    "prune": prune_verb,
    "choose": choose_verb,
    "shrink": shrink_verb,
    "export": export_verb,
    "profile": profile_verb,
    "verify": verify_verb,
    "bench": bench_verb,
    "evaluate": evaluate_verb,
    "report": report_verb,
    "pretrain": pretrain_verb,
    "doctor": doctor_verb,
}


class CliParser(argparse.ArgumentParser):
    """Argument parser that raises a `ConfigError` with the nearest valid name."""

    def error(self, message: str) -> NoReturn:
        # argparse: "argument VERB: invalid choice: 'prun' (choose from ...)"
        message_parts = message.split("invalid choice: ", 1)
        if len(message_parts) == 2:
            verb = message_parts[1].split("'")[1]
            raise ConfigError(f"Unknown verb {verb!r}; allowed are {', '.join(VERBS)}.{did_you_mean(verb, VERBS)}")
        raise ConfigError(f"{message[0].upper()}{message[1:]} (see `{self.prog} --help`).")


def command() -> int:
    """Run the installed command, or ``python -m secateur``, in a process that may be restarted."""
    return main(tune=True)


def main(arguments: Sequence[str] | None = None, *, tune: bool = False) -> int:
    """Run a command.

    Args:
        arguments: The words of the command; None takes those of the process.
        tune: Whether the process is the command's own, so that its settings may be changed.

    Returns:
        The exit code: 0, 1 for a broken promise of the package, 2 for bad input, 130 when interrupted.
    """
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments), tune=tune)
    except SecateurError as error:
        return _fail(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        return _fail("stopped; `--resume` goes on from the last checkpoint of a run.", INTERRUPTED)
    except BrokenPipeError:  # the reader of the output has gone, as in `secateur prune --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it exits
        return 0
    except PermissionError as error:
        return _fail(f"{error.filename or 'a file'} may not be read or written by this user.", BAD_INPUT)
    except OSError as error:
        return _fail(str(error), BROKEN_CONTRACT)


def _run(words: list[str], *, tune: bool) -> int:
    recipe = find_recipe(words[0]) if words else None
    # Before argparse, whose own help lacks the fields of the config.
    if recipe is not None and any(word in ("--help", "-h") for word in words):
        _print_recipe_help(words, recipe)
        return 0
    parser = build_parser()
    words, fields = (words, {}) if recipe is None else split_fields(words, recipe.value_flags)
    options, unknown_words = parser.parse_known_args(words)
    if options.print_completion:
        return _print_completion(options.print_completion)
    if not options.verb:
        parser.print_help()
        return BAD_INPUT
    _configure_logging(options.verbose)
    if unknown_words:
        # Positional arguments have no option strings.
        known_flags = [action.option_strings[-1] for action in options.flags if action.option_strings]
        hint = did_you_mean(unknown_words[0], known_flags)
        raise ConfigError(f"Unknown argument {unknown_words[0]!r} for {options.verb}.{hint}")
    if tune and recipe is not None and recipe.trains and not options.default_settings:
        _tune_process()
    return VERBS[options.verb].run(options, fields)


def _fail(message: str, exit_code: int) -> int:
    print(f"secateur: {message}", file=sys.stderr)
    return exit_code


def find_recipe(verb: str) -> Recipe | None:
    """Return the config of a verb with fields as flags, or `None` for another word."""
    return getattr(VERBS.get(verb), "RECIPE", None)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs, without the fields of configs."""
    parser = CliParser(prog="secateur", description="Prune a pretrained speech encoder into a smaller, faster drop-in.")
    parser.add_argument("--print-completion", metavar="SHELL", help="print shell completions, such as for bash or zsh")
    parser.set_defaults(verb=None)
    verbs = parser.add_subparsers(metavar="VERB", parser_class=CliParser)
    for name, verb in VERBS.items():
        # No abbreviations: argparse would take --res for --resume.
        verb_parser = verbs.add_parser(name, help=verb.SUMMARY, description=verb.SUMMARY, allow_abbrev=False)
        verb_parser.add_argument("--json", action="store_true", help="print the record as JSON")
        verb_parser.add_argument("--verbose", action="store_true", help="log what is being done")
        verb.add_flags(verb_parser)
        verb_parser.set_defaults(verb=name, flags=verb_parser._actions)
    return parser


def _print_recipe_help(words: list[str], recipe: Recipe) -> None:
    """Print the flags and fields of a verb, or a single group of fields (``prune --help learn``)."""
    from secateur.cli.field_help import print_fields

    position = next(index for index, word in enumerate(words) if word in ("--help", "-h"))
    group = next((word for word in words[position + 1 :] if not word.startswith("-")), None)
    if group is None:
        _verb_parsers(build_parser())[words[0]].print_help()
    print_fields(words[0], recipe, group)


def _print_completion(shell: str) -> int:
    """Print a script that completes verbs, flags and fields in a shell."""
    import shtab

    from secateur.cli.field_help import add_field_arguments

    if shell not in shtab.SUPPORTED_SHELLS:
        allowed = ", ".join(shtab.SUPPORTED_SHELLS)
        hint = did_you_mean(shell, shtab.SUPPORTED_SHELLS)
        raise ConfigError(f"--print-completion: got {shell!r}, allowed are {allowed}.{hint}")
    parser = build_parser()
    for name, verb_parser in _verb_parsers(parser).items():
        recipe = find_recipe(name)
        if recipe is not None:
            add_field_arguments(verb_parser, recipe)
    print(shtab.complete(parser, shell=shell))
    return 0


def _verb_parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each verb."""
    # argparse has no public access to the parsers of subcommands.
    subparsers = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(subparsers.choices)


def _configure_logging(verbose: bool) -> None:
    """Log to stderr, and silence the warnings and progress bars of libraries."""
    # Threads that wait for each other must sleep, not spin: beside another busy process, on as few cores as the small
    # models want, spinning makes a step ten times slower. Read when torch is loaded, so set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(message)s")
    if not verbose:
        import warnings

        # torch warns about the attention code of stock models, which the user of the command cannot change.
        warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")

        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def _tune_process() -> None:
    """Apply the settings for training, which change speed and the last digits of float32."""
    from secateur.benchmarking.process_settings import tune_products, tuned_malloc_environment

    environment = tuned_malloc_environment()
    # The restarted process has the option `-X secateur_restarted`, which prevents another restart.
    if environment is not None and _RESTART_OPTION not in sys._xoptions:
        try:  # malloc reads its settings when a process starts: restart the same command, once
            os.execve(sys.executable, [sys.executable, "-X", _RESTART_OPTION, *sys.orig_argv[1:]], environment)
        except (OSError, ValueError) as error:
            logging.getLogger(__name__).warning("large buffers go back to the system after use: %s", error)
    tune_products()


if __name__ == "__main__":
    sys.exit(command())
