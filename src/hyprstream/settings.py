"""Every setting: name, default, range, and where its value came from. Knows nothing of what is built from them.

Precedence, highest first: command line, `HYPRSTREAM_*` environment, TOML file, default. One key has one variable:
`HYPRSTREAM_<SECTION>_<KEY>`, or the shorter name given with `Env` below. An empty variable counts as not set. What nobody
knows is refused, so that a typing error cannot pass for a setting.
"""

import difflib
import ipaddress
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import platformdirs
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)
from pydantic.fields import FieldInfo

from hyprstream.core.errors import Invalid, NotFound

PREFIX = "HYPRSTREAM_"
CONFIG_VARIABLE = "HYPRSTREAM_CONFIG"
DEFAULT, COMMAND_LINE = "default", "command line"


@dataclass(frozen=True, slots=True)
class Env:
    """The name of a setting's variable without `HYPRSTREAM_`, where it is not `<SECTION>_<KEY>`."""

    name: str


def _split(value: object) -> object:
    # A variable has no lists: commas stand for them.
    if not isinstance(value, str):
        return value
    return [item.strip() for item in value.split(",") if item.strip()]


def _sendable(key: SecretStr) -> SecretStr:
    text = key.get_secret_value()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("a key is printable ASCII without spaces, as it travels in a header")
    if text.startswith("hypr_"):
        raise ValueError("a key does not begin with hypr_, as tokens do")
    return key


def _data_dir() -> Path:
    return platformdirs.user_data_path("hyprstream")


Strings = Annotated[tuple[str, ...], BeforeValidator(_split)]
Origin = Annotated[str, Field(pattern=r"^(\*|https?://[^/\s,]+)$")]
Origins = Annotated[tuple[Origin, ...], BeforeValidator(_split)]
Key = Annotated[SecretStr, AfterValidator(_sendable)]
Directory = Annotated[Path, AfterValidator(Path.expanduser)]
FilePath = Annotated[Path, AfterValidator(Path.expanduser)]
Subject = Annotated[str, Field(pattern=r"^(local|token|peer):[A-Za-z0-9._@-]+$")]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ServerSettings(_Section):
    """Where the server listens, to whom, and for how long."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address to bind."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """TCP port; 0 takes a free one."""
    api_key: Annotated[Key | None, Env("API_KEY")] = None
    """One key that every request without a token must carry; its holder is `api_key_subject` to the policy."""
    api_key_subject: Annotated[Subject | None, Env("API_KEY_SUBJECT")] = None
    """Who holds `api_key`, as `local:alice` or `token:app`; none means the user who runs the server."""
    insecure: bool = False
    """Allow an address other machines can reach with neither an API key nor TLS."""
    tls_cert: FilePath | None = None
    """PEM file of the certificate chain; with `tls_key` the server speaks https (TLS 1.2 and later) and nothing else."""
    tls_key: FilePath | None = None
    """PEM file of the certificate's private key."""
    tls_client_ca: FilePath | None = None
    """PEM file of the authorities whose client certificates are asked for; their names become `peer:<name>`."""
    cors_enabled: Annotated[bool, Env("CORS_ENABLED")] = False
    """Answer web pages of other origins."""
    cors_origins: Annotated[Origins, Env("CORS_ORIGINS")] = (
        "http://localhost:3000",
        "http://127.0.0.1:3000",
    )
    """Origins whose pages may ask, or `*`."""
    allowed_hosts: Strings = ()
    """Host names a request may carry besides the bound address; none means any, unless that is a loopback one."""
    max_body_bytes: Count = 4 * 1024 * 1024
    """Largest request body, in bytes."""
    grace_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 15.0
    """Seconds that running answers are given when the server is told to stop."""
    generation_timeout: Annotated[Seconds, Env("GENERATION_TIMEOUT")] = 600.0
    """Most seconds one answer may take, waiting included."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches `host`. A name other than `localhost` may mean anything."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class DataSettings(_Section):
    """What the server writes that is not a model."""

    dir: Directory = Field(default_factory=_data_dir)
    """Directory of the policy, its keys, the database and the audit log."""

    @property
    def database_url(self) -> str:
        """SQLAlchemy's name of the database."""
        return f"sqlite:///{self.dir.absolute() / 'hyprstream.db'}"


