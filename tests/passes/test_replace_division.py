import pytest


def test_by_a_power_of_two(apply):
    outcome = apply(
        "replace-division", "input %x: f32[N,2]\nconst %c: f32[2] = [8, -0.5]\n%y = div(%x, %c)\noutput y = %y"
    )
    assert outcome.changed
    assert outcome.equals(
        "input %x: f32[N,2]\nconst %c.reciprocal: f32[2] = [0.125, -2]\n%y = mul(%x, %c.reciprocal)\noutput y = %y"
    )


def test_by_a_number(apply):
    outcome = apply("replace-division", "input %x: f32[N,2]\nconst %c: f32[] = [3]\n%y = div(%x, %c)\noutput y = %y")
    assert outcome.ops == ["mul"]


@pytest.mark.parametrize("divisor", ["0.0", "1e38", "1e-45"])
def test_divisors_whose_reciprocal_loses_digits(apply, divisor):
    outcome = apply(
        "replace-division",
        f"input %x: f32[N,2]\nconst %c: f32[2] = [2.0, {divisor}]\n%y = div(%x, %c)\noutput y = %y",
    )
    assert not outcome.changed
    assert outcome.remarks == ["y: its divisor %c has an element whose reciprocal is no normal float32"]


def test_a_constant_dividend(apply):
    outcome = apply("replace-division", "input %x: f32[N,2]\nconst %c: f32[] = [3]\n%y = div(%c, %x)\noutput y = %y")
    assert not outcome.changed
