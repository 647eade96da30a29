"""`suite shape`: what it finds is valid, counted right, near, and ready to train."""

from __future__ import annotations

import json

import pytest
import tomli
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import call
from suite.base.config import validate
from suite.base.errors import ConfigError
from suite.models.build import build, num_parameters
from suite.models.config import LlamaConfig, MambaConfig
from suite.models.shapes import near

KINDS = {"llama": LlamaConfig, "mamba": MambaConfig}


@settings(max_examples=4, deadline=None)
@given(
    st.sampled_from(["llama", "mamba"]),
    st.floats(5.2, 7).map(lambda digits: round(10**digits)),
    st.sampled_from([256, 512, 4096]),
    st.sampled_from([None, True, False]),
)
def test_shapes_are_valid_near_and_counted_right(arch, params, vocab_size, tied):
    found = near(arch, params, vocab_size, tied, 3)
    assert abs(found[0].deviation) < 0.03 and found == sorted(found, key=lambda shape: shape.cost)
    assert len({(shape.config.hidden_size, shape.config.num_hidden_layers) for shape in found}) == len(found)
    for shape in found:
        assert validate(KINDS[arch], shape.config.model_dump(exclude_none=True)) == shape.config
        counts = num_parameters(build(shape.config, vocab_size, "meta"))
        assert (counts["total"], counts["without_embeddings"]) == (
            shape.parameters,
            shape.parameters_without_embeddings,
        )
        assert shape.deviation == shape.parameters / params - 1
        assert tied is None or shape.config.tie_word_embeddings == tied
        assert 4 <= shape.config.hidden_size / shape.config.num_hidden_layers <= 257


def test_the_best_is_printed_as_toml():
    text = call("shape", "--arch", "mamba", "--params", "250k", "--vocab", "4096", "--untied")
    table = tomli.loads(text[text.index("[model]") :])
    config = validate(MambaConfig, table["model"])
    assert not config.tie_word_embeddings
    [best, *others] = json.loads(
        call("shape", "--arch", "mamba", "--params", "0.25M", "--vocab", "4096", "--untied", "--json", "--top", "3")
    )
    assert best["model"] == table["model"] and len(others) <= 2
    assert num_parameters(build(config, 4096, "meta"))["total"] == best["parameters"]


def test_what_cannot_be_is_said():
    with pytest.raises(ConfigError, match=r"no sane llama of 100 parameters with a vocabulary of 4,096.*--vocab"):
        call("shape", "--params", "100")
    with pytest.raises(ConfigError, match=r"--params: '1\.2\.3m' is not a number such as"):
        call("shape", "--params", "1.2.3m")
    with pytest.raises(ConfigError, match=r"--arch: 'rnn' is not one of"):
        call("shape", "--params", "1m", "--arch", "rnn")
