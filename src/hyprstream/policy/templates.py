"""Built-in sets of rules that can be added to a policy. Knows their files; knows no policy in force.

A template stands between two comment lines with its name, so that adding it twice changes nothing.
"""

from importlib import resources

from hyprstream.core.errors import NotFound

NAMES = ("local", "public-inference", "public-read")


def names() -> tuple[str, ...]:
    """What there is."""
    return NAMES


def text(name: str) -> str:
    """The rules of one template.

    Raises:
        NotFound: there is none of this name.
    """
    if name not in NAMES:
        raise NotFound(
            f"there is no template {name!r}; there are {', '.join(NAMES)}",
            kind="template",
            hint="hyprstream policy list-templates",
        )
    return (resources.files("hyprstream.policy") / "templates" / f"{name}.csv").read_text("utf-8")


def apply(policy: str, name: str) -> str:
    """`policy` with a template's rules at its end; unchanged if it has them.

    Raises:
        NotFound: there is no such template.
    """
    block = f"# template {name}: begin\n{text(name)}# template {name}: end\n"
    if block in policy:
        return policy
    gap = "" if not policy else "\n" if policy.endswith("\n") else "\n\n"
    return policy + gap + block
