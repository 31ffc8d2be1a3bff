"""Two versions of a model are compared in words: what changed, and from what to what."""

import json

from hyprstream.core.models import ModelFacts
from hyprstream.core.refs import ModelRef
from hyprstream.core.versions import Pointer, TreeFile
from hyprstream.services.comparison import Side, Topic, compare

FACTS = ModelFacts("llama", "Tiny", 160, "Q4_0", 128, 32, 1, "{{ messages }}", "mit", 4)
MANIFEST = '[model]\nlicense = "mit"\n\n[sampling]\ntemperature = 0.7\n'


def side(
    files: dict[str, str | Pointer], facts: ModelFacts | None = FACTS, version: str = "main"
) -> Side:
    """A version with these small files and pointers."""
    tree = {
        path: TreeFile(
            path,
            oid=f"{hash(content) & 0xFFFFFFFF:040x}",
            size=content.size if isinstance(content, Pointer) else len(content),
            pointer=content if isinstance(content, Pointer) else None,
        )
        for path, content in files.items()
    }
    return Side(ModelRef("m", version), "c" * 40, tree, facts, lambda path: _bytes(files[path]))


def _bytes(content: str | Pointer) -> bytes:
    assert isinstance(content, str), "a large file is not read to be compared"
    return content.encode()


def rows(old: Side, new: Side) -> list[tuple[str, str, str | None, str | None]]:
    return [(d.topic.value, d.name, d.old, d.new) for d in compare(old, new).differences]


def test_equal_versions_do_not_differ():
    files = {"model.gguf": Pointer("a" * 64, 100), "manifest.toml": MANIFEST, "README.md": "x"}
    assert rows(side(files), side(files)) == []


def test_other_weights_are_told_by_digest_size_quantisation_and_parameters():
    other = ModelFacts("llama", "Tiny", 320, "Q8_0", 128, 32, 1, "{{ messages }}", "mit", 4)
    old = side({"model.gguf": Pointer("a" * 64, 1000)})
    new = side({"model.gguf": Pointer("b" * 64, 2000)}, other)
    assert rows(old, new) == [
        ("weights", "model.gguf", f"{'a' * 12}, 1,000 bytes", f"{'b' * 12}, 2,000 bytes"),
        ("weights", "parameters", "160", "320"),
        ("weights", "quantisation", "Q4_0", "Q8_0"),
    ]


def test_sampling_and_licence_of_the_manifest_are_compared_by_value():
    changed = '[model]\nlicense = "apache-2.0"\n\n[sampling]\ntemperature = 0.2\ntop_k = 20\n'
    assert rows(side({"manifest.toml": MANIFEST}), side({"manifest.toml": changed})) == [
        ("sampling", "temperature", "0.7", "0.2"),
        ("sampling", "top_k", None, "20"),
        ("licence", "in the manifest", "mit", "apache-2.0"),
    ]


def test_scores_of_evals_are_compared_one_by_one():
    old = side({"evals/mmlu.json": json.dumps({"mmlu": {"accuracy": 0.41, "n": 100}})})
    new = side({"evals/mmlu.json": json.dumps({"mmlu": {"accuracy": 0.43, "n": 100}})})
    assert rows(old, new) == [("evals", "evals/mmlu.json mmlu.accuracy", "0.41", "0.43")]


def test_adapters_templates_and_other_files_each_have_their_place():
    facts = ModelFacts("llama", "Tiny", 160, "Q4_0", 128, 32, 1, "{{ other }}", "mit", 4)
    new = side(
        {"adapters/00_tone/weights.safetensors": Pointer("d" * 64, 10), "README.md": "hello"}, facts
    )
    found = compare(side({"notes.txt": "x"}), new).differences
    assert [(d.topic, d.name, d.old is None, d.new is None) for d in found] == [
        (Topic.ADAPTERS, "adapters/00_tone/weights.safetensors", True, False),
        (Topic.TEMPLATE, "in the weights", False, False),
        (Topic.FILES, "README.md", True, False),
        (Topic.FILES, "notes.txt", False, True),
    ]


def test_a_version_that_cannot_be_served_is_compared_by_its_files():
    old = side({"model.safetensors": Pointer("a" * 64, 10)}, None)
    new = side({"model.safetensors": Pointer("b" * 64, 10)}, None)
    assert [(d.topic, d.name) for d in compare(old, new).differences] == [
        (Topic.WEIGHTS, "model.safetensors")
    ]


def test_what_weights_that_are_not_here_would_say_is_no_difference():
    files: dict[str, str | Pointer] = {"model.gguf": Pointer("a" * 64, 10)}
    assert rows(side(files, FACTS), side(files, None)) == []


def test_a_manifest_and_scores_that_cannot_be_read_do_not_stop_the_comparison():
    old = side({"manifest.toml": "[[[", "evals/a.json": "{"})
    new = side({"manifest.toml": MANIFEST, "evals/a.json": "[" * 100_000})
    assert [(d.topic, d.name) for d in compare(old, new).differences] == [
        (Topic.SAMPLING, "temperature"),
        (Topic.LICENCE, "in the manifest"),
        (Topic.EVALS, "evals/a.json"),
    ]
