"""The tables of the pgvector index, as SQL; migrations run it, nothing else does.

One table holds every collection, so that migrations own the schema and a new collection is a row. Its HNSW index is
partial, one per collection, made when the collection is opened: a shared graph would walk through the vectors of others
and can have but one dimension. The foreign key over the generated column makes the database itself refuse a vector of
another dimension. The index on the attributes is for rare filters: few rows pass, and reading just those is exact.
"""

from typing import Final

UPGRADE_SQL: Final = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE vector_collections (
    name text PRIMARY KEY,
    dimension integer NOT NULL CHECK (dimension BETWEEN 1 AND 4000),
    UNIQUE (name, dimension)
);
CREATE TABLE vector_items (
    collection text NOT NULL,
    id text NOT NULL,
    embedding halfvec NOT NULL,
    dimension integer GENERATED ALWAYS AS (vector_dims(embedding)) STORED,
    attributes jsonb NOT NULL,
    PRIMARY KEY (collection, id),
    FOREIGN KEY (collection, dimension) REFERENCES vector_collections (name, dimension)
);
CREATE INDEX vector_items_attributes ON vector_items USING gin (attributes jsonb_path_ops);
"""

DOWNGRADE_SQL: Final = """
DROP TABLE vector_items;
DROP TABLE vector_collections;
"""
