"""Pass specifications, both ways."""

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompiler import pass_record
from qcompiler.errors import UsageError
from qcompiler.ir import Graph
from qcompiler.pass_manager import (
    Pass,
    PassContext,
    describe_options,
    format_pass,
    format_pipeline,
    load_passes,
    parse_pipeline,
    register_pass,
)


class Rounding(enum.StrEnum):
    UP = "half-up"
    EVEN = "half-even"


@dataclass(frozen=True)
class Tune(Pass):
    """Has options of every type."""

    name: ClassVar[str] = "tune"
    max_users: int = 1
    ratio: float = 0.5
    exact: bool = False
    label: str = ""
    method: Literal["minmax", "mse"] = "minmax"
    rounding: Rounding = Rounding.UP
    limit: int | None = None
    hint: str | None = None
    keys: tuple[str, ...] = ()
    window: tuple[int, float] = (1, 2.0)

    def run(self, graph: Graph, context: PassContext) -> bool:
        del graph, context
        return False


@dataclass(frozen=True)
class Required(Pass):
    """Has an option without default."""

    name: ClassVar[str] = "required"
    target_bits: int

    def run(self, graph: Graph, context: PassContext) -> bool:
        del graph, context
        return False


@pytest.fixture(autouse=True, scope="module")
def registry() -> Iterator[None]:
    load_passes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pass_record, "_REGISTRY", dict(pass_record._REGISTRY))
        register_pass(Tune)
        register_pass(Required)
        yield


tunes = st.builds(
    Tune,
    max_users=st.integers(),
    ratio=st.floats(allow_nan=False),
    exact=st.booleans(),
    label=st.text(max_size=5) | st.sampled_from(["none", "true", "1", "nan", "a b", 'a"', "a,b}"]),
    method=st.sampled_from(["minmax", "mse"]),
    rounding=st.sampled_from(Rounding),
    limit=st.none() | st.integers(),
    hint=st.none() | st.text(max_size=3) | st.just("none"),
    keys=st.lists(st.text(max_size=3), max_size=3).map(tuple),
    window=st.tuples(st.integers(), st.floats(allow_nan=False)),
)


@given(st.lists(tunes, max_size=3))
def test_parse_inverts_format(passes: list[Tune]):
    assert parse_pipeline(format_pipeline(passes)) == passes


def test_a_specification_shows_what_differs_from_the_defaults():
    assert format_pass(Tune()) == "tune"
    spec = 'tune{max-users=3,exact=true,label="a b",method=mse,rounding=half-even,limit=7,keys=[x,"y,z"]}'
    (parsed,) = parse_pipeline(spec)
    assert parsed == Tune(
        max_users=3, exact=True, label="a b", method="mse", rounding=Rounding.EVEN, limit=7, keys=("x", "y,z")
    )
    assert format_pass(parsed) == spec
    assert format_pass(Required(8)) == "required{target-bits=8}"


def test_white_space_means_nothing():
    assert parse_pipeline(" tune { max-users = 3 , keys = [ a , b ] } ,\n dead-code{} ") == [
        Tune(3, keys=("a", "b")),
        *parse_pipeline("dead-code"),
    ]
    assert parse_pipeline("  ") == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tume", "there is no pass named 'tume'; `qcompile passes` lists them; did you mean 'tune'?"),
        ("tune{max-user=1}", "pass tune has no option 'max-user'; it has max-users, ratio,"),
        ("dead-code{x=1}", "pass dead-code has no option 'x'; it has no options"),
        ("tune{max-users=1,max-users=2}", "pass tune: option 'max-users' is given twice"),
        ("tune{max-users=x}", "pass tune: option max-users=x does not fit, expected int"),
        ("tune{max-users=1.5}", "option max-users=1.5 does not fit, expected int"),
        ('tune{max-users="1"}', 'option max-users="1" does not fit, expected int'),
        ("tune{exact=yes}", "option exact=yes does not fit, expected bool"),
        ("tune{method=kl}", "option method=kl does not fit, expected minmax|mse"),
        ("tune{rounding=up}", "option rounding=up does not fit, expected half-up|half-even"),
        ("tune{limit=x}", "option limit=x does not fit, expected int or none"),
        ("tune{keys=x}", "option keys=x does not fit, expected list of str"),
        ("tune{label=[x]}", "option label=[x] does not fit, expected str"),
        ("tune{window=[1]}", "option window=[1] does not fit, expected [int, float]"),
        ("required", "pass required needs the option 'target-bits': required{target-bits=...}"),
        ("tune{", "character 6: expected an option name, found the end"),
        ("tune{exact", "character 11: expected '=', found the end"),
        ("tune{exact=", "character 12: expected a value, found the end"),
        ("tune{exact=true", "character 16: expected '}', found the end"),
        ('tune{label="\\q"}', 'character 12: "\\q" is not a valid string'),
        ("tune,", "character 6: expected a pass name, found the end"),
        ("tune tune", "character 5: expected ',' or the end, found 'tune'"),
        (",tune", "character 1: expected a pass name, found ',tune'"),
    ],
)
def test_errors(spec: str, message: str):
    with pytest.raises(UsageError, match=re.escape(message)):
        parse_pipeline(spec)


@given(st.text(alphabet='tune{}[],="x-1 ', max_size=20))
def test_any_text_is_a_pipeline_or_a_usage_error(text: str):
    try:
        passes = parse_pipeline(text)
    except UsageError:
        return
    assert parse_pipeline(format_pipeline(passes)) == passes


def test_options_are_described():
    assert describe_options(Tune) == (
        'max-users: int = 1, ratio: float = 0.5, exact: bool = false, label: str = "", method: minmax|mse = minmax, '
        "rounding: half-up|half-even = half-up, limit: int or none = none, hint: str or none = none, "
        "keys: list of str = [], window: [int, float] = [1,2.0]"
    )
    assert describe_options(Required) == "target-bits: int"
