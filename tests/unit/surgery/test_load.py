"""Models by hub id where the hub may be out of reach."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from support import tiny

from secateur.errors import ModelError
from secateur.surgery import hub, load


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked for: names of hosts, and models of the hub library, which has none. No host resolves."""
    asked: list[str] = []

    def resolve(host: str, port: Any) -> None:
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    def fetch(model: str) -> None:
        asked.append(model)
        raise OSError("no such model")

    monkeypatch.setattr(hub.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(hub.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(load.AutoConfig, "from_pretrained", fetch)
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(hub, "is_offline_mode", lambda: False)
    return asked


def test_without_a_network_a_hub_id_is_refused_before_the_library_tries_again_and_again(tried: list[str]) -> None:
    with pytest.raises(ModelError, match=r"'no/such' cannot be used: there is no such folder .* does not resolve"):
        load.load_config("no/such")
    assert "no/such" not in tried
    assert len(tried) == 2  # a name server that stumbles once is asked again


def test_where_the_name_resolves_at_the_second_time_the_library_is_asked(
    tried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    once = hub.socket.getaddrinfo
    monkeypatch.setattr(hub.socket, "getaddrinfo", lambda *_: once(*_) if not tried else [])
    with pytest.raises(ModelError, match="no such model"):
        load.load_config("no/such")
    assert tried[-1] == "no/such"


@pytest.mark.parametrize("how", ["proxy", "offline", "cached"])
def test_a_proxy_an_offline_library_and_its_cache_need_no_name_to_resolve(
    tried: list[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    name, value = {
        "proxy": ("getproxies", lambda: {"https": "http://proxy:3128"}),
        "offline": ("is_offline_mode", lambda: True),
        "cached": ("try_to_load_from_cache", lambda *_: "/cache/config.json"),
    }[how]
    monkeypatch.setattr(hub, name, value)
    with pytest.raises(ModelError, match="no such model"):
        load.load_config("no/such")
    assert tried == ["no/such"]


def test_a_head_that_a_family_lacks_is_refused_with_the_families_that_have_it() -> None:
    with pytest.raises(ModelError, match=r"no ForRNNT of wavlm models; .*; there is of parakeet_encoder, nemotron_asr"):
        load.with_head(tiny("wavlm", "base"), "ForRNNT", {}, seed=0)
