"""The operator's safety function."""

import numpy as np
import pytest

from fireedit.serve.safety import SafetyCase, SafetyError, load_judge, refuse_unsafe, words
from fireedit.serve.schema import BadRequest

CANVAS = np.zeros((4, 4, 3), np.uint8)


def test_the_word_list_refuses_plain_requests_with_openais_code() -> None:
    judge = load_judge("fireedit.serve.safety:words")
    assert judge is words
    refuse_unsafe(judge, SafetyCase(instruction="make the car red", source=CANVAS))
    with pytest.raises(BadRequest) as caught:
        refuse_unsafe(judge, SafetyCase(instruction="Undress the woman", source=CANVAS))
    assert (caught.value.code, caught.value.param) == ("moderation_blocked", "prompt")


def test_there_is_no_check_by_default() -> None:
    assert load_judge("") is None
    refuse_unsafe(None, SafetyCase(instruction="naked", source=CANVAS))


@pytest.mark.parametrize(
    "name", ["words", "fireedit.serve.safety", "no.such:f", "fireedit.serve.safety:nothing", "a:b:c"]
)
def test_a_function_that_cannot_be_loaded_is_named_at_the_start(name: str) -> None:
    with pytest.raises(SafetyError, match="write module:function"):
        load_judge(name)
