"""Every source of settings, their order, and what is refused."""

from pathlib import Path

import pytest

from hyprstream.core.errors import Invalid, NotFound
from hyprstream.settings import Settings, config_path, load, variables


@pytest.fixture
def config(home: Path) -> Path:
    """The default configuration file; not written yet."""
    path = home / ".config" / "hyprstream" / "config.toml"
    path.parent.mkdir(parents=True)
    return path


def test_without_any_source_the_defaults_hold(home: Path) -> None:
    loaded = load()
    assert loaded.settings == Settings()
    assert set(loaded.sources.values()) == {"default"}
    assert loaded.settings.models.dir == home / ".local" / "share" / "hyprstream" / "models"


def test_a_flag_beats_a_variable_beats_the_file_beats_the_default(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text("[server]\nhost = '::1'\nport = 1\n[engine]\nn_ctx = 1000\n")
    monkeypatch.setenv("HYPRSTREAM_SERVER_PORT", "2")
    monkeypatch.setenv("HYPRSTREAM_ENGINE_N_CTX", "2000")
    loaded = load({"engine.n_ctx": 3000, "engine.n_slots": None})
    assert loaded.settings.engine.n_ctx == 3000
    assert loaded.settings.server.port == 2
    assert loaded.settings.server.host == "::1"
    assert loaded.settings.engine.n_slots == Settings().engine.n_slots
    keys = ("engine.n_ctx", "server.port", "server.host", "engine.n_slots")
    assert [loaded.sources[key] for key in keys] == [
        "command line",
        "HYPRSTREAM_SERVER_PORT",
        str(config),
        "default",
    ]


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("HYPRSTREAM_SERVER_HOST", "::1", "server.host", "::1"),
        ("HYPRSTREAM_SERVER_PORT", "0", "server.port", 0),
        ("HYPRSTREAM_CORS_ENABLED", "true", "server.cors_enabled", True),
        (
            "HYPRSTREAM_CORS_ORIGINS",
            "https://a.example, http://b.example:81",
            "server.cors_origins",
            ("https://a.example", "http://b.example:81"),
        ),
        ("HYPRSTREAM_GENERATION_TIMEOUT", "1.5", "server.generation_timeout", 1.5),
        (
            "HYPRSTREAM_PRELOAD_MODELS",
            "smollm2,gemma3:270m",
            "models.preload",
            ("smollm2", "gemma3:270m"),
        ),
        ("HYPRSTREAM_MAX_CACHED_MODELS", "3", "models.max_cached", 3),
        ("HYPRSTREAM_MODELS_DIR", "~/models", "models.dir", "HOME/models"),
        ("HYPRSTREAM_USE_MMAP", "0", "engine.use_mmap", False),
        ("HYPRSTREAM_LOG_DIR", "/var/log/x", "log.dir", "/var/log/x"),
    ],
)
def test_each_documented_variable_sets_its_key(
    variable: str, text: str, key: str, value: object, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    loaded = load()
    section, name = key.split(".")
    found = getattr(getattr(loaded.settings, section), name)
    if isinstance(value, str):
        value = value.replace("HOME", str(home))
        found = str(found)
    assert found == value
    assert loaded.sources[key] == variable


def test_every_key_has_a_variable_of_its_own() -> None:
    names = variables()
    assert len(set(names.values())) == len(names)
    assert names["server.api_key"] == "HYPRSTREAM_API_KEY"
    assert names["engine.n_slots"] == "HYPRSTREAM_ENGINE_N_SLOTS"


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPRSTREAM_API_KEY", "")
    assert load().settings.server.api_key is None


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        (
            "HYPRSTREAM_SERVER_PORT",
            "eighty",
            "HYPRSTREAM_SERVER_PORT = 'eighty': expected a whole number from 0 to 65535",
        ),
        (
            "HYPRSTREAM_USE_MMAP",
            "maybe",
            "HYPRSTREAM_USE_MMAP = 'maybe': expected true or false",
        ),
        (
            "HYPRSTREAM_LOG_LEVEL",
            "loud",
            "HYPRSTREAM_LOG_LEVEL = 'loud': expected one of debug, info, warning, error",
        ),
        (
            "HYPRSTREAM_GENERATION_TIMEOUT",
            "0",
            "HYPRSTREAM_GENERATION_TIMEOUT = '0': expected a number greater than 0",
        ),
        (
            "HYPRSTREAM_ENGINE_N_THREADS",
            "0",
            "HYPRSTREAM_ENGINE_N_THREADS = '0': expected a whole number, at least 1",
        ),
    ],
)
def test_a_wrong_value_names_its_variable_and_what_is_allowed(
    variable: str, text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(Invalid) as refusal:
        load()
    assert refusal.value.message == message


def test_a_wrong_value_in_the_file_names_the_key_and_the_file(config: Path) -> None:
    config.write_text("[server]\ncors_origins = ['example.org']\n")
    with pytest.raises(Invalid) as refusal:
        load()
    assert refusal.value.message.startswith(
        f"server.cors_origins ({config}) = ['example.org']: expected "
    )
    assert "https://app.example" in refusal.value.message


def test_an_unknown_variable_is_refused_with_what_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPRSTREAM_SERVER_PROT", "80")
    with pytest.raises(
        Invalid, match="HYPRSTREAM_SERVER_PROT in the environment is not a setting"
    ) as refusal:
        load()
    assert refusal.value.hint is not None
    assert "HYPRSTREAM_SERVER_PORT" in refusal.value.hint


@pytest.mark.parametrize(
    "text",
    ["[server]\nprot = 1", "port = 1", "server = 1", "[srever]", "[srever]\nport = 1", "x"],
)
def test_an_unknown_key_or_a_file_that_is_no_toml_is_refused(config: Path, text: str) -> None:
    config.write_text(text)
    with pytest.raises(Invalid) as refusal:
        load()
    assert str(config) in refusal.value.message


def test_an_empty_section_is_fine(config: Path) -> None:
    config.write_text("[server]\n")
    assert load().settings == Settings()


def test_a_file_that_was_asked_for_must_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFound) as refusal:
        load(config=tmp_path / "missing.toml")
    assert refusal.value.kind == "file"
    monkeypatch.setenv("HYPRSTREAM_CONFIG", str(tmp_path / "missing.toml"))
    with pytest.raises(NotFound):
        load()


def test_the_file_is_the_one_given_or_the_one_in_the_environment_or_the_users(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config_path() == home / ".config" / "hyprstream" / "config.toml"
    monkeypatch.setenv("HYPRSTREAM_CONFIG", "~/other.toml")
    assert config_path() == home / "other.toml"
    assert config_path(Path("given.toml")) == Path("given.toml")


def test_a_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPRSTREAM_API_KEY", "sesame")
    settings = load().settings
    assert settings.server.api_key is not None
    assert settings.server.api_key.get_secret_value() == "sesame"
    assert "sesame" not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_a_key_that_no_header_can_carry_is_refused_without_being_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HYPRSTREAM_API_KEY", "open sesame")
    with pytest.raises(Invalid) as refusal:
        load()
    assert refusal.value.message.startswith("HYPRSTREAM_API_KEY: expected ")
    assert "open sesame" not in refusal.value.message


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("example.org", False),
    ],
)
def test_only_loopback_addresses_count_as_private(host: str, is_loopback: bool) -> None:
    assert load({"server.host": host}).settings.server.is_loopback is is_loopback


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().server.port = 1  # type: ignore[misc]
