"""`asrlife serve` without serving: how it is told what to do, and `--check`."""

from __future__ import annotations

import pytest

SETTINGS = "limits: {streams: 3}\nstate: {backend: redis, url: 'redis://:hunter2@127.0.0.1:1/0', timeout_s: 0.5}\n"


def test_check_prints_each_setting_with_where_it_came_from(asrlife, tmp_path, monkeypatch):
    path = tmp_path / "server.yaml"
    path.write_text("limits: {streams: 3}\nstate: {backend: memory}\n")
    monkeypatch.setenv("ASRLIFE_TIMEOUTS__GRACE_S", "4")
    monkeypatch.setenv("ASRLIFE_TOKEN", "no setting of a server")
    changes = ["--set", "adaptation.settings.lr=0.5", "--set", "adaptation.method=suta"]
    ended = asrlife("serve", "--check", path, "--port", 7000, *changes, "--json")
    assert (ended.code, ended.err) == (0, "")
    told = ended.json()
    assert told["ok"] and {check["check"] for check in told["checks"]} >= {"model", "adaptation", "state", "host and port"}
    expected = {
        "limits.streams": (3, str(path)), "timeouts.grace_s": (4, "ASRLIFE_TIMEOUTS__GRACE_S"), "port": (7000, "flag"),
        "adaptation.settings": ({"lr": 0.5}, "flag"), "host": ("127.0.0.1", "default"),
    }  # fmt: skip
    assert {name: (told["settings"][name]["value"], told["settings"][name]["from"]) for name in expected} == expected


def test_check_tries_everything_and_says_every_fault(asrlife, tmp_path):
    path = tmp_path / "server.yaml"
    path.write_text(SETTINGS + f"model: {tmp_path / 'nothing.pt'}\nhost: no such host\n")
    ended = asrlife("serve", "--check", path)
    assert ended.code == 2 and "limits.streams" in ended.out and "hunter2" not in ended.out + ended.err
    lines = ended.err.splitlines()
    faults = ("model: there is no file or folder", "adaptation: was not tried", "host and port: host: 'no such host'", "state: ")
    for words in faults:
        assert any(line.startswith(f"asrlife: error: {words}") for line in lines), (words, lines)
    told = asrlife("serve", path, "--check", "--json")
    assert told.code == 2 and told.json()["ok"] is False and "hunter2" not in told.out + told.err


@pytest.mark.parametrize(("settings", "words"), [
    ({"adaptation.method": "sutra"}, "adaptation: unknown method 'sutra'"),
    ({"adaptation.method": "suta", "adaptation.settings.leaning_rate": 1}, "adaptation: "),
    ({"security.certificate": "missing.pem"}, "security: security.certificate: needs security.key"),
    ({"security.certificate": "missing.pem", "security.key": "missing.key"}, "security: security."),
    ({"security.tokens": "missing.yaml"}, "security: security.tokens"),
    ({"metrics.port": 50051}, "metrics.port: 50051 is the server's own port"),
    ({"state.path": "/proc/nowhere/state.sqlite"}, "state: state.path: "),
])  # fmt: skip
def test_check_finds(asrlife, settings, words):
    changes = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    ended = asrlife("serve", "--check", *changes)
    assert ended.code == 2 and words in ended.err


def test_check_leaves_nothing_behind(asrlife, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert asrlife("serve", "--check").code == 0 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("line", "words"), [
    ("serve a.yaml --config b.yaml", "--config b.yaml: the file a.yaml is given as well; name one"),
    ("serve --json", "--json goes with --check"),
    ("serve --port 1 --set port=2", "--set port: --port is given as well; name it once"),
    ("serve --port 70000", "--port: Input should be less than or equal to 65535"),
    ("serve --set limit.streams=1", "--set limit.streams: is no setting of the server; did you mean 'limits.streams'?"),
    ("serve missing.yaml", "missing.yaml: cannot be read"),
])  # fmt: skip
def test_what_cannot_be_meant_is_one_line(asrlife, line, words):
    ended = asrlife(*line.split())
    assert (ended.code, ended.out) == (2, "") and words in ended.err and ended.err.count("\n") == 1
