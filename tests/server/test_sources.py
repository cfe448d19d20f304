from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrlife.errors import InputError
from asrlife_server import sources
from asrlife_server.config import ServerConfig

NAMES = list(sources.fields(ServerConfig))


def another(name: str) -> Any:
    """A value that is not the default of a setting, and that it takes by itself."""
    default = dict(sources.flat(ServerConfig()))[name]
    choices = getattr(sources.fields(ServerConfig)[name].annotation, "__args__", ())
    near = [not default] if isinstance(default, bool) else [default + 1, 0.25] if isinstance(default, int | float) else []
    for value in (*near, *choices, 9090, 0.25, "/other", "http://other:4317", {"lr": 0.5}, ["other"]):
        try:
            if ServerConfig.read(None, {name: value}) != ServerConfig():
                return value
        except (InputError, TypeError):
            continue
    pytest.skip("it takes nothing else unless other settings are given too")


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_has_one_name_in_the_file_the_environment_and_flags(tmp_path, name):
    value = another(name)
    text = json.dumps(value) if isinstance(value, dict | list) else str(value)
    path = tmp_path / "server.yaml"
    *above, last = name.split(".")
    path.write_text(f"{above[0]}: {{{last}: {text}}}" if above else f"{last}: {text}")
    by_file = ServerConfig.read(path)
    by_variable = ServerConfig.read(None, None, {sources.variable(name): text})
    by_flag = ServerConfig.read(None, sources.assignments(ServerConfig, [f"{name}={text}"]))
    assert by_file == by_variable == by_flag != ServerConfig()
    assert [known for known, found in sources.flat(by_file) if found != dict(sources.flat(ServerConfig()))[known]] == [name]


def test_flags_go_over_the_environment_and_that_over_the_file(tmp_path):
    path = tmp_path / "server.yaml"
    path.write_text("port: 1\nlimits: {streams: 1, silence_ms: 1, unary_s: 1}\n")
    variables = {"ASRLIFE_LIMITS__STREAMS": "2", "ASRLIFE_LIMITS__SILENCE_MS": "2", "HOME": "/", "ASRLIFE_TOKEN": "secret"}
    config, origins = ServerConfig.traced(path, {"limits.streams": 3}, variables)
    limits = config.limits
    assert (limits.streams, limits.silence_ms, limits.unary_s, limits.stream_s) == (3, 2, 1, 14_400)
    names = ("limits.streams", "limits.silence_ms", "limits.unary_s", "limits.stream_s", "port", "host")
    assert [origins[name] for name in names] == ["flag", "ASRLIFE_LIMITS__SILENCE_MS", str(path), "default", str(path), "default"]


@pytest.mark.parametrize(("key", "text", "words"), [
    ("ASRLIFE_LIMITS__STREAM", "8", "ASRLIFE_LIMITS__STREAM: is no setting of the server; did you mean 'ASRLIFE_LIMITS__STREAMS'?"),
    ("ASRLIFE_LIMITS_STREAMS", "8", "did you mean 'ASRLIFE_LIMITS__STREAMS'?"),
    ("ASRLIFE_LIMIT__STREAMS", "8", "did you mean 'ASRLIFE_LIMITS__STREAMS'?"),
    ("ASRLIFE_STATE", "disk", "ASRLIFE_STATE: is no setting of the server"),
    ("ASRLIFE_LIMITS__STREAMS", "many", "ASRLIFE_LIMITS__STREAMS: Input should be a valid integer"),
    ("ASRLIFE_LIMITS__STREAMS", "0", "ASRLIFE_LIMITS__STREAMS: Input should be greater than or equal to 1 (it is '0')"),
    ("ASRLIFE_ADAPTATION__SETTINGS", "lr", "ASRLIFE_ADAPTATION__SETTINGS: Input should be a valid dictionary"),
    ("ASRLIFE_PORT", "tcp://10.0.0.1:50051", "enableServiceLinks: false"),
])  # fmt: skip
def test_a_variable_that_is_wrong_is_named_with_what_was_meant(key, text, words):
    with pytest.raises(InputError) as error:
        ServerConfig.read(None, None, {key: text})
    assert str(error.value).startswith(key) and words in str(error.value)


@pytest.mark.parametrize("key", ["ASRLIFE_TOKEN", "ASRLIFE_SERVICE_HOST", "ASRLIFE_STATEMENT", "asrlife_port", "LIMITS__STREAMS", "HOME"])
def test_variables_of_others_are_left_alone(key, caplog):
    assert ServerConfig.read(None, None, {key: "x"}) == ServerConfig() and not caplog.records


def test_a_variable_that_is_nearly_a_setting_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        ServerConfig.read(None, None, {"ASRLIFE_PROT": "1"})
    assert [each.getMessage() for each in caplog.records] == [
        "ASRLIFE_PROT is no setting of the server and is passed over; did you mean ASRLIFE_PORT?"
    ]


@pytest.mark.parametrize(("text", "words"), [
    ("limits.stream=8", "--set limits.stream: is no setting of the server; did you mean 'limits.streams'?"),
    ("limits.streams", "--set 'limits.streams': should be NAME=VALUE"),
    ("limits.streams=0", "--set limits.streams: Input should be greater than or equal to 1"),
    ("limits=3", "--set limits: is no setting of the server"),
    ("state.backend=postgres", "--set state.backend: Input should be 'memory', 'disk' or 'redis'"),
    ("tracing.endpoint=collector", "--set tracing.endpoint: "),
])  # fmt: skip
def test_a_flag_that_is_wrong_is_named_with_what_was_meant(text, words):
    with pytest.raises(InputError) as error:
        sources.assignments(ServerConfig, [text])
    assert words in str(error.value)


def test_the_methods_own_settings_are_reached_by_name():
    flags = sources.assignments(ServerConfig, ["adaptation.settings.lr=0.5", "adaptation.settings.suta.steps=3"])
    assert flags == {"adaptation.settings.lr": 0.5, "adaptation.settings.suta.steps": 3}
    config = ServerConfig.read(None, {"adaptation.settings.lr": 0.5}, {"ASRLIFE_ADAPTATION__SETTINGS__SEED": "7"})
    assert config.adaptation.settings == {"lr": 0.5, "seed": 7}


def test_nothing_is_a_value_too():
    for text in ("", "null", "None"):
        assert ServerConfig.read(None, None, {"ASRLIFE_METRICS__PORT": text}).metrics.port is None


@given(st.sampled_from(NAMES), st.text(max_size=12))
@settings(max_examples=200, deadline=None)
def test_any_text_is_taken_or_refused_by_its_name(name, text):
    try:
        config = ServerConfig.read(None, None, {sources.variable(name): text})
    except InputError as error:
        assert str(error).startswith(sources.variable(name)) and "\n" not in str(error)
    else:
        assert dict(sources.flat(config)).keys() == set(NAMES)
