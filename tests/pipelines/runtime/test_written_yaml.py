"""What is written as YAML is read back as the same values: by our strict reader, and by PyYAML, which follows 1.1."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipelines.config import strict_yaml
from pipelines.runtime import written_yaml

NUMBERS = """2e3 1_000 0x1f 0o17 010 1:30 12:30:45 .5 5. .inf -.INF .nan +1 -0 0b101 1e400 2024-01-31 1,000
2024-01-31T10:00:00Z"""
OTHERS = (
    "yes No ON off y n true FALSE null Null ~ << = - -- --- ... ? : :a a: [a] {a} #a !a !!str &a *a %a @a `a | > |- \\"
)
SPACES = " ,  a,a ,a #b,a: b,- a,a\nb,a\n,\na,a\tb,\t,\x85,\u2028,\ufeffa,\x07,',\","
ODD = [*NUMBERS.split(), *OTHERS.split(), *SPACES.split(",")]
TEXT = st.one_of(
    st.sampled_from(ODD),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    st.text("0123456789+-._eExXobn:, #%'\"~TZ", max_size=20),
)
SCALAR = TEXT | st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False)


@given(value=st.lists(SCALAR, max_size=4) | st.dictionaries(st.text("abc", min_size=1), SCALAR, max_size=4))
def test_values_are_read_back_as_they_were(value: object) -> None:
    for document in ({"key": value}, {"key": [value]}):
        text = written_yaml.dump(document)
        assert strict_yaml.parse(text) == document
        assert yaml.safe_load(text) == document
        line = written_yaml.dump(document, on_one_line=True)
        assert "\n" not in line.strip()
        assert strict_yaml.parse(line) == document


@pytest.mark.parametrize("text", ODD)
def test_text_stays_text(text: str) -> None:
    for document in ({"key": text}, [text], text):
        assert strict_yaml.parse(written_yaml.dump(document)) == document
