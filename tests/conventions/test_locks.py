"""The two lock files hold what they promise."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LOCKS = ("requirements.lock", "requirements-dev.lock")


def _pins(name: str) -> dict[str, str]:
    """Version and hashes of each package."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    return dict(re.findall(r"^([a-z0-9-]+)==(.*)$", text, re.MULTILINE))


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_is_pinned_with_its_hashes(name: str) -> None:
    pins = _pins(name)
    assert pins
    assert all("--hash=sha256:" in pin for pin in pins.values())


@pytest.mark.parametrize("name", LOCKS)
def test_no_place_to_fetch_from_is_written_down(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.search(r"https?://|file:/|index-url|find-links", text)


def test_the_development_lock_holds_the_other_one() -> None:
    run, development = map(_pins, LOCKS)
    assert {name: development[name].split()[0] for name in run} == {
        name: pin.split()[0] for name, pin in run.items()
    }


def test_what_the_project_needs_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[^a-z0-9-]", line)[0] for line in project["dependencies"]}
    assert needed <= set(_pins("requirements.lock"))
    extras = {
        re.split(r"[^a-z0-9-]", line)[0]
        for lines in project["optional-dependencies"].values()
        for line in lines
    }
    assert extras <= set(_pins("requirements-dev.lock"))
