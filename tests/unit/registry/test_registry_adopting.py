"""Models of the first layout become repositories the first time the registry is opened, and no byte of them is lost."""

from pathlib import Path

import pytest

from hyprstream.core.refs import ModelRef
from hyprstream.registry.registry import Registry
from support.first_layout import write_model
from support.registries import SHA256, TINY, another, messages, shards, worktree


def test_every_model_is_adopted_with_its_bytes_and_its_source(tmp_path: Path) -> None:
    models = tmp_path / "models"
    old = write_model(models, "tiny", "main", {"model.gguf": TINY})
    inode = (old / "model.gguf").stat().st_ino
    write_model(models, "tiny", "lora/a", {"model.gguf": another(2)})
    write_model(models, "split", "main", shards())

    registry = Registry(models)

    assert [str(model.ref) for model in registry.list()] == ["split", "tiny:lora/a", "tiny"]
    model = registry.resolve(ModelRef("tiny"))
    assert (model.sha256, model.source) == (SHA256, "a test")
    assert Path(model.path).stat().st_ino == inode, "no byte was copied"
    assert Path(registry.resolve(ModelRef("split")).path).name == "Tiny-00001-of-00002.gguf"
    assert not list(models.rglob("manifest.json"))
    assert not (models / ".adopting").exists()
    assert len(messages(registry)) == 3


def test_a_second_opening_finds_nothing_to_do(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "tiny", "main", {"model.gguf": TINY})
    first = Registry(tmp_path / "models").list()

    again = Registry(tmp_path / "models")

    assert again.list() == first
    assert len(again.log()) == 1


def test_a_model_that_cannot_be_adopted_stays_where_it_can_be_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models = tmp_path / "models"
    write_model(models, "bad", "main", {"model.gguf": b"not a model"})
    write_model(models, "unreadable", "main", {"model.gguf": TINY})
    (models / "unreadable" / "main" / "manifest.json").write_text("[" * 100_000)
    write_model(models, "tiny", "main", {"model.gguf": TINY})

    registry = Registry(models)

    assert registry.names() == ["tiny"]
    kept = models / ".adopting"
    assert (kept / "unreadable" / "main" / "model.gguf").read_bytes() == TINY
    assert b"not a model" in [path.read_bytes() for path in models.rglob("*") if path.is_file()]
    assert caplog.text.count("is left where it is") == 2


def test_a_model_half_adopted_is_adopted_whole(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_model(models / ".adopting", "tiny", "main", {"model.gguf": TINY})
    staged = models / ".incoming" / "tiny@main"
    staged.mkdir(parents=True)
    (models / ".adopting" / "tiny" / "main" / "model.gguf").rename(staged / SHA256)

    registry = Registry(models)

    assert registry.resolve(ModelRef("tiny")).sha256 == SHA256
    assert (worktree(registry, "tiny") / "model.gguf").read_bytes() == TINY
    assert not (models / ".adopting").exists()


def test_a_directory_that_is_no_model_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "models" / "notes").mkdir(parents=True)
    (tmp_path / "models" / "notes" / "a.txt").write_text("mine")

    assert Registry(tmp_path / "models").list() == []
    assert (tmp_path / "models" / "notes" / "a.txt").read_text() == "mine"
    assert not (tmp_path / "models" / ".registry").exists()
