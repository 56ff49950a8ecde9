"""Which passes go before lowering."""

import pytest

from jitinfer.errors import PassError
from jitinfer.lowering.arrangement import arranged
from jitinfer.passes import default


def test_weights_are_transposed_before_the_prologue():
    names = arranged(default(), "float32")
    assert names.index("transpose_weights") + 1 == names.index("weight_prologue")
    assert [name for name in names if name not in ("transpose_weights", "channels_last")] == default()


def test_images_are_turned_at_last():
    assert arranged(default(), "bfloat16")[-1] == "channels_last"


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_weights_are_cast_in_the_prologue(precision):
    names = arranged(default(), precision)
    first, second, third = names[names.index("weight_prologue") - 2 :][:3]
    assert (first, second, third) == ("transpose_weights", f"convert_to_{precision}", "weight_prologue")


def test_a_list_without_a_prologue():
    assert arranged(["simplify"], "float32") == ["simplify", "transpose_weights", "channels_last"]


def test_other_precisions_are_refused():
    with pytest.raises(PassError, match="int8"):
        arranged(default(), "int8")
