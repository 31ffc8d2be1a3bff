"""A manifest says what was written into it; one that somebody else wrote is believed only as far as its schema goes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyprstream.core.errors import InvalidModelFile
from hyprstream.core.models import ModelFacts
from hyprstream.core.versions import Pointer
from hyprstream.registry.manifest import (
    MAX_MANIFEST_BYTES,
    Manifest,
    ModelTable,
    encode_manifest,
    manifest_of,
    parse_manifest,
)
from hyprstream.registry.sources.base import Licence

SHA256 = "ab" * 32
FACTS = ModelFacts(
    architecture="llama",
    name='Tiny "quoted" ✓',
    n_params=160,
    quantization="Q4_0",
    context_length=128,
    embedding_length=32,
    n_layers=1,
    chat_template="{{ messages }}",
    license=None,
    vocab_size=4,
)


def test_what_is_written_is_what_is_read() -> None:
    manifest = manifest_of(
        FACTS,
        {"model.gguf": Pointer(SHA256, 1024)},
        source="hf:ann/tiny",
        licence=Licence("MIT", "https://a.example/mit"),
    )

    assert parse_manifest(encode_manifest(manifest)) == manifest
    assert (manifest.model.license, manifest.model.license_url) == ("MIT", "https://a.example/mit")
    assert manifest.weights[0].sha256 == SHA256
    assert (manifest.lineage.source, manifest.lineage.created_by) == ("hf:ann/tiny", "hyprstream")
    assert manifest.model.template is not None and manifest.model.template.startswith("sha256:")


@given(st.text(max_size=50), st.integers(0, 1 << 60))
def test_any_text_and_number_survive(name: str, parameters: int) -> None:
    manifest = Manifest(model=ModelTable(name=name, parameters=parameters))

    assert parse_manifest(encode_manifest(manifest)) == manifest


def test_what_nobody_knows_is_left_alone_and_everything_may_be_missing() -> None:
    assert parse_manifest(b"") == Manifest()
    assert parse_manifest(b"[future]\nx = 1\n[model]\nfuture = 2\n") == Manifest()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'[[weights]]\nfile = "../x.gguf"\nsha256 = "%b"\nsize = 1', "weights.0.file"),
        (b'[[weights]]\nfile = "/x.gguf"\nsha256 = "%b"\nsize = 1', "weights.0.file"),
        (b'[[weights]]\nfile = "a/../x.gguf"\nsha256 = "%b"\nsize = 1', "weights.0.file"),
        (b'[[weights]]\nfile = "x.gguf"\nsha256 = "short"\nsize = 1', "weights.0.sha256"),
        (b'[[weights]]\nfile = "x.gguf"\nsha256 = "%b"\nsize = -1', "weights.0.size"),
        (b"[sampling]\ntemperature = nan", "sampling.temperature"),
        (b"[sampling]\ntop_p = 2.0", "sampling.top_p"),
        (b"model = 3", "model"),
        (b"[model", "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
        (b"x = " + b"[" * 100_000, "is not TOML"),
        (b"#" * (MAX_MANIFEST_BYTES + 1), "is longer than"),
    ],
)
def test_a_manifest_that_breaks_the_schema_is_refused_with_the_place(
    text: bytes, reason: str
) -> None:
    with pytest.raises(InvalidModelFile, match=reason):
        parse_manifest(text.replace(b"%b", SHA256.encode()))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_refused(content: bytes) -> None:
    try:
        manifest = parse_manifest(content)
    except InvalidModelFile:
        return
    assert parse_manifest(encode_manifest(manifest)) == manifest
