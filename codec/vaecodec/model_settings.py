"""Read what sentence-transformers keeps beside an embedding model: how it makes one vector of a text."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaecodec.errors import InvalidArtifactError
from vaecodec.files.stored_json import parse_json, parse_object
from vaecodec.fused import Pooling

# Names of the prompt of documents, in the order in which sentence-transformers looks for them.
_DOCUMENTS = ("document", "passage", "corpus")
_MOST_TOKENS = 2**31


@dataclass(frozen=True)
class ModelSettings:
    """Hold what ``modules.json`` and the files that it names say.

    Attributes:
        pooling: how the vectors of a text's tokens become one; None where the files do not say, or name another way.
        pools_prompt: whether the tokens of a prompt count in it.
        normalise: whether vectors are normalised at the end.
        dense: whether a dense layer follows that the graph may not hold.
        max_tokens: what is longer is cut off; None where the files do not say.
        prompt: what is put before a document; empty for nothing.
        query_prompt: the same before a query.
    """

    pooling: Pooling | None
    pools_prompt: bool
    normalise: bool
    dense: bool
    max_tokens: int | None
    prompt: str
    query_prompt: str

    @classmethod
    def beside(cls, model: str | os.PathLike[str]) -> ModelSettings | None:
        """Read ``modules.json`` in the folder of a model, or in the folder above it; None where there is none.

        Raises:
            InvalidArtifactError: one of the files is damaged.
        """
        own = Path(model).absolute().parent
        for folder in (own, own.parent):
            try:
                modules = (folder / "modules.json").read_bytes()
            except FileNotFoundError:
                continue
            try:
                return cls._read(folder, parse_json(modules))
            except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
                raise InvalidArtifactError(
                    f"{folder}: expected modules.json and the files it names as sentence-transformers writes them, "
                    f"got {error!r}"
                ) from error
        return None

    @classmethod
    def _read(cls, folder: Path, modules: Any) -> ModelSettings:
        paths = {str(module["type"]).rpartition(".")[2]: folder / module["path"] for module in modules}
        pooling = _object(paths["Pooling"] / "config.json") if "Pooling" in paths else {}
        transformer = _object(paths.get("Transformer", folder) / "sentence_bert_config.json")
        prompts = _object(folder / "config_sentence_transformers.json")
        return cls(
            pooling=_pooling(pooling),
            pools_prompt=pooling.get("include_prompt", True) is not False,
            normalise="Normalize" in paths,
            dense="Dense" in paths,
            max_tokens=_max_tokens(transformer.get("max_seq_length")),
            prompt=_prompt(prompts, _DOCUMENTS),
            query_prompt=_prompt(prompts, ("query",)),
        )


def chosen_pooling(
    model: str | os.PathLike[str], settings: ModelSettings | None, wanted: Pooling | None
) -> Pooling | None:
    """Return the pooling that was asked for, or else the one that the files beside the model name; None without either.

    Warns:
        UserWarning: the files name another one than was asked for.
    """
    found = None if settings is None else settings.pooling
    if wanted is not None and found is not None and wanted is not found:
        warnings.warn(
            f"{model}: modules.json beside the model names pooling {found}; pooling {wanted} is used, as asked",
            stacklevel=3,
        )
    return wanted or found


def _object(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty where there is no such file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    try:
        return parse_object(content)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _pooling(stored: Mapping[str, Any]) -> Pooling | None:
    names = {"pooling_mode_mean_tokens": Pooling.MEAN, "pooling_mode_cls_token": Pooling.CLS}
    if "pooling_mode" in stored:
        return {"mean": Pooling.MEAN, "cls": Pooling.CLS}.get(str(stored["pooling_mode"]))
    chosen = [name for name, value in stored.items() if name.startswith("pooling_mode_") and value]
    return names.get(chosen[0]) if len(chosen) == 1 else None


def _max_tokens(value: Any) -> int | None:
    if value is None or (type(value) is int and 0 < value < _MOST_TOKENS):
        return value
    raise ValueError(f"sentence_bert_config.json: expected a positive max_seq_length, got {value!r}")


def _prompt(stored: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """Return the first prompt of some names that is not empty; newer versions write empty ones beside it."""
    prompts = stored.get("prompts") or {}
    prompt = next((prompts[name] for name in names if prompts.get(name)), "")
    if not isinstance(prompt, str):
        raise TypeError(f"config_sentence_transformers.json: expected texts as prompts, got {prompt!r}")
    return prompt
