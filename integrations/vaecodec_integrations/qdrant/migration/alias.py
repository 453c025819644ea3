"""Point an alias at the compressed collection, and point it back."""

from __future__ import annotations

from qdrant_client import QdrantClient, models

from vaecodec.errors import MigrationError
from vaecodec_integrations.qdrant.connection import collection_info, refusals
from vaecodec_integrations.qdrant.identity import metadata_key
from vaecodec_integrations.qdrant.layout import dense_params
from vaecodec_integrations.qdrant.migration.target import MIGRATION_KEY, migration_record


def check_alias(client: QdrantClient, collection: str, into: str | None, alias: str) -> None:
    """Check whether the alias could be pointed at the target. It costs nothing, so do it before the work.

    Args:
        client: the uncompressed client.
        collection: the source.
        into: the target.
        alias: what applications search by.

    Raises:
        MigrationError: the migration adds a vector to the source, so there is nothing to switch to; a collection bears
            the alias's name; the alias serves a collection that this migration has nothing to do with; or another
            alias was switched to the target already, and a rollback remembers one.
    """
    if into is None:
        raise MigrationError("alias: expected a migration into a new collection, got one into a named vector")
    collections = {description.name for description in client.get_collections().collections}
    if alias in collections | {into}:
        raise MigrationError(
            f"alias: expected a name that no collection has, got {alias!r}; let the application use an alias, "
            f"or open {into!r} by its own name"
        )
    current = _alias_target(client, alias)
    if current not in (None, collection, into):
        raise MigrationError(
            f"alias: expected one that is free or points at {collection!r}, got {alias!r}, which points at "
            f"{current!r}; name another alias, or point this one at {collection!r} first"
        )
    switched = migration_record(client, into).get("alias") if into in collections else None
    if switched not in (None, alias) and _alias_target(client, switched) == into:
        raise MigrationError(
            f"alias: expected {switched!r}, which was switched to {into!r} already, got {alias!r}; roll back first, or "
            f"point {alias!r} at {into!r} yourself"
        )


def switch_alias(client: QdrantClient, collection: str, into: str | None, alias: str) -> None:
    """Point an alias at the target in one atomic step, and remember where it pointed.

    Args:
        client: the uncompressed client.
        collection: the source.
        into: the target.
        alias: what applications search by.

    Raises:
        MigrationError: as :func:`check_alias` does.
    """
    check_alias(client, collection, into, alias)
    assert into is not None
    previous = _alias_target(client, alias)
    record = migration_record(client, into)
    if previous != into:
        record = {"source": collection, "alias": alias, "previous": previous}
        client.update_collection(into, metadata={MIGRATION_KEY: record})
    client.update_collection_aliases(_pointing(alias, into, previous))
    # From now on others may write to the target. So it must never be synchronised with the source again.
    client.update_collection(into, metadata={MIGRATION_KEY: {**record, "switched": True}})


def roll_back(client: QdrantClient, collection: str, *, into: str | None = None, named: str | None = None) -> str:
    """Undo a migration; the source is left as it is.

    After ``into``, the alias points again where it did before the switch, atomically. The compressed collection
    stays, so that nothing written to it is lost. After ``named``, the added vector and its identity are removed.

    Args:
        client: the uncompressed client.
        collection: the source.
        into: the collection that the migration made; give exactly one of ``into`` and ``named``.
        named: the vector that the migration added.

    Returns:
        What was done, in one sentence.

    Raises:
        MigrationError: there is no such migration, or the alias was pointed elsewhere since; nothing is changed.
        StoreError: the server does not answer, refuses the key, or refuses a request.
    """
    if (into is None) == (named is None):
        raise MigrationError("into, named: expected the name of what the migration made, got both or none")
    with refusals(client):
        if named is not None:
            return _remove_vector(client, collection, named)
        assert into is not None
        return _point_back(client, collection, into)


def _point_back(client: QdrantClient, collection: str, into: str) -> str:
    record = migration_record(client, into)
    if record.get("source") != collection or "alias" not in record:
        raise MigrationError(f"collection {into!r}: expected a switch from {collection!r} to undo, got none")
    alias, previous = record["alias"], record.get("previous")
    current = _alias_target(client, alias)
    if current not in (into, previous):  # after an interrupted rollback it points at `previous`
        now = "points at nothing now" if current is None else f"points at {current!r} now"
        raise MigrationError(
            f"alias {alias!r}: expected it to point at {into!r}, but it {now}; nothing changed, "
            f"point it at {previous or collection!r} yourself to use it again"
        )
    client.update_collection_aliases(_pointing(alias, previous, current))
    client.update_collection(into, metadata={MIGRATION_KEY: {"source": collection, "switched": True}})
    where = f"points at {previous!r} again" if previous else "is removed, as there was none before"
    return f"The alias {alias!r} {where}; {into!r} is kept."


def _remove_vector(client: QdrantClient, collection: str, named: str) -> str:
    info = collection_info(client, collection)
    if metadata_key(named) not in (info.config.metadata or {}):
        raise MigrationError(f"collection {collection!r}: expected a compressed vector {named!r}, got none")
    if named in dense_params(info):
        client.delete_vector_name(collection, named)
    client.update_collection(collection, metadata={metadata_key(named): None})
    return f"Removed the vector {named!r} from {collection!r}."


def _alias_target(client: QdrantClient, alias: str) -> str | None:
    return next((a.collection_name for a in client.get_aliases().aliases if a.alias_name == alias), None)


def _pointing(alias: str, collection: str | None, current: str | None) -> list[models.AliasOperations]:
    """Return the operations that make an alias point at a collection, or at none; sent together they are atomic."""
    operations: list[models.AliasOperations] = []
    if current is not None:
        operations.append(models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)))
    if collection is not None:
        create = models.CreateAlias(collection_name=collection, alias_name=alias)
        operations.append(models.CreateAliasOperation(create_alias=create))
    return operations
