"""Test Django's field on a real server: models, migrations' SQL, distances and identity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("django", reason="the extra django is not installed")
from django.apps import apps
from django.core.exceptions import ValidationError
from django.db import models
from django.db.migrations.writer import MigrationWriter

from vaecodec import Codec
from vaecodec.errors import BadRowsError, CodecMismatchError
from vaecodec.evaluation import exact_search
from vaecodec.interface import Metric
from vaecodec_integrations.postgres.django import CompressedVectorField, LatentDistance, OriginalVectorField


def new_model(path: Any, name: str, storage: str = "vector") -> type[models.Model]:
    """Make a model over the table ``docs``."""
    apps.all_models["vaecodec_tests"].pop(name.lower(), None)
    meta = type("Meta", (), {"app_label": "vaecodec_tests", "db_table": "docs"})
    fields = {
        "__module__": __name__,
        "Meta": meta,
        "id": models.IntegerField(primary_key=True),
        "embedding": CompressedVectorField(codec=path, storage=storage, null=True),
    }
    return type(name, (models.Model,), fields)


def create(database: Any, model: type[models.Model]) -> None:
    with database.schema_editor() as editor:
        editor.create_model(model)


@pytest.mark.parametrize("storage", ["vector", "halfvec", "bit"])
def test_models_save_search_and_load(database, base, sample, vae_path, vae_codec: Codec, storage: str) -> None:
    doc: Any = new_model(vae_path, "Doc", storage)
    create(database, doc)
    doc.objects.bulk_create([doc(id=row, embedding=vector) for row, vector in enumerate(base)])
    doc.objects.create(id=9999, embedding=None)
    nearest = [
        row.id for row in doc.objects.exclude(embedding=None).order_by(LatentDistance("embedding", base[7]))[:10]
    ]
    expected, _ = exact_search(base, base[7:8], 100, Metric.COSINE)
    assert nearest[0] == 7
    assert len(set(nearest) & set(expected[0])) >= 6
    codes: dict[str, Any] = {"dtype": "binary"} if storage == "bit" else {}
    restored = vae_codec.decode(vae_codec.encode(base[7:8], **codes), **codes)[0]
    np.testing.assert_allclose(doc.objects.get(id=7).embedding, restored, atol=2e-2)
    assert doc.objects.get(id=9999).embedding is None


def test_vectors_are_dumped_and_loaded_as_they_were(database, base, vae_path) -> None:
    name = "Dumped"
    apps.all_models["vaecodec_tests"].pop(name.lower(), None)
    fields = {
        "__module__": __name__,
        "Meta": type("Meta", (), {"app_label": "vaecodec_tests", "db_table": "docs"}),
        "id": models.IntegerField(primary_key=True),
        "embedding": CompressedVectorField(codec=vae_path, null=True),
        "original": OriginalVectorField(codec=vae_path, null=True),
    }
    doc: Any = type(name, (models.Model,), fields)
    create(database, doc)
    doc(id=0, embedding=base[0], original=base[0]).full_clean()
    doc.objects.create(id=1, embedding=base[1], original=base[1])
    doc.objects.create(id=2)
    for row in doc.objects.all():
        for field in doc._meta.fields[1:]:
            value = field.value_from_object(row)
            if value is not None:
                np.testing.assert_array_equal(field.to_python(field.value_to_string(row)), value)
    with pytest.raises(ValidationError, match="expected a list of numbers, got 'words'"):
        doc(id=3, embedding="words").full_clean()


def test_the_first_statement_refuses_another_codec(database, base, vae_path, other_codec_path) -> None:
    doc: Any = new_model(vae_path, "Doc")
    create(database, doc)
    doc.objects.create(id=1, embedding=base[1])
    other: Any = new_model(other_codec_path, "Other")
    with pytest.raises(CodecMismatchError, match="open it with the codec that filled it"):
        other.objects.create(id=2, embedding=base[2])
    with pytest.raises(CodecMismatchError, match="open it with the codec that filled it"):
        list(other.objects.order_by(LatentDistance("embedding", base[1])))
    with pytest.raises(CodecMismatchError, match="open it with the codec that filled it"):
        list(other.objects.all())
    assert doc.objects.count() == 1


def test_each_model_of_an_abstract_one_is_checked(database, base, vae_path, other_codec_path) -> None:
    for name in ("first", "second", "other"):
        apps.all_models["vaecodec_tests"].pop(name, None)

    def fields(table: str, **others: Any) -> dict[str, Any]:
        options = {"app_label": "vaecodec_tests", "db_table": table, "abstract": not table}
        return {"__module__": __name__, "Meta": type("Meta", (), options), **others}

    field = CompressedVectorField(codec=vae_path, null=True)
    abstract = type("Abstract", (models.Model,), fields("", embedding=field))
    first: Any = type("First", (abstract,), fields("docs"))
    second: Any = type("Second", (abstract,), fields("others"))
    create(database, first)
    create(
        database,
        type(
            "Other",
            (models.Model,),
            fields("others", embedding=CompressedVectorField(codec=other_codec_path, null=True)),
        ),
    )
    first.objects.create(embedding=base[1])
    with pytest.raises(CodecMismatchError, match=r"others\.embedding: expected"):
        second.objects.create(embedding=base[1])


def test_a_migration_names_the_codec_and_the_type(vae_path, vae_codec: Codec) -> None:
    field = CompressedVectorField(codec=vae_path, storage="halfvec")
    text, imports = MigrationWriter.serialize(field)
    assert str(vae_path) in text
    assert "storage='halfvec'" in text
    assert vae_codec.codec_id in text
    assert imports == {"import vaecodec_integrations.postgres.django"}


def test_a_bad_vector_is_refused(database, base, vae_path) -> None:
    doc: Any = new_model(vae_path, "Doc")
    create(database, doc)
    with pytest.raises(BadRowsError, match="row 0"):
        doc.objects.create(id=1, embedding=np.full(384, np.nan))
    assert doc.objects.count() == 0
