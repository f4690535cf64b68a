"""The table of an architecture's latencies: measured once, kept in the cache under all that decides it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from secateur.cache import cache_folder
from secateur.cost.table import Conditions, Table
from secateur.data.corpus import SAMPLE_RATE
from secateur.errors import ConfigError, SecateurError
from secateur.evaluate.apart import SETTINGS, OnStep, measure_apart
from secateur.records import environment, plain, write_json

logger = logging.getLogger(__name__)

#: Folders of this package whose code decides how fast a model is, or how that is measured.
_CODE = ("inference", "modules", "evaluate/latency")
#: Fields of a config that decide nothing about time.
_IDLE = ("_name_or_path", "architectures", "dtype", "id2label", "label2id", "torch_dtype", "transformers_version")


def table_for(
    config: Any, conditions: Conditions, *, sample_rate: int = SAMPLE_RATE, on_step: OnStep | None = None
) -> Table:
    """Return the table of the architecture that a config is of, cut or not, from the cache or measured now.

    Args:
        config: A model's config, of a supported family.
        conditions: What is measured under.
        sample_rate: Hertz, of the audio that the model takes.
        on_step: Told how far the measuring is.

    Raises:
        ConfigError: The conditions cannot be had on this machine, or blocks of this family are not measured.
        SecateurError: Measuring failed.
    """
    _refuse_unmeasured(config)
    conditions = _resolved(config, conditions, sample_rate)
    architecture = architecture_of(config)
    decides = deciding(architecture, conditions, sample_rate)
    path = cache_folder("latency") / f"{_key(decides)}.json"
    found = _cached(path, decides)
    if found is None:
        found = _measured(architecture, conditions, decides, on_step)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, found.to_json())
        except OSError as error:
            logger.warning("the table of latencies is not kept for other runs: %s", error)
    return found


def _refuse_unmeasured(config: Any) -> None:
    from secateur.inference import FAMILIES
    from secateur.modules.families import stock_type

    model_type = stock_type(config.model_type)
    if model_type not in FAMILIES:
        raise ConfigError(f"There is no cost 'latency' for {model_type} models; there is for {', '.join(FAMILIES)}.")


def architecture_of(config: Any) -> dict[str, Any]:
    """Fields of the stock config of the first, dense model; the same for all that were cut from it."""
    fields: dict[str, Any] = plain(config.to_dict())
    original = (fields.pop("secateur", None) or {}).get("original", {})
    fields |= original
    return {name: value for name, value in sorted(fields.items()) if name not in _IDLE}


def deciding(architecture: Mapping[str, Any], conditions: Conditions, sample_rate: int) -> dict[str, Any]:
    """Return all that decides what a table holds: machine, versions, settings, architecture, conditions, rate."""
    here = environment()
    return {
        "cpu": here["cpu"],
        "cores": here["cores"],
        "platform": here["platform"],
        "versions": {name: here["versions"][name] for name in ("torch", "transformers")},
        "code": _code(),
        "settings": {name: os.environ.get(name, value) for name, value in SETTINGS.items()},
        "conditions": asdict(conditions),
        "sample_rate": sample_rate,
        "architecture": dict(architecture),
    }


def _resolved(config: Any, conditions: Conditions, sample_rate: int) -> Conditions:
    """Conditions with the number of threads written out.

    Raises:
        ConfigError: More threads than cores, or audio too short for one frame.
    """
    import torch

    from secateur.arch import declare

    cores = int(environment()["cores"])
    threads = conditions.threads or torch.get_num_threads()
    if threads > cores:
        raise ConfigError(
            f"latency.threads: got {threads}, allowed is 1 to {cores}, the cores that this process may use."
        )
    least = declare(config).shortest
    if round(sample_rate * conditions.seconds) < least:
        raise ConfigError(
            f"latency.seconds: got {conditions.seconds:g}, allowed is at least {least / sample_rate:g}: one frame "
            f"needs {least} samples."
        )
    return replace(conditions, threads=threads)


def _code() -> str:
    """A hash of the code that decides how fast a model is."""
    home = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for folder in _CODE:
        for path in sorted((home / folder).rglob("*.py")):
            digest.update(path.relative_to(home).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _key(decides: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def _cached(path: Path, decides: Mapping[str, Any]) -> Table | None:
    """The table in a file of the cache; None when there is none, or none to be trusted."""
    if not path.exists():
        return None
    try:
        table = Table.load(path)
        if plain(table.decides) == plain(decides):
            return table
        reason = "it was measured for something else"
    except (SecateurError, OSError) as error:
        reason = str(error).removeprefix(f"{path}: ").rstrip(".")
    logger.warning("the cached table of latencies %s is left aside and measured anew: %s", path, reason)
    return None


def _measured(
    architecture: Mapping[str, Any], conditions: Conditions, decides: Mapping[str, Any], on_step: OnStep | None
) -> Table:
    """The table of what a process of its own measures now."""
    from secateur.evaluate.latency.fit import agreement, fit

    logger.info("measuring the latency of blocks, %s", conditions)
    job = {"architecture": dict(architecture), "sample_rate": decides["sample_rate"], **asdict(conditions)}
    rows = measure_apart(
        "secateur.evaluate.latency.measure",
        job,
        threads=conditions.threads,
        tuned=conditions.tuned,
        on_step=on_step,
    )["rows"]
    parts, errors = fit(architecture, rows)
    table = Table(model_type=architecture["model_type"], conditions=conditions, decides=decides, **parts)
    return replace(table, agreement={"fitted": errors, "whole": agreement(architecture, rows, table)})