class ModelsSettings(_Section):
    """Which models there are and which are in memory."""

    dir: Directory = Field(default_factory=lambda: _data_dir() / "models")
    """Directory models are kept in."""
    default: Annotated[str, Field(min_length=1)] = "smollm2"
    """Model to use where none is named."""
    preload: Annotated[Strings, Env("PRELOAD_MODELS")] = ()
    """Models to load before the server says it is ready."""
    max_cached: Annotated[Count, Env("MAX_CACHED_MODELS")] = 2
    """Most models in memory at once; the least recently used idle one makes room."""


class EngineSettings(_Section):
    """How a loaded model is run."""

    n_ctx: Annotated[int, Field(ge=16)] = 4096
    """Context window of one sequence, in tokens; no more than the model was trained on is used."""
    n_slots: Annotated[int, Field(ge=1, le=256)] = 8
    """Sequences computed at the same time."""
    max_queue: Annotated[int, Field(ge=0)] = 64
    """Requests that may wait for a slot; the next one is told to come back later."""
    n_threads: Count | None = None
    """Threads of computation; none means one per physical core."""
    n_batch: Count = 512
    """Most tokens in one call of the backend."""
    use_mmap: Annotated[bool, Env("USE_MMAP")] = True
    """Map model files into memory instead of reading them."""


class LimitsSettings(_Section):
    """What one principal may ask. None is no limit."""

    requests_per_minute: Count | None = None
    """Answers that are begun within any minute; to list models is not counted."""
    tokens_per_minute: Count | None = None
    """Tokens, of prompts and answers, within any minute; counted when an answer ends."""
    concurrent: Count | None = None
    """Answers at the same time."""
    queue_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of the waiting queue that one principal may fill."""


class AuditSettings(_Section):
    """What is written down about decisions."""

    enabled: bool = True
    """Write every decision of the policy to `audit/` in the data directory."""
    max_bytes: Annotated[int, Field(ge=4096)] = 64 * 1024 * 1024
    """Size at which a new file is begun."""
    keep: Count = 16
    """Finished files that are kept."""


class LogSettings(_Section):
    """What is written about what happens."""

    dir: Directory | None = None
    """Directory of `hyprstream.log`, a file per day; none means standard error."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is written."""
    format: Literal["console", "json"] = "console"
    """How a line is written."""


class Settings(_Section):
    """The tree. `Settings()` is the defaults alone; `load` reads every source."""

    server: ServerSettings = Field(default_factory=ServerSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    models: ModelsSettings = Field(default_factory=ModelsSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    limits: LimitsSettings = Field(default_factory=LimitsSettings)
    audit: AuditSettings = Field(default_factory=AuditSettings)
    log: LogSettings = Field(default_factory=LogSettings)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and for every dotted key who set it: `default`, a variable, a file, or `command line`."""

    settings: Settings
    sources: Mapping[str, str]


def load(flags: Mapping[str, object] | None = None, *, config: Path | None = None) -> Loaded:
    """Read every source once.

    Args:
        flags: What the command line says, by dotted key; None means "not said".
        config: TOML file to read instead of the one `config_path` finds.

    Raises:
        Invalid: a value is outside its range, a key or variable is unknown, the file is not TOML.
        NotFound: the file asked for does not exist.
    """
    path = config_path(config)
    layers = [
        _from_file(path, must_exist=path != default_config_path()),
        _from_environment(),
        {key: (value, COMMAND_LINE) for key, value in (flags or {}).items() if value is not None},
    ]
    values = {key: found for layer in layers for key, found in layer.items()}
    try:
        settings = Settings.model_validate(_nested(values))
    except ValidationError as error:
        raise _wrong_value(error, values) from None
    sources = {key: values[key][1] if key in values else DEFAULT for key in _fields()}
    return Loaded(settings, sources)


def config_path(config: Path | None = None) -> Path:
    """The TOML file that is read: the one given, `HYPRSTREAM_CONFIG`, or the default path."""
    if config is not None:
        return config
    named = os.environ.get(CONFIG_VARIABLE)
    return Path(named).expanduser() if named else default_config_path()


def default_config_path() -> Path:
    """`config.toml` in the user's configuration directory; it need not exist."""
    return platformdirs.user_config_path("hyprstream") / "config.toml"


def variables() -> dict[str, str]:
    """The environment variable of each dotted key."""
    return {key: _variable(key, field) for key, field in _fields().items()}


_Layer = dict[str, tuple[object, str]]
"""Values by dotted key, each with the name of its source."""


def _from_file(path: Path, *, must_exist: bool) -> _Layer:
    try:
        with path.open("rb") as file:
            tree = tomllib.load(file)
    except FileNotFoundError:
        if must_exist:
            raise NotFound(f"no configuration file {path}", kind="file") from None
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} is not a readable TOML file: {error}", param="config") from None
    flat = dict(_flat(tree))
    _refuse_unknown(flat, _fields(), where=f" in {path}")
    return {key: (value, str(path)) for key, value in flat.items()}


def _from_environment() -> _Layer:
    ours = {name: value for name, value in os.environ.items() if name.startswith(PREFIX) and value}
    keys = {name: key for key, name in variables().items()}
    _refuse_unknown(ours, [*keys, CONFIG_VARIABLE], where=" in the environment")
    return {keys[name]: (value, name) for name, value in ours.items() if name in keys}


def _refuse_unknown(names: Iterable[str], known: Iterable[str], *, where: str) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=2)
            hint = (
                f"did you mean {' or '.join(near)}?" if near else "hyprstream config show lists all"
            )
            raise Invalid(f"{name}{where} is not a setting", param=name, hint=hint)


