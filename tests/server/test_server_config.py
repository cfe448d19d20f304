from __future__ import annotations

import pytest

from asrlife.errors import InputError
from asrlife_server.config import ServerConfig
from asrlife_server.state.stores import check, opened


def test_flags_go_over_the_file_and_reach_into_groups(tmp_path):
    path = tmp_path / "server.yaml"
    path.write_text("model: some/folder\nport: 7000\nlimits:\n  streams: 3\n  chunk_bytes: 2048\n")
    config = ServerConfig.read(path, {"port": 0, "host": None, "limits.streams": 5})
    assert (config.model, config.port, config.host) == ("some/folder", 0, "127.0.0.1")
    assert (config.limits.streams, config.limits.chunk_bytes, config.limits.silence_ms) == (5, 2048, 10_000)


@pytest.mark.parametrize(("text", "words"), [
    ("prt: 1", "unknown key 'prt'; did you mean 'port'?"),
    ("limits: {chunk_byte: 1}", "limits: unknown key 'chunk_byte'; did you mean 'chunk_bytes'?"),
    ("timeouts: {idle: 1}", "timeouts: unknown key 'idle'; did you mean 'idle_s'?"),
    ("limits: 3", "limits: should be a mapping"),
    ("port: 70000", "port: "),
    ("threads: two", "threads: "),
    ("endpointing: {threshold: 2}", "endpointing: threshold: "),
    ("state: {histroy: 3}", "state: unknown key 'histroy'; did you mean 'history'?"),
    ("state: {backend: postgres}", "state: backend: "),
    ("state: {drift_cap: 0}", "state: drift_cap: "),
])  # fmt: skip
def test_a_wrong_key_or_value_is_one_line_with_the_place(tmp_path, text, words):
    path = tmp_path / "server.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        ServerConfig.read(path)
    assert words in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_store_that_cannot_work_is_said_at_the_start(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for flags, words in (
        ({"state.path": str(tmp_path / "file" / "state.sqlite")}, "state.path: "),
        ({"state.backend": "redis", "state.url": "http://nowhere"}, "state.url: "),
    ):
        with pytest.raises(InputError, match=words):
            check(ServerConfig.read(None, flags).state)
    check(ServerConfig.read(None, {"state.path": str(tmp_path / "deep" / "state.sqlite")}).state)
    assert (tmp_path / "deep" / "state.sqlite").exists()


def test_the_usual_place_is_the_users_folder_of_application_state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    check(ServerConfig.read().state)
    assert list(tmp_path.iterdir()) == []  # nothing is made before there is something to keep
    opened(ServerConfig.read().state).close()
    assert (tmp_path / "asrlife" / "state.sqlite").exists()