def _wrong_value(error: ValidationError, values: _Layer) -> Invalid:
    first = error.errors(include_url=False, include_context=False)[0]
    key = ".".join(str(part) for part in first["loc"][:2])
    value, source = values[key]
    place = source if source.startswith(PREFIX) else f"{key} ({source})"
    schema = _schema(key)
    said = "" if _is_secret(schema) else f" = {value!r}"
    return Invalid(f"{place}{said}: expected {_allowed(schema) or _plain(first['msg'])}", param=key)


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ").removeprefix("Input should be ")


def _allowed(schema: dict[str, Any]) -> str | None:
    """What a field's JSON schema admits, in words; None where only the validator can say."""
    match schema:
        case {"anyOf": [inner, {"type": "null"}]}:
            return _allowed(inner)
        case {"enum": values}:
            return "one of " + ", ".join(values)
        case {"type": "boolean"}:
            return "true or false"
        case {"type": "integer" | "number" as kind}:
            noun = "a whole number" if kind == "integer" else "a number"
            return f"{noun}{_range(schema)}"
        case {"type": "array", "items": {"pattern": _}}:
            return "origins like https://app.example:8443, separated by commas, or *"
        case {"type": "array"}:
            return "a list, separated by commas in the environment"
        case _:
            return None


def _range(schema: dict[str, Any]) -> str:
    match schema:
        case {"minimum": low, "maximum": high}:
            return f" from {low} to {high}"
        case {"minimum": low}:
            return f", at least {low}"
        case {"exclusiveMinimum": low}:
            return f" greater than {low}"
        case _:
            return ""


def _is_secret(schema: dict[str, Any]) -> bool:
    return any(option.get("writeOnly", False) for option in schema.get("anyOf", [schema]))


def _schema(key: str) -> dict[str, Any]:
    section, name = key.split(".")
    return _sections()[section].model_json_schema()["properties"][name]


def _sections() -> dict[str, type[_Section]]:
    fields = Settings.model_fields.items()
    return {name: cast(type[_Section], field.annotation) for name, field in fields}


def _fields() -> dict[str, FieldInfo]:
    return {
        f"{section}.{name}": field
        for section, model in _sections().items()
        for name, field in model.model_fields.items()
    }


def _variable(key: str, field: FieldInfo) -> str:
    short = next((mark.name for mark in field.metadata if isinstance(mark, Env)), None)
    return PREFIX + (short or key.replace(".", "_").upper())


def _flat(tree: dict[str, Any]) -> Iterable[tuple[str, object]]:
    for section, content in tree.items():
        if not isinstance(content, dict) or section not in Settings.model_fields:
            yield section, content
            continue
        for name, value in cast(dict[str, object], content).items():
            yield f"{section}.{name}", value


def _nested(values: _Layer) -> dict[str, dict[str, object]]:
    tree: dict[str, dict[str, object]] = {}
    for key, (value, _) in values.items():
        section, name = key.split(".")
        tree.setdefault(section, {})[name] = value
    return tree
